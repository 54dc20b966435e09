"""Whether a photo has to be turned before its face is upright.

The bundled detector also finds upright faces in faces upside down, with mouth and eyes exchanged. Landmarks look right
then, and scores are no help; but the face is recognised better once the photo is turned.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from magicapture_core.concepts.examples import MIN_FACE_PIXELS
from magicapture_core.concepts.measures import reduced
from magicapture_core.faces import Face, FaceAnalyser, recognisability

# Faces that score more are upright. Upside down they reach .85.
UPRIGHT_SCORE = 0.88
# Where nothing is found in the photo as it is: good photos of upright faces score .74 and more; what is taken for a
# face in a turned cup of coffee stays below .7.
TURNED_SCORE = 0.72
# Faces that fill most of the photo score .6 and more; what is mistaken for a face is smaller than half of it.
TURNED_SCORE_LARGE, LARGE_FACE = 0.6, 0.5
# How many times longer the turned face's embedding is, before its normalisation: 1.06 and more for faces upside down,
# at most .94 for upright ones, whether good, dark, blurred or half covered.
RECOGNISED_BETTER = 1.02


@dataclass(frozen=True, eq=False)
class _Seen:
    """A face in a picture."""

    pixels: np.ndarray
    face: Face

    def recognisability(self, analyser: FaceAnalyser) -> float:
        return recognisability(analyser, self.pixels, self.face)


def needed_turns(pixels: np.ndarray, analyser: FaceAnalyser, face: Face | None) -> int:
    """How many times a photo has to be turned to the left by 90 degrees, 0 to 3; 0 also where that is not known.

    pixels: (h, w, 3) uint8 RGB. face: the face found in it, if any.
    """
    if face is not None and _mouth_above_eyes(face):
        return 2
    if face is not None and face.score >= UPRIGHT_SCORE:
        return 0
    small = reduced(pixels)
    shrunk = len(small) / len(pixels)
    seen = None
    if face is not None and face.size >= MIN_FACE_PIXELS:
        seen = _Seen(small, face.scaled(shrunk))
    least = max(MIN_FACE_PIXELS, 0 if face is None else 2 * face.size) * shrunk if seen is None else 0.0
    found: dict[int, float] = {}
    for turns in (1, 2, 3):
        view = np.ascontiguousarray(np.rot90(small, turns))
        for turned in analyser.detect(view, small=False)[:1]:
            upright = turned.pose is not None and abs(turned.pose[2]) < 45 and turned.size >= least
            if upright and _is_meant(_Seen(view, turned), seen, turns, analyser):
                found[turns] = turned.score
    return max(found, key=lambda turns: found[turns], default=0)


def _is_meant(turned: _Seen, seen: _Seen | None, turns: int, analyser: FaceAnalyser) -> bool:
    """Whether the face in the turned picture is one, and more of one than that in the picture as it is."""
    if seen is None:
        large = turned.face.size > LARGE_FACE * min(turned.pixels.shape[:2])
        return turned.face.score >= (TURNED_SCORE_LARGE if large else TURNED_SCORE)
    height, width = seen.pixels.shape[:2]
    left, top, right, bottom = seen.face.box
    x, y = (left + right) / 2, (top + bottom) / 2
    x, y = {1: (y, width - x), 2: (width - x, height - y), 3: (height - y, x)}[turns]
    left, top, right, bottom = turned.face.box
    if not (left < x < right and top < y < bottom):
        return False  # another face
    return turned.recognisability(analyser) > RECOGNISED_BETTER * seen.recognisability(analyser)


def _mouth_above_eyes(face: Face) -> bool:
    x, y = face.landmarks[3:].mean(axis=0) - face.landmarks[:2].mean(axis=0)
    return bool(-y > abs(x))
