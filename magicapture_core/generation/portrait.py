"""The generated picture, with what is known about it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from magicapture_core.provenance import save_picture


@dataclass(eq=False)
class Portrait:
    """One generated picture and what is known about it."""

    image: Image.Image
    prompt: str
    """As the user wrote it, with {subject} and {style}."""
    seed: int
    identity: float | None
    """Cosine similarity to the subject by face recognition; None without a face, or for an object."""
    settings: dict[str, Any]
    """How it was made; plain JSON values."""
    attention: dict[str, np.ndarray] = field(default_factory=dict)
    """Where each asked word looked: word -> (side, side) float32 in [0, 1]."""
    warnings: tuple[str, ...] = ()
    nsfw: bool = False
    """Whether the model's safety checker blacked the picture out."""

    def save(self, path: Path | str, *, private: bool = False) -> None:
        """Write a PNG or JPEG marked as generated. private: without the prompt."""
        save_picture(
            self.image, path, prompt=self.prompt, seed=self.seed, settings=self.settings, private=private
        )


def best_first(portraits: Iterable[Portrait]) -> list[Portrait]:
    """By likeness to the subject; pictures without a score after those with one, blacked out ones last."""
    return sorted(portraits, key=lambda p: (p.nsfw, p.identity is None, -(p.identity or 0.0)))
