"""Errors that a user can mend. Their text is shown to the user as it is."""

from __future__ import annotations

import errno
from typing import Any


class Problem(ValueError):
    """Something the user gave or lacks. `str(problem)` says what, expected, got and what to do."""


class PhotoProblem(Problem):
    """A photo, or a set of photos, that cannot be used."""


class MissingFiles(Problem):
    """A model or weight file that is neither here nor to be had."""


class RunProblem(Problem):
    """A run that cannot be started, resumed or read, or that broke down (NaN)."""


class OutOfMemory(RunProblem):
    """A run that did not fit into memory. `smaller`: settings with which it may go on, learning the same; may be
    empty."""

    def __init__(self, text: str, smaller: dict[str, Any]) -> None:
        super().__init__(text)
        self.smaller = smaller


def as_problem(error: Exception) -> Problem | None:
    """The error as something to tell the user; None if it is a fault of the program."""
    if isinstance(error, Problem):
        return error
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return Problem(
            "The disk is full. What was saved before is whole. Delete past trainings or other files, then try again."
        )
    return None
