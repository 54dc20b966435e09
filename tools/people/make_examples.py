"""Make the small pictures that show which photos work and which do not, out of the sample people.

python -m tools.people.make_examples [--out assets/examples]
"""

from __future__ import annotations

import argparse
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from magicapture_core.faces import Face, choose_analyser
from magicapture_core.photos import read_photo
from tools.mark import mark

ROOT = Path(__file__).resolve().parents[2]
PEOPLE = ROOT / "assets" / "people"
SIDE, QUALITY = 240, 82


def photo(name: str) -> np.ndarray:
    """(h, w, 3) uint8 of a sample photo."""
    return read_photo(PEOPLE / f"{name}.jpg").pixels


def two_people() -> np.ndarray:
    """Two sample people cheek by jowl, as in a photo of friends."""
    left, right = (photo(name)[:, 128:384] for name in ("dana/5", "bruno/2"))
    return np.concatenate([left, right], axis=1)


def sunglasses(pixels: np.ndarray, face: Face) -> np.ndarray:
    """Dark glasses: two lenses with a little sky in them, a bridge, and temples to the ears."""
    eyes = face.landmarks[:2]
    between = float(np.linalg.norm(eyes[1] - eyes[0]))
    glasses, lenses = np.zeros((2, *pixels.shape[:2]), np.uint8)
    for eye, outward in zip(eyes, (-1, 1), strict=True):
        left, right = eye[0] - 0.43 * between, eye[0] + 0.43 * between
        top, bottom = eye[1] - 0.26 * between, eye[1] + 0.38 * between
        inward = 0.07 * between * outward
        corners = np.array([
            (left, top), (right, top), (right - max(inward, 0) - 4, bottom), (left - min(inward, 0) + 4, bottom),
        ])  # fmt: skip
        cv2.fillPoly(lenses, [corners.astype(np.int32)], 255, cv2.LINE_AA)
        outer = (int(eye[0] + outward * 0.43 * between), int(eye[1] - 0.2 * between))
        ear = (int(eye[0] + outward * 0.78 * between), int(eye[1] - 0.12 * between))
        cv2.line(glasses, outer, ear, 255, 7, cv2.LINE_AA)
    bridge = [(int(eye[0]), int(eye[1] - 0.2 * between)) for eye in eyes]
    cv2.line(glasses, *bridge, 255, 8, cv2.LINE_AA)
    # Rounded corners: a blurred shape, cut again.
    lenses = np.clip((cv2.GaussianBlur(lenses, (0, 0), 7).astype(float) - 96) * 8, 0, 255)
    cover = np.maximum(lenses, glasses.astype(float))[..., None] / 255
    sky = np.linspace(46, 12, pixels.shape[0])[:, None, None] * np.array([0.9, 0.95, 1.05])
    return (pixels * (1 - 0.97 * cover) + sky * 0.97 * cover).clip(0, 255).astype(np.uint8)


def pictures() -> dict[str, np.ndarray]:
    """By the file's name: good ones, and one for each thing that goes wrong."""
    conrad = photo("conrad/1")
    faces = choose_analyser("bundled")[0].detect(conrad)
    return {
        "good-1": photo("alma/2"),
        "good-2": photo("bruno/4"),
        "good-3": photo("dana/5"),
        "good-4": photo("conrad/3"),
        "blurred": cv2.GaussianBlur(photo("alma/4"), (0, 0), 7),
        "dark": (photo("bruno/5") * 0.27).astype(np.uint8),
        "covered": sunglasses(conrad, faces[0]),
        "several_faces": two_people(),
    }


def main() -> None:
    """Write them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=ROOT / "assets" / "examples")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    for name, pixels in pictures().items():
        small = cv2.resize(pixels, (SIDE, SIDE), interpolation=cv2.INTER_AREA)
        Image.fromarray(small).save(options.out / f"{name}.webp", quality=QUALITY, method=6)
        mark(options.out / f"{name}.webp")


if __name__ == "__main__":
    main()
