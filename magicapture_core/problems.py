"""Errors that a user can mend. Their text is shown to the user as it is."""

from __future__ import annotations

import errno
import re
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
    """Whether an error of torch or Python says that memory did not suffice, on whatever device.

    accelerate's `should_reduce_batch_size` knows fewer of these sentences, and takes what cuDNN cannot do for one.
    """
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    return isinstance(error, RuntimeError) and MEMORY.search(str(error)) is not None


def forget_frames(error: BaseException) -> None:
    """Before an error is kept: its traceback and cause hold every local variable of the work that failed."""
    error.__traceback__ = error.__cause__ = error.__context__ = None


def as_problem(error: Exception) -> Problem | None:
    """The error as something to tell the user; None if it is a fault of the program."""
    if isinstance(error, Problem):
        return error
    if ran_out_of_memory(error):
        return Problem(
            "Memory ran out. What was saved before is whole. Close other programs, or choose a smaller size or "
            "model, then try again."
        )
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return Problem(
            "The disk is full. What was saved before is whole. Delete past trainings or other files, then try again."
        )
    return None
