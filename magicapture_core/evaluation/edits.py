"""Edited composed prompts ("…, wearing sunglasses"), and whether a picture shows what was asked for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from magicapture_core.evaluation.judges import ClipEncoder, ImageEncoder, Seen
from magicapture_core.evaluation.metrics import cosine
from magicapture_core.faces import Face

COMPOSED = "composed"
ANYONE = "anyone"
"""Pictures of a prompt without learned words: other people must not come to look like the subject."""
ANYONE_PROMPT = "a photo of a person"

GREY = np.array([0.299, 0.587, 0.114], np.float32)
"""Weights of red, green and blue in grey (Rec. 601)."""


@dataclass(frozen=True)
class Edit:
    """One edit of the composed prompt."""

    name: str
    prompt: str
    words: str
    """The prompt without learned words: what CLIP compares the picture with."""
    shows: Callable[[Seen], bool]
    """A simple measurement of the picture. Coarse, but without a network, and the same for every method."""


def _grey(seen: Seen) -> bool:
    """Hardly any colour: mean range of the channels below 12 of 255."""
    values = seen.pixels.astype(np.float32)
    return bool((values.max(-1) - values.min(-1)).mean() < 12)


def _blue_behind(seen: Seen) -> bool:
    """The upper corners are bluer than red and green."""
    red, green, blue = _upper_corners(seen)
    return bool(blue > red + 25 and blue > green + 8)


def _upper_corners(seen: Seen) -> np.ndarray:
    """(3,) float32 median colour of the two upper corners, each a seventh of the picture's height."""
    side = len(seen.pixels) // 7
    corners = np.concatenate([seen.pixels[:side, :side], seen.pixels[:side, -side:]]).reshape(-1, 3)
    return np.asarray(np.median(corners.astype(np.float32), axis=0))


def _white_behind(seen: Seen) -> bool:
    """The upper corners are light and without colour: all channels above 200 of 255, 25 apart at most."""
    colour = _upper_corners(seen)
    return bool(colour.min() > 200 and colour.max() - colour.min() < 25)


def _black_behind(seen: Seen) -> bool:
    """The upper corners are dark: all channels below 50 of 255."""
    return bool(_upper_corners(seen).max() < 50)


def _sepia(seen: Seen) -> bool:
    """Brown throughout: in nine of ten places red > green > blue, and the mean range of the channels is above 12."""
    red, green, blue = np.moveaxis(seen.pixels.astype(np.float32), -1, 0)
    ordered = (red >= green) & (green >= blue)
    return bool(ordered.mean() > 0.9 and (red - blue).mean() > 12)


def _dark_clothes(seen: Seen) -> bool:
    """The middle third of the lowest eighth is dark: median grey below 70 of 255."""
    height, width = seen.pixels.shape[:2]
    chest = seen.pixels[height * 7 // 8 :, width // 3 : width * 2 // 3].reshape(-1, 3).astype(np.float32)
    return float(np.median(chest @ GREY)) < 70


def _smiles(seen: Seen) -> bool:
    """MediaPipe's two smile blendshapes sum to more than .8."""
    return seen.face is not None and (
        seen.face.expressions.get("mouthSmileLeft", 0) + seen.face.expressions.get("mouthSmileRight", 0) > 0.8
    )


def _dark_eyes(seen: Seen) -> bool:
    """The band around both eyes is dark in the middle: median grey below 70 of 255."""
    return seen.face is not None and float(np.median(_eye_band(seen.pixels, seen.face))) < 70


def _eye_band(pixels: np.ndarray, face: Face) -> np.ndarray:
    left, right = face.landmarks[0], face.landmarks[1]
    apart = float(np.linalg.norm(right - left))
    grey = pixels.astype(np.float32) @ GREY
    bands = []
    for x, y in (left, right):
        rows = slice(max(0, int(y - 0.16 * apart)), max(1, int(y + 0.2 * apart) + 1))
        columns = slice(max(0, int(x - 0.22 * apart)), max(1, int(x + 0.22 * apart) + 1))
        bands.append(grey[rows, columns].ravel())
    return np.concatenate([*bands, grey[:1, :1].ravel()])


EDITS: dict[str, Edit] = {
    edit.name: edit
    for edit in (
        Edit(
            "sunglasses",
            "a photo of a {subject} in the {style}, wearing sunglasses",
            "a photo of a person wearing sunglasses",
            _dark_eyes,
        ),
        Edit(
            "smiling",
            "a photo of a {subject} in the {style}, smiling",
            "a photo of a person smiling",
            _smiles,
        ),
        Edit(
            "black-and-white",
            "a black-and-white photo of a {subject} in the {style}",
            "a black-and-white photo of a person",
            _grey,
        ),
        Edit(
            "blue background",
            "a photo of a {subject} in the {style}, blue background",
            "a photo of a person in front of a blue background",
            _blue_behind,
        ),
        Edit(
            "white background",
            "a photo of a {subject} in the {style}, white background",
            "a photo of a person in front of a white background",
            _white_behind,
        ),
        Edit(
            "black background",
            "a photo of a {subject} in the {style}, black background",
            "a photo of a person in front of a black background",
            _black_behind,
        ),
        Edit(
            "sepia",
            "a sepia photo of a {subject} in the {style}",
            "a sepia photo of a person",
            _sepia,
        ),
        Edit(
            "dark clothes",
            "a photo of a {subject} in the {style}, in dark clothes",
            "a photo of a person in dark clothes",
            _dark_clothes,
        ),
    )
}
"""By name. A style may show some of it unasked; the composed prompt's pictures are measured, too, and shown beside."""


def text_similarity(encoder: ImageEncoder, pixels: np.ndarray, words: str) -> float | None:
    """CLIP's cosine of a picture and a description; None without CLIP."""
    if not isinstance(encoder, ClipEncoder):
        return None
    return cosine(encoder.embed(pixels), encoder.embed_text(words))
