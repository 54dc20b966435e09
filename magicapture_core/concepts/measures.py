"""What can be measured of a photo and its face. The thresholds stand in verdicts.py."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from magicapture_core.faces import Face, align_in_photo

# Faces are measured at this size, whatever the photo's, so that numbers compare. Twice ArcFace's crop.
_SIDE = 224
_SCALE = _SIDE / 112
# Pixels a side that a whole picture is measured at, at least.
_PICTURE_SIDE = 512


@dataclass(frozen=True)
class Measures:
    """Numbers of one face, from its aligned crop of 224 pixels."""

    blur: float
    """0 (crisp) .. 1 (flat): how little is lost by blurring it once more."""
    highlights: float
    """95th percentile of the face's luma, 0..255: what the best-lit skin reaches."""
    blown: float
    """Share of the face at the top of the range."""
    eyes: float
    """Luma of the darker half of both eye patches over that of the cheeks and nose: low behind sunglasses."""
    eye_texture: float
    """Deviation of luma within the eye patches over the cheeks' luma."""
    lower: float
    """Distance in colour (CIE a, b, and half of L) from the skin under the eyes to the mouth and chin."""
    mouth_texture: float
    """Deviation of luma around the mouth over the cheeks' luma: lips and beards have much, masks little."""


def measure(pixels: np.ndarray, face: Face) -> Measures:
    """Measure one face of `pixels` ((h, w, 3) uint8 RGB)."""
    import cv2

    crop = face_crop(pixels, face)
    luma = cv2.cvtColor(crop, cv2.COLOR_RGB2GRAY).astype(np.float32)
    lab = cv2.cvtColor(crop.astype(np.float32) / 255, cv2.COLOR_RGB2LAB)
    cheeks = np.concatenate([_patch(luma, 26, 70, 40, 80), _patch(luma, 72, 70, 86, 80)])
    bridge = _patch(luma, 52, 56, 60, 68)
    skin = float(np.median(np.concatenate([cheeks, bridge]))) + 1
    eyes = [_patch(luma, 28, 45, 49, 60), _patch(luma, 63, 45, 84, 60)]
    upper_lab = np.median(np.concatenate([_patch(lab, 50, 52, 62, 64), _patch(lab, 26, 66, 86, 70)]), axis=0)
    lower_lab = np.median(np.concatenate([_patch(lab, 36, 82, 76, 88), _patch(lab, 46, 98, 66, 108)]), axis=0)
    return Measures(
        blur=_blur(luma),
        highlights=float(np.percentile(luma[_oval()], 95)),
        blown=float((crop.min(axis=2)[_oval()] >= 250).mean()),
        eyes=float(max(np.percentile(e, 60) for e in eyes)) / skin,
        eye_texture=float(np.mean([e.std() for e in eyes])) / skin,
        lower=float(np.hypot(np.linalg.norm((lower_lab - upper_lab)[1:]), (lower_lab - upper_lab)[0] / 2)),
        mouth_texture=float(_patch(luma, 40, 82, 72, 102).std()) / skin,
    )


def face_crop(pixels: np.ndarray, face: Face) -> np.ndarray:
    """(224, 224, 3) uint8 RGB: the face, aligned as for recognition."""
    crop = align_in_photo(pixels, face.landmarks, _SIDE)[0].permute(1, 2, 0).numpy()
    return np.clip(crop, 0, 255).round().astype(np.uint8)


def picture_range(pixels: np.ndarray) -> float:
    """Range of luma of a whole picture, 0..255, between its 2nd and 98th percentile."""
    step = _step(pixels)  # every so many pixels tell as much as all
    luma = pixels[::step, ::step].reshape(-1, 3).mean(axis=1)
    return float(np.subtract(*np.percentile(luma, (98, 2))))


def reduced(pixels: np.ndarray) -> np.ndarray:
    """(h, w, 3) uint8 RGB: a whole picture, made smaller by a whole number; good for looking at, not for learning."""
    import cv2

    step = _step(pixels)
    height, width = (max(step, side // step * step) for side in pixels.shape[:2])
    if step == 1 or min(pixels.shape[:2]) < step:
        return pixels
    small: np.ndarray = cv2.resize(
        pixels[:height, :width], (width // step, height // step), interpolation=cv2.INTER_AREA
    )
    return small


def _step(pixels: np.ndarray) -> int:
    return max(1, max(pixels.shape[:2]) // _PICTURE_SIDE)


def _patch(values: np.ndarray, left: int, top: int, right: int, bottom: int) -> np.ndarray:
    """Pixels of a rectangle given in ArcFace's 112-pixel crop, flattened."""
    s = int(_SCALE)
    patch = values[top * s : bottom * s, left * s : right * s]
    return patch.reshape(-1) if values.ndim == 2 else patch.reshape(-1, values.shape[2])


def _oval() -> np.ndarray:
    """The face in the crop, roughly: an ellipse from brows to chin."""
    y, x = np.mgrid[:_SIDE, :_SIDE] / _SCALE
    oval: np.ndarray = ((x - 56) / 34) ** 2 + ((y - 70) / 42) ** 2 <= 1
    return oval


def _blur(luma: np.ndarray) -> float:
    """How little of the fine detail a further blur takes away (after Crété-Roffet et al., 2007)."""
    import cv2

    # Compared to what a slight blur leaves; the slight blur also takes off noise and JPEG grain.
    base = cv2.GaussianBlur(luma, (0, 0), 1.0)
    again = cv2.blur(base, (9, 9))
    total, kept = 0.0, 0.0
    for axis in (0, 1):
        before, after = np.abs(np.diff(base, axis=axis)), np.abs(np.diff(again, axis=axis))
        inside = _oval()[: before.shape[0], : before.shape[1]]
        total += float(before[inside].sum())
        kept += float(np.minimum(before, after)[inside].sum())
    return kept / total if total > 0 else 1.0
