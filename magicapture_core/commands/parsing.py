"""How a command reads its arguments."""

from __future__ import annotations

from typing import Any, TypeVar

import tyro

PROGRAM = "python -m magicapture_core"

CommandT = TypeVar("CommandT")


def parse(command: type[CommandT], arguments: list[str], default: CommandT | None = None) -> CommandT:
    """The command with its arguments (those after its name). `default`: values of settings that are not given.

    Leaves through SystemExit(2) for wrong use, as argparse does. Messages and help name this command only.
    """
    start: dict[str, Any] = {} if default is None else {"default": default}
    return tyro.cli(command, args=arguments, prog=f"{PROGRAM} {command.__name__.lower()}", **start)
