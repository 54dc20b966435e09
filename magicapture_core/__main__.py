"""Command line: python -m magicapture_core COMMAND; see COMMANDS.

Exit codes: 0 done, 1 bad input, 2 wrong use, 130 interrupted (training: and saved).
"""

from __future__ import annotations

import sys
from typing import Any

import tyro

from magicapture_core.commands.console import BAD_INPUT, INTERRUPTED, console, prepare_terminal, show_problem
from magicapture_core.commands.draft import Draft
from magicapture_core.commands.evaluate import Evaluate
from magicapture_core.commands.export import Export
from magicapture_core.commands.finish import Finish
from magicapture_core.commands.generate import Generate
from magicapture_core.commands.masks import Masks
from magicapture_core.commands.parsing import PROGRAM, parse
from magicapture_core.commands.sheet import Sheet
from magicapture_core.commands.train import Train
from magicapture_core.commands.upload import Upload
from magicapture_core.commands.weights import Weights
from magicapture_core.problems import Problem, as_problem, ran_out_of_memory

COMMANDS: dict[str, type] = {
    "masks": Masks, "draft": Draft, "train": Train, "generate": Generate, "evaluate": Evaluate, "export": Export,
    "upload": Upload, "finish": Finish, "sheet": Sheet, "weights": Weights,
}  # fmt: skip


def main(arguments: list[str] | None = None) -> int:
    """Run one command. Returns its exit code; wrong use leaves through SystemExit(2), as argparse does."""
    prepare_terminal()
    arguments = sys.argv[1:] if arguments is None else arguments
    arguments = ["--count" if argument == "-n" else argument for argument in arguments]
    try:
        command = _parse(arguments)
        if isinstance(
            command, Draft | Train | Generate
        ):  # they read them again, over what the model suggests
            return command.run(arguments[1:])
        return int(command.run())
    except Problem as problem:
        show_problem(str(problem))
    except OSError as error:
        show_problem(f"{error}. Check the path, its permissions and the disk.")
    except (MemoryError, RuntimeError) as error:
        if not ran_out_of_memory(error):
            raise
        show_problem(str(as_problem(error)))
    except KeyboardInterrupt:
        console.print("Interrupted.")
        return INTERRUPTED
    return BAD_INPUT


def _parse(arguments: list[str]) -> Any:
    chosen = COMMANDS.get(arguments[0]) if arguments else None
    if chosen is not None:  # parsed on its own, so that messages name its settings only
        return parse(chosen, arguments[1:])
    every: Any = Masks | Draft | Train | Generate | Evaluate | Export | Upload | Finish | Sheet | Weights
    description = "Portraits of a person in a style, from a few photos of each."
    return tyro.cli(every, args=arguments, prog=PROGRAM, description=description)


if __name__ == "__main__":
    sys.exit(main())
