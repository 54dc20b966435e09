"""The description of one task of an evaluation, as plain values that can be sent to other processes."""

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
    """The settings that all cells of a table have in common."""

    benchmark: str
    model: str
    schedule: str
    """SMOKE, or a schedule of the model (magicapture_core.schedules)."""
    pictures: int
    """Pictures of the composed prompt per cell."""
    edited_pictures: int
    """Pictures of each edited prompt per cell; 0: none."""
    other_people: int
    """Pictures of the prompt "a photo of a person" per cell, for language drift; 0: none."""
    held_out: int
    """The last photos of each person, this many, are not trained on; likeness is compared with them, too."""
    steps: int | None
    """Denoising steps; None: as the model suggests."""
    faces: FaceVariant
    """Which networks detect and recognise faces in training."""
    likeness: str
    """Name of the face recognition network in Eq. 7. `faces` selects it by the weight files that are present."""
    encoder: EncoderName
    """Which network scores style."""
    judged_by: tuple[str, ...]
    """Names of the scoring networks (`Judges.names`). Cells scored by others are scored again, from their pictures."""
    seed: int
    keep_runs: bool
    """Keep checkpoints and whole UNets of finished cells."""


@dataclass(frozen=True, order=True)
class Task:
    """Names one cell."""

    identity: str
    style: str
    method: str

    @property
    def pair(self) -> tuple[str, str]:
        """The person and the style."""
        return self.identity, self.style

    def folder(self, out: Path) -> Path:
        """The folder of its files."""
        return out / "cells" / self.identity / self.style / self.method

    def __str__(self) -> str:
        return f"{self.identity} × {self.style} × {self.method}"
