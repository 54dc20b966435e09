"""Files of the work folder that are there whole or not at all: the other process, or the next start, reads them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor


def write_text(path: Path, text: str) -> None:
    part = _part(path)
    part.write_text(text)
    part.replace(path)


def save_array(path: Path, array: np.ndarray) -> None:
    """A .npy file."""
    part = _part(path)
    np.save(part, array)
    part.replace(path)


def save_arrays(path: Path, **arrays: np.ndarray) -> None:
    """A .npz file."""
    part = _part(path)
    np.savez(part, **arrays)
    part.replace(path)


def save_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """A .pt file."""
    part = _part(path)
    torch.save(dict(tensors), part)
    part.replace(path)


def _part(path: Path) -> Path:
    """Beside `path`, with its ending: numpy adds another one where it misses its own."""
    return path.with_name(f".part-{path.name}")
