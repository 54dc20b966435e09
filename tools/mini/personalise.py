"""Train the sample people in presets and make portraits, as a user would: likeness, time, memory, contact sheets.

python -m tools.mini.personalise --work .training/mini/runs --judge w600k_mbf.onnx --out assets/mini

Each training is one run of the command line in a process of its own, so that its time and memory are a user's. The
judge of likeness is not the loss's network (SFace): it is ArcFace w600k_mbf, from the package named in README.md. For
a comparison with other methods use `python -m magicapture_core evaluate`.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from magicapture_core import GenerateConfig, generate, list_photos, load, read_photo
from magicapture_core.evaluation.judges import FaceJudge, arcface_judge
from magicapture_core.heat import heat_overlay
from tools.mark import mark
from tools.measured import measured

PEOPLE, PRESETS = ("alma", "bruno"), ("passport", "mono-studio")
COMPOSED = "a photo of a {subject} in the {style}"
EDITS = (
    "a photo of a {subject} in the {style}, wearing sunglasses",
    "a photo of a {subject} in the {style}, wearing round glasses",
    "a black-and-white photo of a {subject} in the {style}",
    "a photo of a {subject}, blue background",
)
TILE = 192


@dataclass
class Pair:
    """One person in one preset."""

    person: str
    preset: str

    @property
    def name(self) -> str:
        return f"{self.person}-{self.preset}"


def photos_of(folder: Path) -> list[np.ndarray]:
    return [read_photo(path).pixels for path in list_photos(folder)]


def run_training(pair: Pair, out: Path) -> dict[str, float]:
    """Train by the command line, unless done before; minutes and peak memory in GB (kept beside the run)."""
    facts = out.with_suffix(".json")
    if facts.exists():
        return json.loads(facts.read_text())
    seconds, memory = measured(
        "train", "--subject", f"assets/people/{pair.person}", "--preset", pair.preset, "--model", "mini",
        "--out", str(out.resolve()),
    )  # fmt: skip
    found = {"minutes": round(seconds / 60, 2), "gigabytes": round(memory / 1e9, 2)}
    facts.write_text(json.dumps(found))
    return found


def scores(judge: FaceJudge, pictures: list[np.ndarray], subject: np.ndarray) -> list[float | None]:
    return [None if (vector := judge.look(p).vector) is None else float(vector @ subject) for p in pictures]


def summary(values: list[float | None]) -> dict[str, float]:
    """Mean cosine with pictures without a face counted as 0, and how many have one."""
    return {
        "cosine": round(float(np.mean([value or 0.0 for value in values])), 3),
        "best": round(max(value or 0.0 for value in values), 3),
        "with_a_face": round(float(np.mean([value is not None for value in values])), 3),
    }


def labelled(pictures: list[np.ndarray], text: str) -> np.ndarray:
    """A row of tiles under a line of text, (h, w, 3) uint8."""
    tiles = [cv2.resize(p, (TILE, TILE), interpolation=cv2.INTER_AREA) for p in pictures]
    row = np.hstack(tiles)
    strip = np.full((26, row.shape[1], 3), 255, np.uint8)
    cv2.putText(strip, text, (6, 18), cv2.FONT_HERSHEY_SIMPLEX, 0.5, (30, 30, 30), 1, cv2.LINE_AA)
    return np.vstack([strip, row])


def sheet_of(pair: Pair, models: Any, run: Path, best: list[np.ndarray]) -> np.ndarray:
    """References, subject, portraits, attention of both tokens, edited prompts."""
    rows = [
        labelled(photos_of(Path("assets/people") / pair.person)[:6], f"{pair.person}: the six photos"),
        labelled(photos_of(Path("presets") / pair.preset)[:6], f"{pair.preset}: the six references"),
        labelled(best[:6], "portraits: the six most alike of 16, by another network than the loss's"),
    ]
    settings = {**models.generate_defaults, "seed": 0}
    words = ("{subject}", "{style}")
    config = GenerateConfig(**settings | {"prompt": COMPOSED, "count": 3, "attention_words": words})
    tiles = []
    for portrait in generate(models, run, config):
        pixels = np.asarray(portrait.image)
        tiles += [heat_overlay(pixels, portrait.attention[word]) for word in words]
    rows.append(labelled(tiles, "where [V1] and [V2] look, three portraits"))
    for prompt in EDITS:
        config = GenerateConfig(**settings | {"prompt": prompt, "count": 6})
        rows.append(labelled([np.asarray(p.image) for p in generate(models, run, config)], prompt))
    return np.vstack(rows)


def between_people(judge: FaceJudge) -> float:
    """Mean cosine between photos of different sample people."""
    vectors = [
        [vector for p in photos_of(folder) if (vector := judge.look(p).vector) is not None]
        for folder in sorted(Path("assets/people").iterdir())
        if folder.is_dir()
    ]
    values = [
        float(a @ b) for i, one in enumerate(vectors) for two in vectors[i + 1 :] for a in one for b in two
    ]
    return round(float(np.mean(values)), 3)


def personalise(pair: Pair, models: Any, judge: FaceJudge, args: argparse.Namespace) -> dict[str, Any]:
    """Train one person in one preset, write the sheet, and return what was measured."""
    photos = photos_of(Path("assets/people") / pair.person)
    vectors = [v for p in photos if (v := judge.look(p).vector) is not None]
    subject = np.mean(vectors, axis=0)
    subject /= np.linalg.norm(subject)
    run = Path(args.work) / pair.name
    cost = run_training(pair, run)
    config = GenerateConfig(
        **models.generate_defaults | {"prompt": COMPOSED, "count": args.pictures, "seed": 0}
    )
    started = time.monotonic()
    pictures = [np.asarray(p.image) for p in generate(models, run, config)]
    seconds = round((time.monotonic() - started) / args.pictures, 2)
    values = scores(judge, pictures, subject)
    order = sorted(range(len(values)), key=lambda i: -(values[i] or 0.0))
    sheet = sheet_of(pair, models, run, [pictures[i] for i in order])
    path = Path(args.out) / f"personalised-{pair.name}.jpg"
    cv2.imwrite(str(path), sheet[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, 82])
    mark(path)
    alike = round(float(np.mean(np.stack(vectors) @ subject)), 3)
    return {"photos": alike, **summary(values), **cost, "seconds_per_portrait": seconds}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--work", required=True, help="folder of the runs; finished ones are not trained again"
    )
    parser.add_argument("--judge", required=True, help="w600k_mbf.onnx")
    parser.add_argument("--out", required=True, help="folder of personalised.json and the sheets")
    parser.add_argument("--pictures", type=int, default=16)
    parser.add_argument("--people", nargs="+", default=PEOPLE)
    parser.add_argument("--presets", nargs="+", default=PRESETS)
    args = parser.parse_args()
    out, judge, models = Path(args.out), arcface_judge(Path(args.judge)), load("mini")
    for folder in (out, Path(args.work)):
        folder.mkdir(parents=True, exist_ok=True)
    table, different = out / "personalised.json", between_people(judge)
    for pair in (Pair(person, preset) for person in args.people for preset in args.presets):
        measured_now = {pair.name: personalise(pair, models, judge, args)}
        print(measured_now, flush=True)
        # Read again: another call may have added other people meanwhile.
        pairs = json.loads(table.read_text())["pairs"] if table.exists() else {}
        numbers = {"different_people": different, "pictures": args.pictures, "pairs": pairs | measured_now}
        table.write_text(json.dumps(numbers, indent=2) + "\n")


if __name__ == "__main__":
    main()
