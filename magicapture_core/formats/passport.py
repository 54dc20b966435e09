"""A portrait cropped, scaled and put on a background as a specification asks."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np

from magicapture_core.faces import FaceAnalyser, choose_analyser
from magicapture_core.faces.protocol import check_pixels
from magicapture_core.formats.checklist import Check, check_photo
from magicapture_core.formats.head import Head, find_head
from magicapture_core.formats.matte import matte, replace_background
from magicapture_core.formats.specs import INCH, PhotoSpec, Range
from magicapture_core.languages import _
from magicapture_core.problems import PhotoProblem

# A head that leans more was meant to, or was not photographed for a passport: it is left as it is, and fails.
MOST_STRAIGHTENED = 15.0
# mm of background over the hair, which stands higher than the crown that specifications measure to.
OVER_HAIR = 1.5
# Aim this share of a permitted range away from its ends, so that measuring again finds it within.
_KEEP_OFF = 0.03


@dataclass(frozen=True, eq=False)
class PassportPhoto:
    """A photo of a specification's size."""

    spec: PhotoSpec
    pixels: np.ndarray
    """(h, w, 3) uint8 RGB of `spec.pixels`."""
    checks: list[Check]
    replaced: bool
    """Whether the background was replaced."""

    @property
    def passed(self) -> bool:
        """Whether no required check failed."""
        return not self.failed

    @property
    def failed(self) -> list[Check]:
        """The required checks that failed."""
        return [check for check in self.checks if check.required and check.passed is False]


def make_passport_photo(
    pixels: np.ndarray,
    spec: PhotoSpec,
    *,
    replace: bool = True,
    background: tuple[int, int, int] | None = None,
    analyser: FaceAnalyser | None = None,
) -> PassportPhoto:
    """Crop and scale `pixels` ((h, w, 3) uint8 RGB) to `spec`, and check the result.

    replace: put the person on another background. background: its colour, RGB 0..255; None for the specification's.
    A colour that the specification does not permit fails its check. analyser: None takes the bundled one, which
    measures outline, pose and expression. PhotoProblem where no face is found.
    """
    check_pixels(pixels)
    analyser = analyser or choose_analyser("bundled")[0]
    faces = analyser.detect(pixels)
    if not faces:
        raise PhotoProblem(
            _(
                "No face was found in the picture, so there is nothing to measure: expected one upright face seen "
                "from the front. Choose another portrait."
            )
        )
    face = faces[0]
    alpha = matte(pixels, analyser.foreground(pixels))
    head = find_head(face, alpha)
    to_photo = _plan(head, spec, pixels.shape, replace)
    photo = _warp(pixels, to_photo, spec.pixels)
    photo_alpha = _warp(alpha, to_photo, spec.pixels)
    photo_alpha[_above(to_photo, spec.pixels)] = 0
    inside = _warp(np.ones_like(alpha), to_photo, spec.pixels, beyond=0.0)
    if replace:
        photo = replace_background(photo, photo_alpha, background or spec.background)
    checks = check_photo(
        photo,
        photo_alpha,
        spec,
        analyser=analyser,
        source_faces=faces,
        invented=float(((inside < 0.5) & (photo_alpha > 0.5)).mean()),
        outside=float((inside < 0.5).mean()),
        replaced=replace,
        head_cut=head.cut,
    )
    return PassportPhoto(spec, photo, checks, replace)


def _plan(head: Head, spec: PhotoSpec, shape: tuple[int, ...], replace: bool) -> np.ndarray:
    """(2, 3): from the picture to the photo.

    Of all sizes and places of the head that the specification permits, the one that needs least of what lies
    beyond the picture and cuts no hair, and among those the one nearest to the middle of what is permitted.
    """
    heights, eye_lines = _inner(spec.head), _inner(spec.eye_range)
    candidates = []
    for height, eyes in itertools.product(heights, eye_lines):
        per_mm = height / head.height(spec.head_to_hair)  # mm of the photo per pixel of the picture
        top = spec.height - eyes - float(np.linalg.norm(head.crown - head.eyes)) * per_mm
        off_top = 0.0 if spec.top is None else max(spec.top.low - top, top - spec.top.high, 0.0)
        over_hair = spec.height - eyes - float(np.linalg.norm(head.hair - head.eyes)) * per_mm
        transform = _transform(head, spec, per_mm, eyes)
        cost = 20 * off_top + 4 * max(OVER_HAIR - over_hair, 0.0) + _lack(transform, spec, shape, replace)
        cost += 0.2 * abs(height - spec.head.middle) + 0.1 * abs(eyes - spec.eye_range.middle)
        candidates.append((cost, transform))
    return min(candidates, key=lambda candidate: candidate[0])[1]


def _inner(permitted: Range) -> np.ndarray:
    keep_off = _KEEP_OFF * (permitted.high - permitted.low)
    return np.linspace(permitted.low + keep_off, permitted.high - keep_off, 17)


def _transform(head: Head, spec: PhotoSpec, per_mm: float, eyes: float) -> np.ndarray:
    """(2, 3): the eyes' middle to the photo's middle, `eyes` mm over its lower edge, the head upright."""
    lean = head.lean if abs(head.lean) <= MOST_STRAIGHTENED else 0.0
    angle, factor = np.radians(-lean), per_mm / INCH * spec.dpi
    linear = factor * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    # Where the head is centred counts, not the nose: the eyes' middle, as ISO 19794-5 has it.
    target = np.array([spec.width / 2, spec.height - eyes]) / INCH * spec.dpi - 0.5
    return np.concatenate([linear, (target - linear @ head.eyes)[:, None]], axis=1)


def _lack(transform: np.ndarray, spec: PhotoSpec, shape: tuple[int, ...], replace: bool) -> float:
    """What the photo needs beyond the picture's edges, in weighted mm.

    Below it would be more of the person, which the picture lacks; over and beside the head only background, if
    that is replaced anyway, but shoulders reach the sides.
    """
    width, height = spec.pixels
    inverse = np.linalg.inv(np.vstack([transform, [0, 0, 1]]))
    corners = (inverse @ np.array([[0, width, width, 0], [0, 0, height, height], [1, 1, 1, 1]]))[:2]
    mm = INCH / spec.dpi * float(np.linalg.norm(transform[:, 0]))  # mm of the photo per pixel of the picture
    below = max(corners[1].max() - shape[0], 0.0) * mm
    beside = (max(-corners[0].min(), 0.0) + max(corners[0].max() - shape[1], 0.0)) * mm
    above = max(-corners[1].min(), 0.0) * mm
    return float(10 * below + (2 if replace else 10) * beside + (0.5 if replace else 10) * above)


def _above(to_photo: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """(h, w) bool: what of the photo lies over the picture's upper edge, where the person is not."""
    inverse = np.linalg.inv(np.vstack([to_photo, [0, 0, 1]]))
    y, x = np.mgrid[: size[1], : size[0]]
    over: np.ndarray = inverse[1, 0] * x + inverse[1, 1] * y + inverse[1, 2] < -0.5
    return over


def _warp(
    values: np.ndarray, transform: np.ndarray, size: tuple[int, int], beyond: float | None = None
) -> np.ndarray:
    """`values` through `transform` to `size`; beyond the picture is its mirror image, or `beyond`."""
    import cv2

    shrink = 1 / max(float(np.linalg.norm(transform[:, 0])), 1e-6)
    if shrink > 1.2:
        values = cv2.GaussianBlur(values, (0, 0), 0.4 * shrink)
    flags = cv2.INTER_CUBIC if values.ndim == 3 else cv2.INTER_LINEAR
    border = cv2.BORDER_REFLECT_101 if beyond is None else cv2.BORDER_CONSTANT
    warped: np.ndarray = cv2.warpAffine(
        values, transform, size, flags=flags, borderMode=border, borderValue=beyond or 0
    )
    return warped
