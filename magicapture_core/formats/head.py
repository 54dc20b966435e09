"""Where a head is in a picture, as passport specifications measure it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from magicapture_core.faces import Face

# The eyes lie half way between chin and crown: the draughtsman's rule, and within a few per cent the mean of
# anthropometry. Where hair is flatter than that, the top of the hair is the crown.
CROWN_OVER_EYES = 1.0


@dataclass(frozen=True)
class Head:
    """Points in pixels of the picture. "Up" is the head's own."""

    eyes: np.ndarray
    """(2,) half way between the eyes."""
    chin: np.ndarray
    """(2,)."""
    crown: np.ndarray
    """(2,) top of the skull, as far as can be told from outside."""
    hair: np.ndarray
    """(2,) top of the hair."""
    lean: float
    """Degrees that the line between the eyes leans clockwise as seen in the picture."""
    cut: bool
    """Whether the hair reaches the picture's upper edge."""

    def height(self, to_hair: bool) -> float:
        """Chin to crown, or to the top of the hair, in pixels."""
        return float(np.linalg.norm(self.chin - (self.hair if to_hair else self.crown)))


def find_head(face: Face, alpha: np.ndarray) -> Head:
    """The head of `face`. alpha: (h, w) in 0..1, the person's matte. Needs a face with an outline."""
    eyes = face.landmarks[:2].mean(axis=0)
    across = face.landmarks[1] - face.landmarks[0]
    across = across / max(float(np.linalg.norm(across)), 1e-6)
    up = np.array([across[1], -across[0]], np.float32)
    outline = face.outline if face.outline is not None else _corners(face)
    below = float(((outline - eyes) @ -up).max())  # eyes to chin
    hair, cut = _hair_top(alpha, eyes, up, across, below)
    return Head(
        eyes=eyes,
        chin=eyes - up * below,
        crown=eyes + up * min(CROWN_OVER_EYES * below, max(hair, 0.5 * below)),
        hair=eyes + up * hair,
        lean=float(np.degrees(np.arctan2(across[1], across[0]))),
        cut=cut,
    )


def _hair_top(
    alpha: np.ndarray, eyes: np.ndarray, up: np.ndarray, across: np.ndarray, below: float
) -> tuple[float, bool]:
    """(distance from the eyes up to the top of the hair, whether it leaves the picture).

    Looked for over the width of the forehead, since single strands and raised shoulders are not the head's top.
    """
    height, width = alpha.shape
    steps = np.arange(0, 3 * below, max(below / 200, 0.25), dtype=np.float32)
    columns = np.linspace(-0.35, 0.35, 15, dtype=np.float32) * below
    points = eyes + steps[:, None, None] * up + columns[None, :, None] * across  # steps columns 2
    x, y = np.round(points[..., 0]).astype(int), np.round(points[..., 1]).astype(int)
    inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    person = inside & (alpha[np.clip(y, 0, height - 1), np.clip(x, 0, width - 1)] > 0.5)
    rows = np.flatnonzero(person.mean(axis=1) >= 0.2)
    if len(rows) == 0:
        return CROWN_OVER_EYES * below, False
    # The head is one piece from the eyes up; what is separate above it is something else.
    gaps = np.flatnonzero(np.diff(rows) > 4)
    top = rows[gaps[0]] if len(gaps) else rows[-1]
    beyond = min(top + 3, len(steps) - 1)
    return float(steps[top]), not inside[beyond].all()


def _corners(face: Face) -> np.ndarray:
    left, top, right, bottom = face.box
    return np.array([[left, top], [right, top], [right, bottom], [left, bottom]], np.float32)
