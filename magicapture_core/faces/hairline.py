"""Where the forehead ends. MediaPipe's oval runs across it at one height, through fringes and below high hairlines."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

# Mesh points on bare skin whatever the hair: both cheeks below the eyes, and the nose.
_LEFT_CHEEK = (50, 101, 118, 117, 205, 36)
_RIGHT_CHEEK = (280, 330, 347, 346, 425, 266)
_NOSE = (195, 5, 197, 4)
# Upper rims of the brows and the outer corners of the eyes: what lies within is face, dark or not.
_BROWS = (70, 63, 105, 66, 107, 336, 296, 334, 293, 300, 33, 263)

# Light falls differently on forehead and cheeks, so lightness (CIE L) counts for a third of colour (a, b).
_LIGHTNESS = 0.35
# Colour distance at which skin ends. On 60 faces looked at, shiny foreheads stay below 10, dark hair is beyond 18,
# and light blond hair (about 9) is not told from skin.
SKIN_DISTANCE = 12.0
# How far above the oval a forehead may reach, in distances from between the eyes to the oval.
MAX_FOREHEAD = 1.45
# A strand or a wrinkle narrower than this share of the ray does not end the forehead.
_MIN_GAP = 0.08
_STEPS = 48
# Pixels from the middle of the face to the edge of its surroundings at which colours are looked at. The blur below is
# 1.2 % of it, so nothing finer is seen anyway; at a large photo's own size the blur alone took most of the time.
_WORKING_RADIUS = 400.0


def to_hairline(pixels: np.ndarray, mesh: np.ndarray, outline: np.ndarray) -> np.ndarray:
    """`outline` ((n, 2), closed, around the mesh) with its part above the eyes moved to the hairline.

    pixels: (h, w, 3) uint8 RGB; mesh: (478, 2) pixels. On rays from between the eyes through the outline's upper
    points, the forehead ends where the colour stops being that of cheeks or nose.
    """
    eyes = mesh[33], mesh[263]
    center = (eyes[0] + eyes[1]) / 2
    across = (eyes[1] - eyes[0]) / max(float(np.linalg.norm(eyes[1] - eyes[0])), 1e-6)
    up = np.array([across[1], -across[0]], np.float32)
    rays = outline - center
    lengths = np.linalg.norm(rays, axis=1)
    upward = rays @ up / np.maximum(lengths, 1e-6)  # cosine to straight up
    upper = np.flatnonzero(upward > 0.0)
    if len(upper) < 5 or lengths.min() < 2:
        return outline
    surroundings = _smooth_lab(pixels, outline, center)
    prototypes = _skin(surroundings, mesh)
    reach = np.empty(len(upper))
    for row, i in enumerate(upper):
        limit = 1 + (MAX_FOREHEAD - 1) * float(upward[i]) ** 2
        start = _brow_distance(mesh, center, rays[i] / lengths[i]) / lengths[i]
        steps = np.linspace(min(start, 0.95), limit, _STEPS)
        points = center + rays[i] * steps[:, None]
        reach[row] = _end_of_skin(steps, _distance(surroundings.at(points), prototypes))
    moved = outline.copy()
    order = np.argsort(_angles(rays[upper], up, across))
    smooth = _median(reach[order])
    moved[upper[order]] = center + rays[upper[order]] * smooth[:, None]
    return moved


@dataclass(frozen=True, eq=False)
class _Surroundings:
    """A part of the photo in CIE Lab, without grain."""

    lab: np.ndarray
    corner: tuple[int, int]
    """Left and top in the photo."""
    scale: np.ndarray
    """(2,) its pixels per pixel of the photo, across and down."""

    def at(self, points: np.ndarray) -> np.ndarray:
        """Colours at the pixels nearest to `points` of the photo; beyond the part those of its border."""
        x, y = np.round((points - self.corner + 0.5) * self.scale - 0.5).astype(int).T
        return self.lab[np.clip(y, 0, self.lab.shape[0] - 1), np.clip(x, 0, self.lab.shape[1] - 1)]


def _smooth_lab(pixels: np.ndarray, outline: np.ndarray, center: np.ndarray) -> _Surroundings:
    """The surroundings of the face, at a working size."""
    import cv2

    radius = float(np.linalg.norm(outline - center, axis=1).max()) * MAX_FOREHEAD + 4
    height, width = pixels.shape[:2]
    left, top = max(0, int(center[0] - radius)), max(0, int(center[1] - radius))
    crop = pixels[top : max(top + 1, min(height, int(center[1] + radius)))]
    crop = crop[:, min(left, width - 1) : max(left + 1, min(width, int(center[0] + radius)))]
    shrink = min(1.0, _WORKING_RADIUS / radius)
    size = [max(1, round(side * shrink)) for side in crop.shape[1::-1]]
    small = cv2.resize(crop, size, interpolation=cv2.INTER_AREA) if shrink < 1 else np.ascontiguousarray(crop)
    lab = cv2.cvtColor(small.astype(np.float32) / 255, cv2.COLOR_RGB2LAB)
    lab = cv2.GaussianBlur(lab, (0, 0), max(0.6, radius * shrink * 0.012))
    return _Surroundings(lab, (left, top), np.array(size) / crop.shape[1::-1])


def _skin(surroundings: _Surroundings, mesh: np.ndarray) -> np.ndarray:
    """(3, 3): the colour of each cheek and of the nose. The nearest counts, so a half-lit face has two skins."""
    patches = (_LEFT_CHEEK, _RIGHT_CHEEK, _NOSE)
    return np.stack([np.median(surroundings.at(mesh[list(indices)]), axis=0) for indices in patches])


def _distance(colours: np.ndarray, prototypes: np.ndarray) -> np.ndarray:
    weights = np.array([_LIGHTNESS, 1, 1], np.float32)
    return np.linalg.norm((colours[:, None] - prototypes) * weights, axis=2).min(axis=1)


def _brow_distance(mesh: np.ndarray, center: np.ndarray, direction: np.ndarray) -> float:
    """How far brows and eyes reach in that direction, and a little more."""
    offsets = mesh[list(_BROWS)] - center
    along, aside = offsets @ direction, np.abs(offsets @ np.array([-direction[1], direction[0]]))
    near = along[(aside < np.abs(along)) & (along > 0)]
    return float(near.max() * 1.1) if len(near) else 0.0


def _end_of_skin(steps: np.ndarray, distances: np.ndarray) -> float:
    """The last step before the colour leaves the skin for good (or for longer than a strand is wide)."""
    skin = distances < SKIN_DISTANCE
    gap = max(1, round(_MIN_GAP / max(float(steps[1] - steps[0]), 1e-6)))
    last, missed = 0, 0
    for i, is_skin in enumerate(skin):
        missed = 0 if is_skin else missed + 1
        if is_skin:
            last = i
        elif missed >= gap:
            break
    return float(steps[last])


def _angles(rays: np.ndarray, up: np.ndarray, across: np.ndarray) -> np.ndarray:
    return np.arctan2(rays @ across, rays @ up)


def _median(values: np.ndarray, reach: int = 2) -> np.ndarray:
    """Running median: one ray along a parting or a strand does not notch the outline."""
    padded = np.pad(values, reach, mode="edge")
    windows = np.lib.stride_tricks.sliding_window_view(padded, 2 * reach + 1)
    result: np.ndarray = np.median(windows, axis=1)
    return result
