"""One cell of the table: a method learns a person and a style and makes pictures; the pictures are scored.

OUT/cells/IDENTITY/STYLE/METHOD/
    run/             the training's run folder
    trained.json     after the training: how long it took
    pictures/        COMPOSED-SEED.png and EDIT-SEED.png
    cell.json        at the end: a row per picture, and what was measured for the whole cell

Each step writes a file when it is done, so that a cell whose process was killed continues from there.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np

from magicapture_core.adapters.files import UNET_FILE
from magicapture_core.checkpoints import Run
from magicapture_core.concepts import Concept, prepare_concept
from magicapture_core.config import Framing, GenerateConfig, from_dict
from magicapture_core.evaluation import metrics
from magicapture_core.evaluation.benchmark import Benchmark, load_benchmark
from magicapture_core.evaluation.class_pictures import class_latents
from magicapture_core.evaluation.edits import ANYONE, ANYONE_PROMPT, COMPOSED, EDITS
from magicapture_core.evaluation.judges import Judges
from magicapture_core.evaluation.methods import method_of
from magicapture_core.evaluation.scoring import (
    People,
    attention_at_the_end,
    score_edits,
    score_picture,
    see_photos,
)
from magicapture_core.evaluation.tasks import SMOKE, EncoderName, FaceVariant, Setup, Task
from magicapture_core.faces import choose_analyser
from magicapture_core.files import atomic_file
from magicapture_core.generation import Portrait, draft, generate
from magicapture_core.models import ModelBundle, load
from magicapture_core.photos import read_photo
from magicapture_core.problems import Problem
from magicapture_core.progress import Progress
from magicapture_core.prompts import COMPOSED_PROMPT
from magicapture_core.training import train

FIRST_SEED = 1000
"""Seed of the first picture; the same for every cell, so that methods are compared on the same noise."""
SMOKE_STEPS = 2


def is_done(task: Task, setup: Setup, out: Path) -> bool:
    """Whether the cell is finished."""
    return finished_cell(task, setup, out) is not None


def finished_cell(task: Task, setup: Setup, out: Path) -> dict[str, Any] | None:
    """The content of cell.json, if it has the wanted pictures, scored by the wanted networks; else None."""
    cell = read_cell(task, out)
    return cell if cell is not None and cell["wanted"] == _wanted(setup) else None


def read_cell(task: Task, out: Path) -> dict[str, Any] | None:
    """The content of a cell's cell.json, for any settings; None if there is no such file."""
    path = task.folder(out) / "cell.json"
    try:
        cell: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return cell


def run_cell(task: Task, setup: Setup, out: Path, progress: Progress | None = None) -> None:
    """Train, draw and score what the cell does not have yet. Raises Problem where this is not possible.

    progress: called after each optimizer step, with the cell's name. If it raises StoppedError, the training is saved,
    and the next call continues it.
    """
    if is_done(task, setup, out):
        return
    folder, models = task.folder(out), models_for(setup.model)
    prompts = _prompts(setup)
    if any(not path.exists() for path in _pictures(folder, prompts)):
        _train(task, setup, models, folder, progress)
        for kind, (prompt, count) in prompts.items():
            _draw(kind, prompt, count, task, setup, models, folder)
    cell = _judge(task, setup, folder, prompts)
    if not setup.keep_runs:
        _tidy(folder)
    with atomic_file(folder / "cell.json") as path:
        path.write_text(json.dumps(cell, indent=1) + "\n", encoding="utf-8")


# --- train ----------------------------------------------------------------------------------------


def _train(task: Task, setup: Setup, models: ModelBundle, folder: Path, progress: Progress | None) -> None:
    marker, run_folder = folder / "trained.json", folder / "run"
    if marker.exists() and all(
        (run_folder / "adapter" / name).exists() for name in _trained(folder)["files"]
    ):
        return
    marker.unlink(missing_ok=True)  # a whole UNet was deleted after use and must be trained again
    analyser = choose_analyser(setup.faces)[0]
    if analyser.embedder().name != setup.likeness:
        raise Problem(
            f"The face network of the loss is {analyser.embedder().name} here, expected {setup.likeness}: not every "
            "machine has the same weight files. Give all of them the same, or say which with --faces."
        )
    method = method_of(task.method)
    if not method.trains:
        _write_facts(
            marker, {"seconds": 0.0, "steps": 0, "attention": [], "likeness": setup.likeness, "files": []}
        )
        return
    config = method.config(setup.schedule, models, setup.seed)
    resume = (run_folder / "config.json").exists()
    reports = train(
        models,
        _concept(setup, "subject", task.identity),
        _concept(setup, "style", task.style),
        config,
        run_folder,
        analyser=analyser,
        class_latents=class_latents(models, config),
        resume=resume,
    )
    with closing(reports):
        for report in reports:
            if progress is not None:
                progress(str(task), report.step, report.total_steps)
    run = Run.open(run_folder)
    rows = run.losses()
    facts = {
        "seconds": round(sum(row["seconds"] for row in rows), 2),
        "steps": len(rows),
        "attention": [row for row in run.attention() if row["step"] == rows[-1]["step"]],
        "likeness": run.facts().likeness,
        "files": sorted(path.name for path in run.adapter.glob("*.safetensors")),
    }
    _write_facts(marker, facts)


def _write_facts(marker: Path, facts: dict[str, Any]) -> None:
    marker.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(marker) as path:
        path.write_text(json.dumps(facts) + "\n", encoding="utf-8")


def _tidy(folder: Path) -> None:
    """Delete checkpoints and whole UNets, which take gigabytes; keep a LoRA, so that more pictures can be made."""
    for checkpoint in Run(folder / "run").checkpoints():
        shutil.rmtree(checkpoint, ignore_errors=True)
    (folder / "run" / "adapter" / UNET_FILE).unlink(missing_ok=True)


# --- draw -----------------------------------------------------------------------------------------


def _prompts(setup: Setup) -> dict[str, tuple[str, int]]:
    """Kind → prompt and number of pictures."""
    prompts = {COMPOSED: (COMPOSED_PROMPT, setup.pictures)}
    if setup.edited_pictures:
        prompts |= {name: (edit.prompt, setup.edited_pictures) for name, edit in EDITS.items()}
    if setup.other_people:
        prompts[ANYONE] = (ANYONE_PROMPT, setup.other_people)
    return prompts


def _picture(folder: Path, kind: str, seed: int) -> Path:
    return folder / "pictures" / f"{kind.replace(' ', '-')}-{seed}.png"


def _pictures(folder: Path, prompts: Mapping[str, tuple[str, int]]) -> Iterator[Path]:
    for kind, (_, count) in prompts.items():
        for number in range(count):
            yield _picture(folder, kind, FIRST_SEED + number)


def _draw(
    kind: str, prompt: str, count: int, task: Task, setup: Setup, models: ModelBundle, folder: Path
) -> None:
    """Make the missing pictures of one prompt."""
    done = 0
    while done < count and _picture(folder, kind, FIRST_SEED + done).exists():
        done += 1
    if done == count:
        return
    config = replace(
        portrait_settings(models, setup), prompt=prompt, count=count - done, seed=FIRST_SEED + done
    )
    (folder / "pictures").mkdir(parents=True, exist_ok=True)
    for portrait in _portraits(task, setup, models, folder, config):
        portrait.save(_picture(folder, kind, portrait.seed))


def _portraits(
    task: Task, setup: Setup, models: ModelBundle, folder: Path, config: GenerateConfig
) -> Iterator[Portrait]:
    method, analyser = method_of(task.method), choose_analyser(setup.faces)[0]
    if method.trains:
        scale = config.adapter_scale if method.adapter_scale is None else method.adapter_scale
        config = replace(config, adapter_scale=scale, adapter_start=method.adapter_start)
        return generate(models, folder / "run", config, analyser=analyser)
    subject, style = _concept(setup, "subject", task.identity), _concept(setup, "style", task.style)
    return draft(models, subject, style, config, analyser=analyser)


def portrait_settings(models: ModelBundle, setup: Setup) -> GenerateConfig:
    """Settings for the pictures of every method, except the adapter scale."""
    config = from_dict(GenerateConfig, dict(models.generate_defaults))
    steps = setup.steps or (SMOKE_STEPS if setup.schedule == SMOKE else config.steps)
    return replace(config, steps=steps)


# --- judge ----------------------------------------------------------------------------------------


def _wanted(setup: Setup) -> dict[str, Any]:
    return {
        "pictures": setup.pictures,
        "edited_pictures": setup.edited_pictures,
        "other_people": setup.other_people,
        "judged_by": list(setup.judged_by),
    }


def _judge(task: Task, setup: Setup, folder: Path, prompts: Mapping[str, tuple[str, int]]) -> dict[str, Any]:
    """The content of cell.json."""
    facts = _trained(folder)
    judges = judges_for(facts["likeness"], setup.encoder)
    if judges.names != setup.judged_by:
        raise Problem(
            f"The judges here are {', '.join(judges.names)}, expected {', '.join(setup.judged_by)}: not every machine "
            "has the same weight files. Give all of them the same."
        )
    benchmark = load_benchmark(setup.benchmark)
    photos = folder_of(benchmark, "identities", task.identity)
    trained_on = benchmark.training_photos(task.identity, setup.held_out)
    person = _seen(trained_on, judges)
    held_out = _seen(photos[len(trained_on) :], judges) if setup.held_out else None
    style = _seen(folder_of(benchmark, "styles", task.style), judges)
    neutral = task.style in benchmark.neutral
    rows, plain = [], []
    for kind, (prompt, count) in prompts.items():
        for number in range(count):
            path = _picture(folder, kind, FIRST_SEED + number)
            seen = judges.faces.look(read_photo(path).pixels)
            rows.append(
                {
                    "identity": task.identity, "style": task.style, "method": task.method, "kind": kind,
                    "prompt": prompt, "seed": FIRST_SEED + number,
                    "file": path.relative_to(folder.parents[3]).as_posix(),
                    **score_picture(seen, person, style, judges, held_out=held_out, neutral=neutral),
                    **score_edits(kind, seen, judges),
                }
            )  # fmt: skip
            if kind == COMPOSED:
                plain.append(judges.images.embed(seen.pixels))
    return {
        "wanted": _wanted(setup),
        "seconds": facts["seconds"],
        "steps": facts["steps"],
        "likeness": facts["likeness"],
        "diversity": metrics.diversity(np.stack(plain)),
        **attention_at_the_end(facts["attention"]),
        "judges": judges.notes(),
        "pictures": rows,
    }  # fmt: skip


def _trained(folder: Path) -> dict[str, Any]:
    facts: dict[str, Any] = json.loads((folder / "trained.json").read_text(encoding="utf-8"))
    return facts


# --- what every cell of a process shares ----------------------------------------------------------


def folder_of(benchmark: Benchmark, which: Literal["identities", "styles"], name: str) -> tuple[Path, ...]:
    """The photos of one identity or style. Raises Problem if the benchmark does not have it."""
    found: Mapping[str, tuple[Path, ...]] = getattr(benchmark, which)
    if name not in found:
        raise Problem(f"{benchmark.folder / which} has no {name}; it has {', '.join(found)}.")
    return found[name]


@lru_cache(maxsize=1)
def models_for(name: str) -> ModelBundle:
    """Loaded once per process."""
    return load(name)


@lru_cache(maxsize=4)
def judges_for(likeness: str, encoder: EncoderName) -> Judges:
    """Chosen once per process."""
    return Judges.chosen(likeness, encoder)


@lru_cache(maxsize=256)
def _seen(paths: tuple[Path, ...], judges: Judges) -> People:
    return see_photos((read_photo(path).pixels for path in paths), judges)


def _concept(setup: Setup, role: Literal["subject", "style"], name: str) -> Concept:
    models = models_for(setup.model)
    benchmark = load_benchmark(setup.benchmark)
    if role == "subject":
        folder_of(benchmark, "identities", name)
        paths = benchmark.training_photos(name, setup.held_out)
    else:
        paths = folder_of(benchmark, "styles", name)
    return _prepared(paths, role, models.resolution, setup.faces, models.framing)


@lru_cache(maxsize=64)
def _prepared(
    paths: tuple[Path, ...],
    role: Literal["subject", "style"],
    resolution: int,
    faces: FaceVariant,
    framing: Framing,
) -> Concept:
    analyser = choose_analyser(faces)[0]
    return prepare_concept(
        [read_photo(path) for path in paths], role, resolution=resolution, analyser=analyser, framing=framing
    )
