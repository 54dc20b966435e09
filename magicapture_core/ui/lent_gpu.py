"""A Space's lent GPU (ZeroGPU): the package `spaces` gives one for seconds at a time, in a process of its own.

So work there is done in slices. Each is a call in that process: it takes plain values, finds everything else on the
disk, and only its reports come back. Elsewhere `lent` gives None, and none of this is used.
"""

from __future__ import annotations

import importlib.util
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import gradio as gr

from magicapture_core.problems import Problem

SECONDS = 110
"""Asked for at a time; a visitor may be given at most 120, and a call that takes longer is cut off."""
WORKING = 0.65
"""Share of them after which no further step begins: loading before and saving after take the rest."""
PORTRAITS_AT_ONCE = 4
WORD = (
    "This Space lends its GPU for two minutes at a time, within a daily limit for each visitor. A training goes on "
    "from one loan to the next and is saved in between; where the limit ends it, resume it the next day. For the "
    "whole paper's schedule, duplicate this Space with a GPU of its own."
)

Task = Callable[..., Iterator[Any]]


class Told(Protocol):
    """What the work must know of its job: a Job, or a Loan in the lent process."""

    @property
    def stopping(self) -> bool:
        """Whether to end now."""

    def say(self, text: str, share: float = 0.0) -> None:
        """Tell what is being done."""


def lending() -> bool:
    """Whether this is a Space whose GPU is lent."""
    return os.environ.get("SPACES_ZERO_GPU", "").lower() in ("1", "t", "true") and bool(
        importlib.util.find_spec("spaces")
    )


def lent(task: Task) -> Task | None:
    """The generator function, done on the lent GPU; None where none is lent. Call it before torch is imported."""
    if not lending():
        return None
    import spaces

    def telling(*values: Any) -> Iterator[Any]:
        try:
            yield from task(*values)
        except Problem as problem:  # of an exception little more than its name may cross
            yield Failed(str(problem))

    done_there: Task = spaces.GPU(duration=SECONDS)(telling)
    return done_there


@dataclass(frozen=True)
class Failed:
    """The last report of work that failed: why, for the user."""

    problem: str


class Loan:
    """The job as the lent process sees it. It is to stop when the flag, a file, exists."""

    def __init__(self, flag: str) -> None:
        self._flag, self._until = Path(flag), time.monotonic() + WORKING * SECONDS

    @property
    def stopping(self) -> bool:
        """Whether to end now."""
        return self._flag.exists()

    @property
    def over(self) -> bool:
        """Whether there is no time for a further step."""
        return time.monotonic() > self._until

    def say(self, text: str, share: float = 0.0) -> None:
        """Does nothing: the lent process cannot tell anything but reports."""


def one_slice(task: Task, flag: Path, *values: Any) -> Iterator[Any]:
    """What `task(flag, *values)` yields. Closing this lets the lent process end its step and save, and waits for it.

    Raises Problem where the Space lends no GPU any more.
    """
    flag.unlink(missing_ok=True)
    try:
        reports = task(str(flag), *values)
        for report in reports:
            if isinstance(report, Failed):
                raise Problem(report.problem)
            try:
                yield report
            except GeneratorExit:
                flag.touch()
                for _ in reports:
                    pass
                raise
    except gr.Error as error:
        raise Problem(
            f"The Space's lent GPU gave up ({error.message}). What was done is kept: go on later, or duplicate this "
            "Space with a GPU of its own."
        ) from error
    finally:
        flag.unlink(missing_ok=True)
