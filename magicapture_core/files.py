"""Atomic writing: nobody ever reads half a file, even if the program was killed."""

from __future__ import annotations

import errno
import os
import re
import shutil
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from safetensors import SafetensorError

from magicapture_core.languages import _
from magicapture_core.problems import RunProblem

if TYPE_CHECKING:
    from torch import Tensor

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, 112)
"""What systems say when a disk, a quota or a file is full; the last is Windows'."""


def _beside(path: Path) -> Path:
    """A temporary path, unique for each call: two threads may write one file at the same time."""
    return path.with_name(f".{path.name}.{os.getpid()}-{threading.get_ident()}.tmp")


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; when the block ends well it takes the place of `path`."""
    temporary = _beside(path)
    try:
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            mode = _usual_mode(temporary)
            yield temporary
            temporary.chmod(mode)
            _flush(temporary)
            temporary.replace(path)
    finally:
        with suppress(OSError):  # the error of the block is the one to report
            temporary.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Yield a temporary folder beside `path`, which it becomes when the block ends well.

    An older folder of that name is replaced.
    """
    temporary = _beside(path)
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        with writing(path):
            temporary.mkdir(parents=True)
            mode = _usual_mode(temporary / ".mode")
            yield temporary
            for file in temporary.rglob("*"):
                if file.is_file():
                    file.chmod(mode)
                    _flush(file)
            if path.exists():
                shutil.rmtree(path)
            temporary.rename(path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn the operating system's errors while writing `path` into RunProblem; other errors are not changed."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        found = re.search(
            r"\(os error (\d+)\)", str(error)
        )  # safetensors puts the system's number into words
        number = error.errno if isinstance(error, OSError) else int(found[1]) if found else None
        reason = getattr(error, "strerror", None) or error
        raise RunProblem(
            _(
                "Could not write {path}: {reason}. What was saved before is whole. Free some disk space or choose "
                "another folder, then resume.",
                path=path,
                reason=reason,
            )
            if number in FULL
            else _(
                "Could not write {path}: {reason}. What was saved before is whole. Check that the folder is there and "
                "may be written to, or choose another one, then resume.",
                path=path,
                reason=reason,
            )
        ) from error


def _usual_mode(path: Path) -> int:
    """The permissions of a new file: safetensors makes files readable by their owner only, whatever the umask.

    Tried with an empty file: asking for the umask would change it for a moment, for every thread.
    """
    path.touch()
    mode = stat.S_IMODE(path.stat().st_mode)
    path.unlink()
    return mode


def _flush(path: Path) -> None:
    """Flush a file to the disk (fsync) before it gets its final name."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Learned weights from a .safetensors file. RunProblem where they are damaged, no floats or not finite."""
    # Late: torch takes seconds to import, and the page's first look needs this module.
    from safetensors.torch import load_file

    try:
        tensors = load_file(path)
        for name, tensor in tensors.items():
            if not (tensor.is_floating_point() and bool(tensor.isfinite().all())):
                raise ValueError(_("{name} holds what is no finite number", name=name))
    except (SafetensorError, OSError, ValueError) as error:
        raise RunProblem(
            _("{path} is damaged ({error}). Train the run again.", path=path, error=error)
        ) from error
    return tensors


def unused(path: Path) -> Path:
    """`path`, or the same with a number where a file of that name exists: nothing is overwritten."""
    number, free = 1, path
    while free.exists():
        number += 1
        free = path.with_stem(f"{path.stem}-{number}")
    return free
