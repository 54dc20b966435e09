"""How the cost of training grows: with photos, with resolution, with steps. And one quick run as a whole.

    python benchmarks/growth.py [--json]

Phase 2 steps of the mini model. Photos: preparing them, and a step, with 2 to 16 of the person and of the style; what
is cached should make the step indifferent to how many there are. Resolution: a step at 64 to 192 pixels. Steps: the
seconds of a step late in a run over those early in it; 1 where time grows as steps do. The quick run: the command line
in processes of their own, time and peak memory.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import tyro
from accelerate import PartialState

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.measuring import ROOT, machine, show
from magicapture_core import (
    Photo,
    TrainConfig,
    choose_analyser,
    list_photos,
    load,
    prepare_concept,
    read_photo,
)
from magicapture_core.config import from_dict
from magicapture_core.faces import FaceAnalyser
from magicapture_core.models import ModelBundle
from magicapture_core.training.preparation import prepared
from tools.measured import measured

PHOTOS = (2, 4, 8, 16)
RESOLUTIONS = (128, 192, 256, 320)
USUAL = 256
"""Pixels of a side, the mini model's own."""
FOREVER = 10**6


@dataclass
class Arguments:
    """Measure how cost grows."""

    rounds: int = 3
    """Every case has its turn in each; what is given is their median."""
    steps: int = 5
    """Steps of a turn that are measured."""
    length: int = 90
    """Steps of the run whose beginning and end are compared."""
    json: bool = False
    """Print JSON instead of a table."""


def main(arguments: Arguments) -> dict[str, Any]:
    models, (analyser, _) = load("mini"), choose_analyser("bundled")
    found: dict[tuple[int, int], list[tuple[float, float]]] = {}
    cases = [*((count, USUAL) for count in PHOTOS), *((4, side) for side in RESOLUTIONS)]
    for _ in range(arguments.rounds):
        for count, side in dict.fromkeys(cases):
            with _steps(models, analyser, count, side) as (advance, preparing):
                found.setdefault((count, side), []).append(
                    (preparing, statistics.median(advance() for _ in range(arguments.steps)))
                )
    preparing_by = {case: statistics.median(turn[0] for turn in turns) for case, turns in found.items()}
    step = {case: statistics.median(turn[1] for turn in turns) for case, turns in found.items()}
    with _steps(models, analyser, 4, USUAL) as (advance, _):
        seconds = [advance() for _ in range(arguments.length)]
    third = arguments.length // 3
    return {
        "machine": machine(torch.device("cpu")),
        "preparing_seconds_by_photos": {count: round(preparing_by[count, USUAL], 2) for count in PHOTOS},
        "step_seconds_by_photos": {count: round(step[count, USUAL], 3) for count in PHOTOS},
        "step_seconds_by_resolution": {side: round(step[4, side], 3) for side in RESOLUTIONS},
        "late_over_early_steps": round(
            statistics.median(seconds[-third:]) / statistics.median(seconds[:third]), 3
        ),
        **_quick_run(),
    }


@contextmanager
def _steps(models: ModelBundle, analyser: FaceAnalyser, count: int, side: int) -> Iterator[Any]:
    """A function that makes a step of phase 2 and says how long it took; and how long it took to get there."""
    changes = {"resolution": side, "ti_steps": 0, "lora_steps": FOREVER, "sample_every": 0, "attention_every": 0,
               "checkpoint_every": FOREVER, "attention_resolution": None}  # fmt: skip
    config = from_dict(TrainConfig, {**models.schedules["quick"], **changes})
    pools = {"subject": _photos("assets/people/*/1.jpg"), "style": _photos("presets/*/1.jpg")}
    started = time.perf_counter()
    concepts = {role: _concept(role, photos[:count], side, analyser) for role, photos in pools.items()}  # type: ignore[arg-type]
    with (
        prepared(
            models, concepts["subject"], concepts["style"], config, PartialState(cpu=True), analyser
        ) as ready,
    ):
        preparing = time.perf_counter() - started

        def advance() -> float:
            begun = time.perf_counter()
            ready.optimisation.advance()
            return time.perf_counter() - begun

        advance()  # puts the LoRA into the networks
        yield advance, preparing


def _photos(pattern: str) -> list[Photo]:
    """Those that come with the project, of several people: how many there are counts here, not who they show."""
    folders = sorted(path.parent for path in ROOT.glob(pattern))
    return [read_photo(path) for folder in folders for path in list_photos(folder)]


def _concept(
    role: Literal["subject", "style"], photos: list[Photo], side: int, analyser: FaceAnalyser
) -> Any:
    named = [Photo(f"{number}.jpg", photo.pixels) for number, photo in enumerate(photos)]
    return prepare_concept(named, role, analyser=analyser, resolution=side)


def _quick_run() -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder:
        run = f"{folder}/run"
        asked = ("--subject", "assets/people/alma", "--preset", "passport", "--model", "mini", "--out", run)
        train = measured("train", *asked)
        generate = measured("generate", run, "--out", f"{folder}/pictures", "--count", "4")
    return {
        "quick_run_seconds": round(train[0], 1),
        "quick_run_peak_mb": round(train[1] / 1e6),
        "four_portraits_seconds": round(generate[0], 1),
        "four_portraits_peak_mb": round(generate[1] / 1e6),
    }


if __name__ == "__main__":
    chosen = tyro.cli(Arguments, description=__doc__)
    outcome = main(chosen)
    show(outcome, chosen.json)
