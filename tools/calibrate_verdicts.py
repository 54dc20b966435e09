"""How often photo verdicts are right: false alarms on good photos, and hits on spoiled copies.

    python tools/calibrate_verdicts.py FOLDER [--photos 300] [--seed 0]

FOLDER holds portraits that are believed to be good (here: synthetic faces of 256 pixels). Each is judged on its
own, then its spoiled copies; groups of five of different people are judged for strangers and near-duplicates.
"""

from __future__ import annotations

import argparse
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np

from magicapture_core.concepts import judge_photos
from magicapture_core.faces import Face, choose_analyser
from magicapture_core.photos import Photo, list_photos, read_photo

Spoil = Callable[[np.ndarray, Face], np.ndarray]


def blurred(share: float) -> Spoil:
    return lambda pixels, face: cv2.GaussianBlur(pixels, (0, 0), face.size * share)


def lit(gain: float) -> Spoil:
    return lambda pixels, _: (pixels * gain + 20 * max(gain - 1, 0)).clip(0, 255).astype(np.uint8)


def turned(degrees: float) -> Spoil:
    def spoil(pixels: np.ndarray, _: Face) -> np.ndarray:
        height, width = pixels.shape[:2]
        matrix = cv2.getRotationMatrix2D((width / 2, height / 2), degrees, 1)
        return np.asarray(cv2.warpAffine(pixels, matrix, (width, height), borderMode=cv2.BORDER_REPLICATE))

    return spoil


def shrunk(face_pixels: float) -> Spoil:
    def spoil(pixels: np.ndarray, face: Face) -> np.ndarray:
        scale = face_pixels / face.size
        small = cv2.resize(pixels, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
        big = np.full_like(pixels, 128)
        big[: small.shape[0], : small.shape[1]] = small
        return big

    return spoil


def sunglasses(colour: tuple[int, int, int]) -> Spoil:
    def spoil(pixels: np.ndarray, face: Face) -> np.ndarray:
        result, eyes = pixels.copy(), face.landmarks[:2]
        across = eyes[1] - eyes[0]
        between, lean = float(np.linalg.norm(across)), float(np.degrees(np.arctan2(across[1], across[0])))
        for eye in eyes:
            box = (tuple(map(float, eye)), (0.82 * between, 0.62 * between), lean)
            cv2.ellipse(result, box, colour, -1, cv2.LINE_AA)
        return result

    return spoil


def mask(colour: tuple[int, int, int]) -> Spoil:
    def spoil(pixels: np.ndarray, face: Face) -> np.ndarray:
        if face.outline is None:
            return pixels
        eyes, mouth, nose = face.landmarks[:2].mean(0), face.landmarks[3:].mean(0), face.landmarks[2]
        edge = nose + (eyes - nose) * 0.25
        below = face.outline[(face.outline - edge) @ (eyes - mouth) < 0]
        hull = cv2.convexHull(np.concatenate([below, edge[None]]).astype(np.int32))
        return np.asarray(cv2.fillPoly(pixels.copy(), [hull], colour, cv2.LINE_AA))

    return spoil


def eyes_shut(pixels: np.ndarray, face: Face) -> np.ndarray:
    """Lids painted over both eyes in the colour of the skin below them, with a line of lashes."""
    result, eyes = pixels.copy(), face.landmarks[:2]
    between = float(np.linalg.norm(eyes[1] - eyes[0]))
    for x, y in eyes:
        skin = pixels[int(y + 0.22 * between), int(x)].tolist()
        center, axes = (int(x), int(y)), (int(0.26 * between), int(0.13 * between))
        cv2.ellipse(result, center, axes, 0, 0, 360, skin, -1, cv2.LINE_AA)
        lower = (int(x), int(y + 0.04 * between))
        cv2.ellipse(
            result, lower, (int(0.22 * between), int(0.07 * between)), 0, 0, 180, (40, 25, 20), 2, cv2.LINE_AA
        )
    return result


def twice(pixels: np.ndarray, _: Face) -> np.ndarray:
    return np.concatenate([pixels, pixels[:, ::-1]], axis=1)


def painted_over(pixels: np.ndarray, face: Face) -> np.ndarray:
    left, top, right, bottom = (round(v) for v in face.box)
    result = pixels.copy()
    result[max(top - 30, 0) : bottom + 20, max(left - 20, 0) : right + 20] = 90
    return result


SPOILED: dict[str, tuple[str, Spoil]] = {
    "blur of 2 % of the face": ("blurred", blurred(0.02)),
    "blur of 3 %": ("blurred", blurred(0.03)),
    "35 % of the light": ("dark", lit(0.35)),
    "25 % of the light": ("dark", lit(0.25)),
    "twice the light": ("blown_out", lit(2.0)),
    "2.5 times the light": ("blown_out", lit(2.5)),
    "leaning by 50°": ("pose", turned(50)),
    "face of 80 pixels": ("face_small", shrunk(80)),
    "face of 40 pixels": ("face_small", shrunk(40)),
    "black sunglasses": ("covered", sunglasses((20, 20, 22))),
    "brown sunglasses": ("covered", sunglasses((70, 50, 40))),
    "white mask": ("covered", mask((235, 240, 245))),
    "blue mask": ("covered", mask((150, 190, 215))),
    "black mask": ("covered", mask((25, 25, 28))),
    "eyes painted shut": ("eyes_closed", eyes_shut),
    "two equal faces": ("several_faces", twice),
    "face painted over": ("no_face", painted_over),
}


def copies(pixels: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    """What people upload twice without noticing."""
    height, width = pixels.shape[:2]
    yield "mirrored", pixels[:, ::-1]
    yield "half size", cv2.resize(pixels, (width // 2, height // 2), interpolation=cv2.INTER_AREA)
    yield (
        "poor JPEG",
        cv2.imdecode(cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, 30])[1], cv2.IMREAD_COLOR),
    )
    yield "cropped by 2 %", pixels[height // 50 : -height // 50, width // 50 : -width // 50]
    yield "cropped by 10 %", pixels[height // 10 : -height // 20, width // 12 : -width // 12]
    yield "brighter", (pixels * 1.15).clip(0, 255).astype(np.uint8)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--photos", type=int, default=300)
    parser.add_argument("--resolution", type=int, default=256)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    analyser, why = choose_analyser()
    print(why)
    files = list_photos(options.folder)
    chosen = np.random.default_rng(options.seed).permutation(len(files))[: options.photos]
    photos = [read_photo(files[i]) for i in chosen]

    alarms: Counter[str] = Counter()
    hits: dict[str, list[bool]] = defaultdict(list)
    for number, photo in enumerate(photos):
        [verdict] = judge_photos([photo], "subject", analyser=analyser, resolution=options.resolution)
        alarms.update({"any": verdict.level != "accept"} | {reason.code: 1 for reason in verdict.reasons})
        if verdict.level != "accept":
            print(f"  {photo.name}: {', '.join(reason.code for reason in verdict.reasons)}")
        if verdict.face is None or verdict.level != "accept" or number >= options.photos // 3:
            continue
        for name, (code, spoil) in SPOILED.items():
            spoiled = Photo(photo.name, np.ascontiguousarray(spoil(photo.pixels, verdict.face)))
            [judged] = judge_photos([spoiled], "subject", analyser=analyser, resolution=options.resolution)
            hits[name].append(code in {r.code for r in judged.reasons} or judged.level == "refuse")
        for name, copy in copies(photo.pixels):
            pair = [photo, Photo("copy", np.ascontiguousarray(copy))]
            judged = judge_photos(pair, "style", analyser=analyser, resolution=8)[1]
            hits[f"copy: {name}"].append("near_duplicate" in {r.code for r in judged.reasons})

    strangers: list[bool] = []
    false_twins = 0
    for i in range(0, len(photos) - 3, 3):
        same = [Photo(str(k), np.ascontiguousarray(np.roll(photos[i].pixels, k, axis=1))) for k in (0, 9)]
        judged_group = judge_photos([*same, photos[i + 1]], "subject", analyser=analyser, resolution=8)
        strangers.append("other_person" in {r.code for r in judged_group[2].reasons})
        judged_group = judge_photos(photos[i : i + 3], "style", analyser=analyser, resolution=8)
        false_twins += sum("near_duplicate" in {r.code for r in v.reasons} for v in judged_group)

    print(f"false alarms in {len(photos)} good photos: {alarms['any'] / len(photos):.1%} {dict(alarms)}")
    print(f"false near-duplicates: {false_twins} of {len(photos)}")
    print(f"strangers among two copies of another: found {np.mean(strangers):.1%} of {len(strangers)}")
    for name, found in hits.items():
        print(f"{name}: found {np.mean(found):.1%} of {len(found)}")


if __name__ == "__main__":
    main()
