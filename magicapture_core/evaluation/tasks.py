"""What one task of an evaluation is: plain values that travel to other processes. Imports nothing heavy."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

EncoderName = Literal["auto", "clip", "statistics"]
FaceVariant = Literal["auto", "bundled", "facexlib"]

SMOKE = "smoke"
"""A schedule of evaluations only: two steps a phase, to test that everything works."""


@dataclass(frozen=True)
class Setup:
    """What makes cells comparable; plain values, which travel to other processes."""

    benchmark: str
    model: str
    schedule: str
    """SMOKE, or a schedule of the model (magicapture_core.schedules)."""
    pictures: int
    """Of the composed prompt, per cell."""
    edited_pictures: int
    """Of each edited prompt, per cell; 0: none."""
    steps: int | None
    """Denoising steps; None: as the model suggests."""
    faces: FaceVariant
    """Which networks find and recognise faces in training."""
    likeness: str
    """Name of the one that recognises them, in Eq. 7: what `faces` comes to depends on the weight files at hand."""
    encoder: EncoderName
    """Who is asked to judge style."""
    judged_by: tuple[str, ...]
    """Names of the judges (`Judges.names`). Cells that others judged are judged again, from their pictures."""
    seed: int
    keep_runs: bool
    """Keep checkpoints and whole UNets of finished cells."""


@dataclass(frozen=True, order=True)
class Task:
    """Which cell."""

    identity: str
    style: str
    method: str

    def folder(self, out: Path) -> Path:
        """Where its files lie."""
        return out / "cells" / self.identity / self.style / self.method

    def __str__(self) -> str:
        return f"{self.identity} × {self.style} × {self.method}"
