"""Alpha matte of a person: a coarse segmentation, refined along the picture's edges."""

from __future__ import annotations

import numpy as np

# The segmentation has 256 pixels a side; its edge is uncertain within about this many of them.
_UNCERTAIN = 8.0
_SEGMENTER_SIDE = 256
# Guided filter: what it takes for noise rather than an edge, in squared luma of 0..1.
_EPSILON = 2e-4
_VEIL = 0.2
# Working size of the matte; hair is finer than this only in pictures larger than a passport photo prints.
_LONGEST = 1600


def matte(pixels: np.ndarray, foreground: np.ndarray) -> np.ndarray:
    """How much of each pixel is the person: (h, w) float32 in 0..1.

    pixels: (h, w, 3) uint8 RGB; foreground: (h, w) in 0..1, as a segmentation gives it. Along the coarse edge a
    guided filter (He et al. 2010) follows the picture's own colours; away from it the matte is exactly 0 or 1.
    """
    import cv2

    height, width = foreground.shape
    shrink = min(1.0, _LONGEST / max(height, width))
    size = max(1, round(width * shrink)), max(1, round(height * shrink))
    image = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA).astype(np.float32) / 255
    coarse = cv2.resize(foreground.astype(np.float32), size, interpolation=cv2.INTER_AREA)
    radius = max(1, round(_UNCERTAIN * max(size) / _SEGMENTER_SIDE))
    # A segmentation is unsure over a wide band; what it takes for more likely than not is the shape to refine.
    soft = cv2.GaussianBlur((coarse > 0.5).astype(np.float32), (0, 0), radius / 3)
    for _ in range(2):  # where the segmentation was pixels off, one pass goes only part of the way
        soft = guided_filter(image, soft, radius, _EPSILON)
    # A filter leaves some of each side on the other: a veil on the background, holes in the person.
    soft = np.clip((soft - _VEIL) / (1 - 2 * _VEIL), 0, 1)
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1))
    shape = (coarse > 0.5).astype(np.uint8)
    inside, outside = cv2.erode(shape, kernel), 1 - cv2.dilate(shape, kernel)
    soft = np.where(inside == 1, 1.0, np.where(outside == 1, 0.0, soft)).astype(np.float32)
    result: np.ndarray = cv2.resize(soft, (width, height), interpolation=cv2.INTER_LINEAR)
    return np.clip(result, 0, 1)


def guided_filter(guide: np.ndarray, values: np.ndarray, radius: int, epsilon: float) -> np.ndarray:
    """He et al. 2010, with a colour guide: `values` (h, w) smoothed, except where `guide` (h, w, 3) has edges.

    In every window of 2·radius+1 pixels the values are fitted as a linear function of the three colours.
    """
    import cv2

    def mean(image: np.ndarray) -> np.ndarray:
        blurred: np.ndarray = cv2.boxFilter(
            image, -1, (2 * radius + 1, 2 * radius + 1), borderType=cv2.BORDER_REFLECT
        )
        return blurred

    center, average = mean(guide), mean(values)
    products = [(i, j) for i in range(3) for j in range(i, 3)]
    spread = np.empty((*values.shape, 3, 3), np.float32)
    for i, j in products:
        covariance = mean(guide[..., i] * guide[..., j]) - center[..., i] * center[..., j]
        spread[..., i, j] = spread[..., j, i] = covariance
    spread += epsilon * np.eye(3, dtype=np.float32)
    joint = np.stack([mean(guide[..., i] * values) - center[..., i] * average for i in range(3)], axis=-1)
    slope = np.linalg.solve(spread, joint[..., None])[..., 0].astype(np.float32)  # h w 3
    offset = average - (slope * center).sum(axis=-1)
    smoothed: np.ndarray = (mean(slope) * guide).sum(axis=-1) + mean(offset)
    return smoothed


def replace_background(pixels: np.ndarray, alpha: np.ndarray, colour: tuple[int, int, int]) -> np.ndarray:
    """The person on one colour: (h, w, 3) uint8. alpha: (h, w) in 0..1.

    Where a pixel is part hair and part old background, the hair's own colour is estimated first (Forte 2021: from
    its surroundings, weighted by the matte), so that no rim of the old background stays.
    """
    image = pixels.astype(np.float32)
    share = alpha[..., None].astype(np.float32)
    longest = max(alpha.shape)
    person = image
    for radius in (max(2, longest // 24), max(1, longest // 240)):
        person = _person_colour(image, share, person, radius)
    result = person * share + np.array(colour, np.float32) * (1 - share)
    rounded: np.ndarray = np.clip(result + 0.5, 0, 255).astype(np.uint8)
    return rounded


def _person_colour(image: np.ndarray, share: np.ndarray, person: np.ndarray, radius: int) -> np.ndarray:
    import cv2

    def around(values: np.ndarray) -> np.ndarray:
        blurred: np.ndarray = cv2.blur(values, (2 * radius + 1, 2 * radius + 1))
        return blurred if blurred.ndim == 3 else blurred[..., None]

    near_person = around(person * share) / (around(share) + 1e-3)
    near_background = around(image * (1 - share)) / (around(1 - share) + 1e-3)
    left_over = image - share * near_person - (1 - share) * near_background
    colours: np.ndarray = np.clip(near_person + share * left_over, 0, 255)
    return colours
