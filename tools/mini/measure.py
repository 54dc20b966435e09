"""Measure what the captions may say about a photo: person mask, expression, clothing, hair.

python -m tools.mini.measure --faces FACES --manifest FACES/manifest.jsonl --models assets/faces --work .training/rows

The command writes rows.jsonl (for tools/people/make_presets.py) and masks.npy. The making of the model measures the
faces that it makes itself, by `measure_face`.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

if TYPE_CHECKING:
    from magicapture_core.faces import FaceAnalyser

HELD_OUT = 500
"""Faces kept out of all training, drawn with seed 0."""


def read_manifest(manifest: Path, faces: Path) -> list[dict[str, Any]]:
    """Rows of the manifest whose photo is in `faces`, each with "held_out" added.

    Who is held out depends on the manifest alone, so a folder that lacks some photos has none of them exchanged.
    """
    rows = [json.loads(line) for line in manifest.read_text().splitlines()]
    held = set(np.random.default_rng(0).permutation(len(rows))[:HELD_OUT].tolist())
    marked = [{**row, "held_out": index in held} for index, row in enumerate(rows)]
    return [row for row in marked if (faces / row["file"]).exists()]


def read_rgb(path: Path) -> np.ndarray:
    return np.ascontiguousarray(cv2.imread(str(path))[:, :, ::-1])


def luma(pixels: np.ndarray) -> np.ndarray:
    return pixels.astype(np.float32) @ np.array([0.299, 0.587, 0.114], np.float32)


def cheek_tone(pixels: np.ndarray, landmarks: np.ndarray) -> float:
    """Individual typology angle of the cheeks in degrees: above 41 light, below 10 dark. pixels: (h, w, 3) uint8 RGB.

    ITA = atan((L* - 50) / b*), from CIELAB. It depends on the light, too, so it sorts many faces and judges none.
    """
    left, right, nose, mouth, other = np.asarray(landmarks, float)
    reach = max(2, int(np.linalg.norm(right - left) * 0.12))
    tones = []
    for eye, corner in ((left, mouth), (right, other)):
        x, y = ((eye + corner) / 2 + 0.15 * (eye - nose)).astype(int)
        patch = pixels[max(y - reach, 0) : max(y + reach, 1), max(x - reach, 0) : max(x + reach, 1)]
        tones.append(patch.reshape(-1, 3))
    colour = np.float32(np.median(np.concatenate(tones), axis=0)).reshape(1, 1, 3) / 255
    lightness, _, yellow = cv2.cvtColor(colour, cv2.COLOR_RGB2LAB)[0, 0]
    return math.degrees(math.atan2(float(lightness) - 50, float(yellow)))


def clothing(pixels: np.ndarray, mask: np.ndarray) -> str | None:
    """ "dark" or "light" where the lowest strip beside the neck says so clearly."""
    side = len(pixels)
    strip = np.zeros(mask.shape, bool)
    strip[int(0.93 * side) :, : int(0.28 * side)] = True
    strip[int(0.93 * side) :, int(0.72 * side) :] = True
    strip &= mask > 0.9
    if strip.sum() < 0.04 * 0.56 * side * side * 0.4:
        return None
    light = luma(pixels)[strip]
    if np.percentile(light, 75) < 70:
        return "dark"
    return "light" if np.percentile(light, 25) > 165 else None


def hair(pixels: np.ndarray, mask: np.ndarray, row: dict[str, Any]) -> str | None:
    """Hair colour above the forehead where the person mask shows hair and its colour is clear."""
    x0, y0, x1, _ = row["box"]
    region = np.zeros(mask.shape, bool)
    top = max(0, int(y0))
    middle = int(np.clip((x0 + x1) / 2, 0, len(pixels) - 1))
    columns = np.where(mask[:, middle] > 0.9)[0]
    if len(columns) == 0 or columns[0] > top - 0.04 * len(pixels):
        return None  # no hair visible above the face box
    region[columns[0] : top, int(x0 + 0.2 * (x1 - x0)) : int(x1 - 0.2 * (x1 - x0))] = True
    region &= mask > 0.9
    if region.sum() < 200:
        return None
    red, green, blue = np.median(pixels[region], axis=0).astype(float)
    light = 0.299 * red + 0.587 * green + 0.114 * blue
    saturation = (max(red, green, blue) - min(red, green, blue)) / max(red, green, blue, 1.0)
    if light < 48:
        return "black"
    if light > 95 and saturation < 0.18:
        return "grey" if row["age"] >= 42 else None
    if light > 115 and saturation > 0.25:
        return "blond"
    return "brown" if 55 < light < 95 and saturation > 0.3 else None


def smile_of(blendshapes: Mapping[str, float]) -> float:
    return (blendshapes["mouthSmileLeft"] + blendshapes["mouthSmileRight"]) / 2


def expression(smile: float, jaw: float, smiling: float = 0.55, neutral: float = 0.08) -> str | None:
    """ "smiling" or "neutral" where that is clear; smile and open jaw as MediaPipe measures them, 0..1."""
    if smile > smiling:
        return "smiling"
    return "neutral" if smile < neutral and jaw < 0.1 else None


def person_mask(confidence: np.ndarray, row: dict[str, Any]) -> np.ndarray:
    """The segmenter's confidence (h, w) 0..1, steeper, without what is not joined to the face; (h, w) 0..1."""
    steep = np.clip((confidence - 0.25) / 0.5, 0, 1)
    _, labels = cv2.connectedComponents((steep > 0.5).astype(np.uint8))
    x, y = (int(np.clip(value, 0, len(labels) - 1)) for value in row["landmarks"][2])
    mine = (labels == labels[y, x]).astype(np.uint8)
    near = cv2.dilate(mine, np.ones((5, 5), np.uint8))
    return (steep * near).astype(np.float32)


def measure_face(analyser: FaceAnalyser, pixels: np.ndarray) -> tuple[dict[str, Any], np.ndarray] | None:
    """Points, box, smile and jaw of the only face in pixels (h, w, 3) uint8, and the person mask (h, w) 0..1.

    None where there is not exactly one face. The box begins at the hairline, as `hair` wants it.
    """
    faces = analyser.detect(pixels)
    if len(faces) != 1 or "jawOpen" not in faces[0].expressions or faces[0].outline is None:
        return None
    face = faces[0]
    left, _, right, bottom = face.box
    row = {
        "landmarks": face.landmarks.tolist(),
        "box": [left, float(face.outline[:, 1].min()), right, bottom],
        "smile": smile_of(face.expressions),
        "jaw": face.expressions["jawOpen"],
    }
    return row, person_mask(analyser.foreground(pixels), row)


def measure(args: argparse.Namespace) -> None:
    import mediapipe as mp
    from mediapipe.tasks.python import BaseOptions, vision

    models, work = Path(args.models), Path(args.work)
    work.mkdir(parents=True, exist_ok=True)
    rows = read_manifest(Path(args.manifest), Path(args.faces))[: args.limit]
    masks = np.zeros((len(rows), 256, 256), np.uint8)
    landmarker_options = vision.FaceLandmarkerOptions(
        BaseOptions(str(models / "face_landmarker.task")), output_face_blendshapes=True
    )
    segmenter_options = vision.ImageSegmenterOptions(BaseOptions(str(models / "selfie_segmentation.tflite")))
    started = time.monotonic()
    with (
        vision.FaceLandmarker.create_from_options(landmarker_options) as landmarker,
        vision.ImageSegmenter.create_from_options(segmenter_options) as segmenter,
    ):
        for index, row in enumerate(rows):
            pixels = read_rgb(Path(args.faces) / row["file"])
            image = mp.Image(image_format=mp.ImageFormat.SRGB, data=pixels)
            confidence = segmenter.segment(image).confidence_masks[0].numpy_view().squeeze()
            mask = person_mask(confidence, row)
            masks[index] = np.round(mask * 255)
            shapes = landmarker.detect(image).face_blendshapes
            scores = {shape.category_name: shape.score for shape in shapes[0]} if shapes else {}
            row["expression"] = expression(smile_of(scores), scores["jawOpen"]) if scores else None
            row["hair"], row["clothes"] = hair(pixels, mask, row), clothing(pixels, mask)
            if index % 500 == 0:
                print(f"measured {index} of {len(rows)}, {time.monotonic() - started:.0f} s", flush=True)
    np.save(work / "masks.npy", masks)
    (work / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--faces", required=True, help="folder of 256 px photos")
    parser.add_argument("--manifest", required=True, help="their manifest.jsonl")
    parser.add_argument(
        "--models", required=True, help="folder of face_landmarker.task and selfie_segmentation.tflite"
    )
    parser.add_argument("--work", required=True, help="where masks.npy and rows.jsonl go")
    parser.add_argument("--limit", type=int, help="only the first photos (for a try)")
    measure(parser.parse_args())


if __name__ == "__main__":
    main()
