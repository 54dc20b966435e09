"""What of a photo is learned, as pictures."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from magicapture_core.ui.sessions import Role, StoredPhoto

if TYPE_CHECKING:
    from magicapture_core.concepts import Example


@dataclass(frozen=True)
class MaskView:
    """One photo as training sees it; pictures are shown files. `problem` instead where it cannot be used."""

    photo: StoredPhoto
    role: Role
    pictures: dict[str, str]
    """"overlay", "mask" and "photo" -> path."""
    problem: str | None = None


def pictures_of(example: Example) -> dict[str, np.ndarray]:
    """The example as people see it: what training eats, nothing else. A style learns all but the face."""
    from magicapture_core.masks import overlay

    photo = ((example.image / 2 + 0.5).clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy()
    face = example.masks.face[0].numpy()
    mask = np.repeat((face * 255).astype(np.uint8)[..., None], 3, axis=2)
    return {"overlay": overlay(photo, face), "mask": mask, "photo": photo}
