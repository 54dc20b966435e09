"""Scores the checkpoints of one run at several adapter scales on its photos, and recommends one."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from PIL import Image

from magicapture_core.adapters.files import FOLDER, copy_adapter, has_embeddings, has_weights
from magicapture_core.checkpoints import Run
from magicapture_core.config import GenerateConfig, from_dict
from magicapture_core.evaluation import metrics
from magicapture_core.evaluation.judges import Judges
from magicapture_core.evaluation.scoring import People, score_picture, see_photos
from magicapture_core.evaluation.sheets import labelled_rows
from magicapture_core.files import atomic_file
from magicapture_core.generation import generate
from magicapture_core.models import ModelBundle
from magicapture_core.photos import Photo
from magicapture_core.problems import Problem, RunProblem
from magicapture_core.provenance import save_picture

SCALES = (0.6, 0.8, 1.0)
FIRST_SEED = 2000
TOLERANCE = 0.02
"""Differences in CSIM plus Style below this are noise with a handful of pictures; the smaller scale is then taken, for
it leaves the model more freedom (poses, edits)."""


@dataclass(frozen=True, eq=False)
class Choice:
    """One checkpoint at one scale, and what it scored."""

    checkpoint: str
    """Name of the checkpoint's folder."""
    scale: float
    csim: float
    """Mean over the pictures, 0 where no face was found."""
    style: float
    faces: float
    copying: float
    pictures: tuple[Image.Image, ...]

    @property
    def score(self) -> float:
        """CSIM plus Style: the paper's two numbers for the two things that are wanted."""
        return self.csim + self.style

    @property
    def text(self) -> str:
        """For a line of a sheet or a terminal."""
        return (
            f"{self.checkpoint} at {self.scale:g}: CSIM {self.csim:.3f}, style {self.style:.3f}, "
            f"with a face {self.faces:.0%}, nearest photo {self.copying:.2f}"
        )


def score_run(
    models: ModelBundle,
    run: Path | str,
    subject: Sequence[Photo],
    style: Sequence[Photo],
    *,
    checkpoints: Sequence[str] | None = None,
    scales: Sequence[float] = SCALES,
    pictures: int = 6,
    judges: Judges | None = None,
) -> Iterator[Choice]:
    """Try checkpoints of a run at every scale, on the same seeds; yields as they are scored.

    subject, style: the photos the run was trained on. checkpoints: names of their folders; None: all.
    judges: None chooses, with a face network that the run's loss did not use where one is here. Raises RunProblem where
    no such checkpoint has an adapter.
    """
    found = Run.open(run)
    facts = found.facts()
    if facts.config.subject_kind != "person":
        raise Problem(f"{found.folder} learned an object; only people can be scored, by their faces.")
    judges = judges or Judges.chosen(facts.likeness)
    person = see_photos((photo.pixels for photo in subject), judges)
    if not len(person.vectors):
        raise Problem("No face was found in the subject's photos. Give the photos the run was trained on.")
    references = see_photos((photo.pixels for photo in style), judges)
    usable = [
        path
        for path in found.checkpoints()
        if has_embeddings(path) and (checkpoints is None or path.name in checkpoints)
    ]
    if not usable:
        raise RunProblem(f"{found.folder} has no checkpoint yet. Train it first.")
    for checkpoint in usable:
        with _as_run(found, checkpoint) as folder:
            # Without weights the scale changes nothing.
            for scale in scales if has_weights(folder / FOLDER) else scales[-1:]:
                yield _score(models, folder, checkpoint.name, scale, pictures, person, references, judges)


def recommend(choices: Sequence[Choice]) -> Choice:
    """The highest CSIM plus Style; of those within the tolerance the smallest scale, then the later checkpoint."""
    if not choices:
        raise ValueError("expected at least one choice")
    best = max(choice.score for choice in choices)
    near = [choice for choice in choices if choice.score >= best - TOLERANCE]
    smallest = min(choice.scale for choice in near)
    return max((choice for choice in near if choice.scale == smallest), key=lambda choice: choice.checkpoint)


def write_evidence(choices: Sequence[Choice], out: Path, judges: Judges) -> Choice:
    """OUT/choices.jpg, a row of pictures per choice, and OUT/choices.json. Returns the recommended one."""
    best = recommend(choices)
    rows = [
        (("RECOMMENDED  " if choice is best else "") + choice.text, choice.pictures) for choice in choices
    ]
    save_picture(
        labelled_rows(rows, tile=160), out / "choices.jpg", prompt=None, seed=FIRST_SEED, settings={}
    )
    table = [
        {
            "checkpoint": choice.checkpoint, "scale": choice.scale, "csim": choice.csim, "style": choice.style,
            "faces": choice.faces, "copying": choice.copying, "recommended": choice is best,
        }
        for choice in choices
    ]  # fmt: skip
    with atomic_file(out / "choices.json") as path:
        path.write_text(
            json.dumps({"choices": table, "judges": judges.notes()}, indent=2) + "\n", encoding="utf-8"
        )
    return best


def _score(
    models: ModelBundle,
    folder: Path,
    checkpoint: str,
    scale: float,
    count: int,
    person: People,
    references: People,
    judges: Judges,
) -> Choice:
    config = from_dict(GenerateConfig, dict(models.generate_defaults))
    config = replace(config, count=count, seed=FIRST_SEED, adapter_scale=scale)
    pictures = tuple(portrait.image for portrait in generate(models, folder, config))
    scores = [
        score_picture(judges.faces.look(np.asarray(picture)), person, references, judges)
        for picture in pictures
    ]
    return Choice(
        checkpoint=checkpoint,
        scale=scale,
        csim=metrics.mean_of([score["csim_mean"] or 0.0 for score in scores]),
        style=metrics.mean_of([score["style_score"] for score in scores]),
        faces=metrics.mean_of([float(score["face"]) for score in scores]),
        copying=metrics.mean_of([score["copying"] for score in scores]),
        pictures=pictures,
    )


@contextmanager
def _as_run(run: Run, checkpoint: Path) -> Iterator[Path]:
    """A run folder whose adapter is the checkpoint's, for as long as the context lasts. The run is not changed."""
    with TemporaryDirectory(prefix="magicapture-") as temporary:
        folder = Path(temporary)
        shutil.copyfile(run.folder / "config.json", folder / "config.json")
        copy_adapter(checkpoint, folder / FOLDER)
        yield folder
