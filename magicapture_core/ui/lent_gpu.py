"""A Space's lent GPU (ZeroGPU): the package `spaces` gives one for seconds at a time, in a process of its own.

So work there is done in slices. Each is a call in that process: it takes plain values, finds everything else on the
disk, and only its reports come back. Elsewhere `lent` gives None, and none of this is used.
"""

from __future__ import annotations

import importlib.util
import math
import re
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import gradio as gr
from gradio.context import LocalContext

from magicapture_core.gpu import lent_by_a_space
from magicapture_core.languages import N_, _, language, speaking
from magicapture_core.problems import Problem

SECONDS = 110
"""Asked for at a time at most; a visitor may be given 120, and a call that takes longer is cut off."""
LOADING = 30
"""Seconds of a loan for loading the models before, and for saving after the work. Not measured on ZeroGPU."""
STANDING = 15
"""The same where the model stands on the GPU already, and only the photos must be read. Not measured on ZeroGPU."""
LEAST = 5
"""Seconds of work for which a loan is still worth it, where a visitor has few left."""
LEFT = re.compile(r"(\d+)s left")
"""In the message with which `spaces` refuses a loan that is longer than what a visitor has left."""
WORKING = 0.9
"""Share of the rest of a loan in which a further step may begin."""
STEP = {"textual_inversion": 0.024, "lora": 0.097}
"""Seconds for one item of a training step at 512 pixels, by phase: measured on an H100 (docs/gpu.md)."""
DRAWING = 0.06
"""Seconds for one denoising step of one portrait, decoding and scoring included. A safe estimate, not measured."""
WORD = N_(
    "This Space lends its GPU for two minutes at a time, within a daily limit for each visitor: about 2 minutes "
    "without an account, 5 with a free one, 40 with PRO. Drafts take none of it, ten portraits less than one minute, "
    "a quick training of Stable Diffusion 1.5 three to four, the paper's about sixteen. A training goes on from one "
    "loan to the next and is saved in between; where the limit ends it, resume it the next day. For more, duplicate "
    "this Space with a GPU of its own."
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
    return lent_by_a_space() and bool(importlib.util.find_spec("spaces"))


def training_seconds(phases: Mapping[str, int], items: int, drawn: int = 0, *, standing: bool = False) -> int:
    """Seconds to ask for a training. phases: steps that are left, by phase; items: of each task in a step.

    drawn: denoising steps of the samples that are left. standing: whether the model is on the GPU when the loan begins.
    """
    return _asked(_training(phases, items, drawn), standing)


def training_quota(phases: Mapping[str, int], items: int, drawn: int = 0, *, standing: bool = False) -> int:
    """Seconds of a visitor's daily limit that a whole training takes, all its loans together. Arguments: as above."""
    working, quota = _training(phases, items, drawn), 0
    while working > 0:
        asked = _asked(working, standing)
        quota += asked
        if asked < SECONDS:
            break
        working -= WORKING * (asked - _beside(standing) / 3) - _beside(standing) * 2 / 3
    return quota


def _training(phases: Mapping[str, int], items: int, drawn: int) -> float:
    return sum(steps * items * STEP[phase] for phase, steps in phases.items()) + drawn * DRAWING


def drawing_seconds(count: int, steps: int, *, standing: bool = False) -> int:
    """Seconds to ask for `count` portraits of `steps` denoising steps each. standing: as above."""
    return _asked(count * steps * DRAWING, standing)


def portraits_at_once(steps: int, seconds: int | None = None, *, standing: bool = False) -> int:
    """How many portraits of `steps` denoising steps fit into a loan of `seconds`; one at least. standing: as above.

    seconds: None for as many as are asked for at most.
    """
    return max(1, int(((seconds or SECONDS) - _beside(standing)) / (steps * DRAWING)))


def _asked(working: float, standing: bool) -> int:
    return min(SECONDS, _beside(standing) + math.ceil(working))


def _beside(standing: bool) -> int:
    """Seconds of a loan that are not for the work."""
    return STANDING if standing else LOADING


_visitors: dict[str, gr.Request] = {}
"""Session id → the newest request of a visitor for whom something works."""


def remember_visitor(owner: str, works: bool) -> None:
    """Remember who calls now, if anything works for them. owner: the session's id.

    The header X-IP-Token of their request tells whose daily limit a loan counts to. It is valid for minutes only, and a
    training goes on for longer.
    """
    request = LocalContext.request.get(None)
    if works and request is not None and lending():
        _visitors[owner] = request  # type: ignore[assignment]
    else:
        _visitors.pop(owner, None)


def ask_in_the_name_of(owner: str) -> None:
    """From now on, in this context, loans are asked for by the newest request of this visitor."""
    if owner in _visitors:
        LocalContext.request.set(_visitors[owner])


def lent(task: Task) -> Task | None:
    """The generator function `task(flag, seconds, …)`, done on the GPU that is lent for so many seconds.

    None where none is lent. Call it before torch is imported.
    """
    if not lending():
        return None
    import spaces

    def telling(flag: str, seconds: int, code: str, *values: Any) -> Iterator[Any]:
        with speaking(code):  # the process may have worked for somebody else before
            try:
                yield from task(flag, seconds, *values)
            except Problem as problem:  # of an exception little more than its name may cross
                yield Failed(str(problem))

    def seconds_of(_flag: str, seconds: int, *_values: Any) -> int:
        return seconds

    done_there: Task = spaces.GPU(duration=seconds_of)(telling)
    return done_there


@dataclass(frozen=True)
class Failed:
    """The last report of work that failed: why, for the user."""

    problem: str


class Loan:
    """The job as the lent process sees it. It is to stop when the flag, a file, exists.

    seconds: for which the GPU is lent. standing: whether the model is on it.
    """

    def __init__(self, flag: str, seconds: int, *, standing: bool = False) -> None:
        # Most of the time beside the work is before it; what is left of it at the end is for saving.
        self._flag, self._until = Path(flag), time.monotonic() + WORKING * (seconds - _beside(standing) / 3)

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


def one_slice(task: Task, flag: Path, seconds: int, *values: Any, standing: bool = False) -> Iterator[Any]:
    """What a task from `lent` yields with these values. Closing this ends the lent process's step, and waits for it.

    A visitor who has fewer seconds left gets a loan of those. standing: as above.
    Raises Problem where the Space lends no GPU any more.
    """
    flag.unlink(missing_ok=True)
    fewer = None
    try:
        reports = task(str(flag), seconds, language(), *values)
        for report in reports:
            if isinstance(report, Failed):
                raise Problem(report.problem)
            try:
                yield report
            except GeneratorExit:
                flag.touch()
                for _report in reports:
                    pass
                raise
    except gr.Error as error:
        left = LEFT.search(str(error.message))
        if left and _beside(standing) + LEAST <= int(left[1]) < seconds:
            fewer = int(left[1])
        else:
            raise Problem(
                _(
                    "The Space's lent GPU gave up ({reason}). What was done is kept: go on later, or duplicate this "
                    "Space with a GPU of its own.",
                    reason=error.message,
                )
            ) from error
    finally:
        flag.unlink(missing_ok=True)
    if fewer is not None:
        yield from one_slice(task, flag, fewer, *values, standing=standing)
