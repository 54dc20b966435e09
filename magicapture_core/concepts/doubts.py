"""Whether a mask of a face looks wrong: what people should look at before hours of training depend on it.

The limits were set on the 156 photos of assets/ and presets/. Right masks had areas of 3.35 to 6.96, filled .987 of
their hulls and more, and had their centre at most .6 from the nose. Wrong ones (hair in the light of the evening sun,
half of a face in the dark) filled .91 to .98 of it, or had it .61 to .95 away.
"""

from __future__ import annotations

import numpy as np

from magicapture_core.concepts.examples import Example
from magicapture_core.languages import _

AREA = (3.2, 7.6)
"""Of the face, in squares of the distance from the eyes to the mouth."""
FILLED = 0.985
"""Least share of the hull around the mask that is mask: a face has no bays."""
OFF_CENTRE = 0.6
"""Most that the mask's centre is away from the tip of the nose, in the same distance."""


def doubt(example: Example) -> str | None:
    """Why the mask may be wrong, in words; None where nothing speaks against it, or where there is no face."""
    import cv2

    if example.landmarks is None:
        return None
    points = example.landmarks.numpy()
    mask = _largest(example.masks.face[0].numpy() > 0)
    if not mask.any():
        return _("No part of the face is found.")
    apart = float(np.linalg.norm(points[:2].mean(axis=0) - points[3:].mean(axis=0)))
    area = float(mask.sum()) / max(apart, 1.0) ** 2
    x, y = np.clip(np.round(points).astype(int), 0, np.array(mask.shape[::-1]) - 1).T
    where = np.argwhere(mask)
    hull = float(cv2.contourArea(cv2.convexHull(where.astype(np.int32))))
    off = float(np.linalg.norm(where.mean(axis=0)[::-1] - points[2])) / max(apart, 1.0)
    if not mask[y, x].all() or area < AREA[0]:
        return _("Part of the face seems to be missing.")
    if area > AREA[1]:
        return _("More than the face seems to be in it.")
    if off > OFF_CENTRE or mask.sum() < FILLED * hull:
        return _("The edge of the face may be wrong.")
    return None


def _largest(mask: np.ndarray) -> np.ndarray:
    """The largest connected part: a style photo's mask holds the faces of passers-by, too."""
    import cv2

    _, parts, facts, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8))
    part: np.ndarray = mask if len(facts) < 2 else parts == 1 + int(facts[1:, cv2.CC_STAT_AREA].argmax())
    return part
