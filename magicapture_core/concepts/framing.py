"""Which part of a photo becomes the square picture: an upright square, or FFHQ's frame with the eyes level.

A small model that was trained on aligned faces alone knows no others, so photos are straightened for it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np

# FFHQ's frame: its half side is the larger of 2 eye distances and 1.8 times the way from eyes to mouth; its middle
# lies a tenth of that way below the eyes.
EYES_PER_HALF_SIDE = 2.0
MOUTH_PER_HALF_SIDE = 1.8
MIDDLE_BELOW_EYES = 0.1
# A frame may reach beyond its photo, which is then mirrored at its edge; by more than this share of its side the
# mirror image would be what is learned, so the frame is made smaller.
MOST_BEYOND = 0.15


@dataclass(frozen=True)
class Frame:
    """A square in a photo, upright or turned."""

    x: float
    """Of the middle, in pixels of the photo (pixel centres are whole numbers)."""
    y: float
    side: float
    """In pixels of the photo."""
    angle: float = 0.0
    """By which the square's upper edge falls to the right, in radians."""

    def to_photo(self, resolution: int) -> np.ndarray:
        """(2, 3): pixels of the square picture → pixels of the photo."""
        scale = self.side / resolution
        cos, sin = math.cos(self.angle) * scale, math.sin(self.angle) * scale
        linear = np.array([[cos, -sin], [sin, cos]])
        middle = (resolution - 1) / 2
        offset = np.array([self.x, self.y]) - linear @ [middle, middle]
        return np.column_stack([linear, offset])

    def points(self, points: np.ndarray, resolution: int) -> np.ndarray:
        """(n, 2) pixels of the photo → pixels of the square picture, float32."""
        inverse = cv2.invertAffineTransform(self.to_photo(resolution))
        return (points @ inverse[:, :2].T + inverse[:, 2]).astype(np.float32)

    def cut(self, picture: np.ndarray, resolution: int) -> np.ndarray:
        """The square of a picture (h, w) or (h, w, c), uint8 or float32, at `resolution`; beyond its edge, mirrored."""
        # To twice the size wanted by averages, then turned, then halved: nothing aliases, whatever the photo's size.
        shrunk = max(1.0, self.side / (2 * resolution))
        size = [max(1, round(length / shrunk)) for length in picture.shape[1::-1]]
        small = cv2.resize(picture, size, interpolation=cv2.INTER_AREA) if shrunk > 1 else picture
        ratio = np.array(size) / picture.shape[1::-1]
        transform = self.to_photo(2 * resolution)
        transform = (transform + [[0, 0, 0.5]] * 2) * ratio[:, None] - [[0, 0, 0.5]] * 2
        turned = cv2.warpAffine(
            small, transform, (2 * resolution, 2 * resolution),
            flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP, borderMode=cv2.BORDER_REFLECT_101,
        )  # fmt: skip
        result: np.ndarray = cv2.resize(turned, (resolution, resolution), interpolation=cv2.INTER_AREA)
        return result


def aligned_frame(landmarks: np.ndarray, height: int, width: int) -> Frame:
    """FFHQ's frame of a face, from its five landmarks (5, 2), in a photo of that size."""
    eyes, mouth = landmarks[:2].mean(axis=0), landmarks[3:].mean(axis=0)
    across, down = landmarks[1] - landmarks[0], mouth - eyes
    axis = across + np.array([down[1], -down[0]])  # both say which way is right
    half = max(np.hypot(*across) * EYES_PER_HALF_SIDE, np.hypot(*down) * MOUTH_PER_HALF_SIDE)
    x, y = eyes + MIDDLE_BELOW_EYES * down
    angle = math.atan2(axis[1], axis[0])
    reach = abs(math.cos(angle)) + abs(math.sin(angle))  # of the turned square's corners, in half sides
    room = [x + 0.5, width - 0.5 - x, y + 0.5, height - 0.5 - y]
    most = min(max(0.0, each) for each in room) / max(reach - 2 * MOST_BEYOND, 0.5)
    return Frame(float(x), float(y), float(2 * min(half, max(most, half / 2))), angle)
