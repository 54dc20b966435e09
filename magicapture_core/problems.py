"""Errors that a user can correct. Their text is shown to the user without changes, in the user's language."""

from __future__ import annotations

import errno
import re
from typing import Any

from magicapture_core.languages import _, again


class Problem(ValueError):
    """A wrong or missing input of the user.

    `str(problem)` says what is wrong, what was expected, what was given and what to do, in the language that is spoken
    where it is called: a job's problem is read by whoever looks at the page then.
    """

    def __str__(self) -> str:
        return (
            again(self.args[0])
            if len(self.args) == 1 and isinstance(self.args[0], str)
            else super().__str__()
        )


class PhotoProblem(Problem):
    """A photo, or a set of photos, that cannot be used."""


class MissingFiles(Problem):
    """A model or weight file that is not on this computer and cannot be downloaded."""


class RunProblem(Problem):
    """A run that cannot be started, resumed or read, or whose numbers became invalid (NaN)."""


class OutOfMemory(RunProblem):
    """A run that did not fit into memory. `smaller`: settings that use less memory and do not change what is learned;
    the run can be resumed with them. It can be empty."""

    def __init__(self, text: str, smaller: dict[str, Any]) -> None:
        super().__init__(text)
        self.smaller = smaller


MEMORY = re.compile(
    r"out of memory"  # CUDA, HIP, XPU and MPS, from torch's allocators and from the drivers
    r"|(can't allocate|not enough) memory"  # torch's CPU allocator; the second on Windows
    r"|bad_alloc|bad allocation"  # C++ itself
    r"|_ALLOC_FAILED"  # cuBLAS and cuDNN
    r"|invalid buffer size"  # MPS, where a single tensor is too large
    r"|OUT_OF_(HOST_|DEVICE_)?(MEMORY|RESOURCES)",  # XPU's driver
    re.IGNORECASE,
)


def ran_out_of_memory(error: BaseException) -> bool:
    """Whether an error of torch or Python means that there was not enough memory, on any device.

    accelerate's `should_reduce_batch_size` knows fewer of these messages, and also accepts unsupported operations of
    cuDNN.
    """
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    return isinstance(error, RuntimeError) and MEMORY.search(str(error)) is not None


def forget_frames(error: BaseException) -> None:
    """Remove traceback and cause from an error that is stored.

    They would keep all local variables of the failed work in memory.
    """
    error.__traceback__ = error.__cause__ = error.__context__ = None


def as_problem(error: Exception) -> Problem | None:
    """The error as a Problem for the user; None if it is a fault of the program."""
    if isinstance(error, Problem):
        return error
    if ran_out_of_memory(error):
        return Problem(
            _(
                "Memory ran out. What was saved before is whole. Close other programs, or choose a smaller size or "
                "model, then try again."
            )
        )
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return Problem(
            _(
                "The disk is full. What was saved before is whole. Delete past trainings or other files, then try "
                "again."
            )
        )
    return None
