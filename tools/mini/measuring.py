"""MediaPipe measures the first part of the faces, on all CPU cores, while the others are being made.

Its numbers are what the labeller learns from.
"""

from __future__ import annotations

import multiprocessing
import multiprocessing.pool
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from tools.mini.clock import RunClock
from tools.mini.faces import FACES
from tools.mini.measure import measure_face
from tools.mini.settings import Settings
from tools.mini.store import save_arrays

if TYPE_CHECKING:
    from magicapture_core.faces import FaceAnalyser

MEASURED = "measured.npz"
MASK_SIDE = 128
POINTS, BOX = slice(0, 10), slice(10, 14)
AGE, MASCULINE, SMILE, JAW = 14, 15, 16, 17
"""Places in the 18 numbers of a face: five points (x, y) and a box (xyxy) in pixels, years, 0..1 three times."""
NUMBERS = 18
CHUNK = 16
LEAST = 20.0
"""Seconds that it gets however late it is: without any measured face nothing else can run."""
Chunk = list[tuple[int, np.ndarray | None, np.ndarray | None]]
"""(face's number, its 18 numbers, its mask (128, 128) uint8); None where MediaPipe sees no single face."""

_shared: dict[str, Any] = {}


def workers(settings: Settings) -> int:
    """All cores; one for a try at toy size, where starting more takes longer than the work."""
    return 1 if settings.tiny else os.cpu_count() or 1


def pool(settings: Settings) -> multiprocessing.pool.Pool:
    """Processes that share no state with this one, which may hold a GPU."""
    return multiprocessing.get_context("spawn").Pool(workers(settings))


def _analyser(faces: Path) -> FaceAnalyser:
    if not _shared:
        import torch

        from magicapture_core.faces import choose_analyser

        torch.set_num_threads(1)
        cv2.setNumThreads(1)
        _shared["analyser"] = choose_analyser("bundled")[0]
        _shared["faces"] = np.load(faces, mmap_mode="r")
    return _shared["analyser"]


def _measure_chunk(path: Path, numbers: np.ndarray, deadline: float) -> Chunk:
    """What MediaPipe sees in the faces with these numbers; those after the deadline are left out."""
    analyser, found = _analyser(path), []
    for number in numbers:
        if time.time() > deadline:
            break
        seen = measure_face(analyser, np.ascontiguousarray(_shared["faces"][number]))
        if seen is None:
            found.append((int(number), None, None))
            continue
        row, mask = seen
        small = cv2.resize(mask, (MASK_SIDE, MASK_SIDE), interpolation=cv2.INTER_AREA)
        points = np.array(row["landmarks"], np.float32).reshape(-1)
        values = [*points, *row["box"], np.nan, np.nan, row["smile"], row["jaw"]]
        found.append((int(number), np.array(values, np.float32), np.round(small * 255).astype(np.uint8)))
    return found


class Measuring:
    """The measurement of the first `count` faces, running beside what else is done."""

    def __init__(self, settings: Settings, clock: RunClock, count: int) -> None:
        self.path, self.count, self.clock = settings.work / MEASURED, count, clock
        self._pool: multiprocessing.pool.Pool | None = None
        if self.path.exists():
            return
        self._pool = pool(settings)
        path, deadline = settings.work / FACES, max(clock.deadline("measured"), time.time() + LEAST)
        self._results = [
            self._pool.apply_async(_measure_chunk, (path, numbers, deadline))
            for numbers in np.array_split(np.arange(count), max(1, count // CHUNK))
        ]

    def finish(self) -> None:
        """Wait for it, and write measured.npz: numbers (count, 18) NaN where unknown, masks, `looked` (count,)."""
        if self._pool is None:
            return
        numbers = np.full((self.count, NUMBERS), np.nan, np.float32)
        masks = np.zeros((self.count, MASK_SIDE, MASK_SIDE), np.uint8)
        looked = np.zeros(self.count, bool)
        for result in self._results:
            for number, values, mask in result.get():
                looked[number] = True
                if values is not None and mask is not None:
                    numbers[number], masks[number] = values, mask
        self._pool.terminate()
        save_arrays(self.path, numbers=numbers, masks=masks, looked=looked)
        seen = ~np.isnan(numbers[:, 0])
        self.clock.say(f"MediaPipe looked at {looked.sum()} faces and sees one in {seen.sum()}")
