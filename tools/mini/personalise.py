"""Draft and train the sample people in presets, as a user would: likeness, style, contact sheets.

python -m tools.mini.personalise --work .training/mini/runs --judge w600k_mbf.onnx --out assets/mini

Each training is one run of the command line; benchmarks/laptop.py tells how long it takes. The
judge of likeness is not the loss's network (SFace): it is ArcFace w600k_mbf, from the package named in README.md. For
a comparison with other methods use `python -m magicapture_core evaluate`.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from magicapture_core import (
    GenerateConfig,
    choose_analyser,
    draft,
    generate,
    list_photos,
    load,
    prepare_concept,
    read_photo,
)
from magicapture_core.checkpoints import Run
from magicapture_core.evaluation import metrics
from magicapture_core.evaluation.judges import Judges, arcface_judge, style_statistics
from magicapture_core.evaluation.scoring import People, score_picture, see_photos
from magicapture_core.heat import heat_overlay
from tools.mark import mark

PEOPLE = ("alma", "bruno", "conrad", "dana")
PRESETS = ("passport", "mono-studio", "golden-hour", "corporate")
SHOWN = ("alma-passport", "bruno-mono-studio", "conrad-golden-hour", "dana-corporate")
"""Pairs whose sheets go into --out; all of them lie in --work."""
COMPOSED = "a photo of a {subject} in the {style}"
EDITS = (
    "a photo of a {subject} in the {style}, wearing sunglasses",
    "a photo of a {subject} in the {style}, wearing round glasses",
    "a black-and-white photo of a {subject} in the {style}",
    "a photo of a {subject}, blue background",
)
TILE, STRIP = 192, 26
"""Pixels: side of a picture of a sheet; height of the line of text over a row."""


@dataclass
class Pair:
    """One person in one preset."""

    person: str
    preset: str

    @property
    def name(self) -> str:
        return f"{self.person}-{self.preset}"

    @property
    def subject(self) -> Path:
        return Path("assets/people") / self.person

    @property
    def style(self) -> Path:
        return Path("presets") / self.preset

    @property
    def words(self) -> str:
        """What the person is called, as a visitor would say it."""
        return str(json.loads((self.subject / "person.json").read_text())["words"])


def photos_of(folder: Path) -> list[np.ndarray]:
    return [read_photo(path).pixels for path in list_photos(folder)]


def is_trained(out: Path) -> bool:
    """Whether the run has the checkpoint of its last step; adapter/ is there from its first one on."""
    if not (out / "config.json").exists():
        return False
    run = Run.open(out)
    config, checkpoints = run.facts().config, run.checkpoints()
    last = f"checkpoint-{config.ti_steps + config.lora_steps:06d}"
    return run.adapter.exists() and bool(checkpoints) and checkpoints[-1].name == last


def run_training(pair: Pair, out: Path) -> None:
    """Train by the command line, in a process of its own, unless done before; a training that was stopped goes on."""
    if is_trained(out):
        return
    command = (
        sys.executable, "-m", "magicapture_core", "train", "--subject", str(pair.subject), "--preset", pair.preset,
        "--model", "mini", "--subject-words", pair.words, "--out", str(out),
    )  # fmt: skip
    begun = ["--resume"] if (out / "config.json").exists() else []
    subprocess.run([*command, *begun], check=True, stdout=subprocess.DEVNULL)


def numbers_of(
    pictures: Sequence[np.ndarray], person: People, style: People, judges: Judges
) -> dict[str, float]:
    """Means over the pictures; without a face likeness counts as 0, and the colour of the face not at all."""
    rows = [score_picture(judges.faces.look(picture), person, style, judges) for picture in pictures]
    likeness = [row["csim_mean"] or 0.0 for row in rows]
    return {
        "likeness": round(float(np.mean(likeness)), 3),
        "best": round(max(likeness), 3),
        "style": round(metrics.mean_of([row["style_score"] for row in rows]), 3),
        "face_colour": round(metrics.mean_of([row["face_colour"] for row in rows]), 2),
        "with_a_face": round(float(np.mean([row["face"] for row in rows])), 3),
    }


def reference_numbers(person: People, style: People) -> dict[str, Any]:
    """What photos reach by the same measures: each of them against the others of its folder."""
    return {
        "own_style": {
            "style": round(float(np.mean(metrics.left_out(style.embeddings, metrics.style_similarity))), 3),
            "face_colour": round(float(np.mean(metrics.left_out(style.colours, metrics.colour_distance))), 2),
        },
        "photos": round(float(np.mean(metrics.left_out(person.vectors, metrics.csim_mean))), 3),
    }


def labelled(pictures: Sequence[np.ndarray], text: str) -> np.ndarray:
    """A row of tiles under a line of text, (h, w, 3) uint8."""
    tiles = [cv2.resize(p, (TILE, TILE), interpolation=cv2.INTER_AREA) for p in pictures]
    row = np.hstack(tiles)
    strip = np.full((STRIP, row.shape[1], 3), 255, np.uint8)
    cv2.putText(strip, text, (6, 18), cv2.FONT_HERSHEY_SIMPLEX, 0.5, (30, 30, 30), 1, cv2.LINE_AA)
    return np.vstack([strip, row])


class Desk:
    """What all pairs share: the model, who looks at faces, who judges."""

    def __init__(self, judge: Path, pictures: int) -> None:
        self.models, self.pictures = load("mini"), pictures
        self.analyser, _ = choose_analyser("bundled")
        self.judges = Judges(arcface_judge(judge), style_statistics(), None)
        self.settings = {**self.models.generate_defaults, "seed": 0}

    def config(self, **changes: Any) -> GenerateConfig:
        return GenerateConfig(**{**self.settings, "prompt": COMPOSED, "count": self.pictures, **changes})

    def drafts(self, pair: Pair) -> list[np.ndarray]:
        """Before any training."""
        concepts = [
            prepare_concept(
                [read_photo(path) for path in list_photos(folder)], role, resolution=self.models.resolution,
                analyser=self.analyser, framing=self.models.framing,
            )
            for role, folder in (("subject", pair.subject), ("style", pair.style))
        ]  # fmt: skip
        portraits = draft(self.models, *concepts, self.config(), analyser=self.analyser, noun=pair.words)
        return [np.asarray(portrait.image) for portrait in portraits]

    def portraits(self, run: Path, **changes: Any) -> list[Any]:
        return list(generate(self.models, run, self.config(**changes), analyser=self.analyser))

    def sheet(self, pair: Pair, run: Path, drafts: list[np.ndarray], best: list[np.ndarray]) -> np.ndarray:
        """Subject, references, drafts, portraits, attention of both tokens, edited prompts."""
        rows = [
            labelled(photos_of(pair.subject)[:6], f"{pair.person}: the six photos"),
            labelled(photos_of(pair.style)[:6], f"{pair.preset}: the six references"),
            labelled(drafts[:6], "drafts, before any training: seeds 0 to 5"),
            labelled(
                best[:6],
                f"portraits: the six most alike of {self.pictures}, by another network than the loss's",
            ),
        ]
        words = ("{subject}", "{style}")
        tiles = []
        for portrait in self.portraits(run, count=3, attention_words=words):
            tiles += [heat_overlay(np.asarray(portrait.image), portrait.attention[word]) for word in words]
        rows.append(labelled(tiles, "where [V1] and [V2] look, three portraits"))
        for prompt in EDITS:
            made = [np.asarray(each.image) for each in self.portraits(run, prompt=prompt, count=6)]
            rows.append(labelled(made, prompt))
        return np.vstack(rows)

    def measure(self, pair: Pair, work: Path, out: Path) -> dict[str, Any]:
        """Draft, train, draw; write the sheet, and return what was measured."""
        person, style = (see_photos(photos_of(folder), self.judges) for folder in (pair.subject, pair.style))
        drafts = self.drafts(pair)
        run_training(pair, work / pair.name)
        pictures = [np.asarray(each.image) for each in self.portraits(work / pair.name)]
        values = [self.judges.faces.look(picture).vector for picture in pictures]
        alike = [-1.0 if v is None else metrics.csim_mean(v, person.vectors) for v in values]
        best = [pictures[i] for i in np.argsort(alike)[::-1]]
        path = work / f"personalised-{pair.name}.jpg"
        sheet = self.sheet(pair, work / pair.name, drafts, best)
        cv2.imwrite(str(path), sheet[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, 80])
        mark(path)
        if pair.name in SHOWN:
            shutil.copyfile(path, out / path.name)
        return {
            "portraits": numbers_of(pictures, person, style, self.judges),
            "drafts": numbers_of(drafts, person, style, self.judges),
            **reference_numbers(person, style),
        }


def between_people(judges: Judges) -> float:
    """What photos of other sample people reach by the measure of likeness: their mean cosine to a person's."""
    vectors = [
        see_photos(photos_of(folder), judges).vectors
        for folder in sorted(Path("assets/people").iterdir())
        if folder.is_dir()
    ]
    values = [
        metrics.csim_mean(other, one)
        for i, one in enumerate(vectors)
        for j, others in enumerate(vectors)
        if i != j
        for other in others
    ]
    return round(float(np.mean(values)), 3)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--work", required=True, type=Path, help="folder of the runs; finished ones are not trained again"
    )
    parser.add_argument("--judge", required=True, type=Path, help="w600k_mbf.onnx")
    parser.add_argument("--out", required=True, type=Path, help="folder of personalised.json and the sheets")
    parser.add_argument("--pictures", type=int, default=8)
    parser.add_argument("--people", nargs="+", default=PEOPLE)
    parser.add_argument("--presets", nargs="+", default=PRESETS)
    args = parser.parse_args()
    for folder in (args.out, args.work):
        folder.mkdir(parents=True, exist_ok=True)
    desk = Desk(args.judge, args.pictures)
    table, different = args.out / "personalised.json", between_people(desk.judges)
    for pair in (Pair(person, preset) for person in args.people for preset in args.presets):
        now = {pair.name: desk.measure(pair, args.work, args.out)}
        print(now, flush=True)
        # Read again: another call may have added other people meanwhile.
        pairs = json.loads(table.read_text())["pairs"] if table.exists() else {}
        numbers = {"different_people": different, "pictures": args.pictures, "pairs": pairs | now}
        table.write_text(json.dumps(numbers, indent=2) + "\n")


if __name__ == "__main__":
    main()
