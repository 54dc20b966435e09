"""What Stable Diffusion XL takes on a GPU: seconds of a step of each phase and peak memory, by resolution.

    python benchmarks/sdxl.py                                    # on a GPU: the published size with random weights
    python benchmarks/sdxl.py --model FOLDER --resolutions 1024  # a model of your own

Each line is printed as soon as it is measured. "low memory": gradient checkpointing and one item of each task per UNet
call. Compare the peaks with what docs/sdxl.md expects.
"""

from __future__ import annotations

import gc
import itertools
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import tyro

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.measuring import ROOT, concept, machine
from magicapture_core import GenerateConfig, TrainConfig, choose_analyser, generate, load, train
from magicapture_core.models import ModelBundle, best_device, best_dtype, bundle_of
from magicapture_core.problems import OutOfMemory

SETTINGS: dict[str, dict[str, Any]] = {
    "low memory": {"gradient_checkpointing": True, "items_per_call": 1},
    "planned": {},
}


@dataclass
class Arguments:
    """Measure Stable Diffusion XL."""

    model: str | None = None
    """A folder, file or hub id. Default: the published size with random weights, made on the way."""
    resolutions: tuple[int, ...] = (512, 768, 1024)
    steps: int = 4
    """Steps of each phase; the first is not counted."""
    drawing_steps: int = 20


def opened(model: str | None) -> ModelBundle:
    """The model on the best device. Random weights are made there: a GPU is lent for minutes."""
    device = best_device()
    if model is not None:
        return load(model, device=device)
    from tools.make_random_sdxl import random_pipeline

    dtype = best_dtype(device)
    with torch.device(device):
        pipeline = random_pipeline(dtype)
    return bundle_of(pipeline, "sdxl-random", device, dtype)


def measured(
    models: ModelBundle, concepts: dict[str, Any], config: TrainConfig, analyser: Any, run: Path
) -> Iterator[str]:
    """Seconds of a step and the peak of each phase, in words."""
    cuda = models.device.type == "cuda"
    seconds: dict[str, list[float]] = {}
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    for report in train(models, **concepts, config=config, run_folder=run, analyser=analyser):
        seconds.setdefault(report.phase, []).append(report.seconds)
        if report.phase_step == report.phase_steps:
            peak = f", peak {torch.cuda.max_memory_allocated() / 1e9:.1f} GB" if cuda else ""
            yield f"{report.phase}: {statistics.median(seconds[report.phase][1:]):.3f} s a step{peak}"
            if cuda:
                torch.cuda.reset_peak_memory_stats()


def drawn(models: ModelBundle, run: Path, analyser: Any, steps: int) -> str:
    """Seconds of a portrait with word maps, and its peak."""
    asked = GenerateConfig(count=1, steps=steps, seed=0, attention_words=("{subject}", "{style}"))
    started = time.perf_counter()
    portrait = next(generate(models, run, asked, analyser=analyser))
    seconds = time.perf_counter() - started
    cuda = models.device.type == "cuda"
    peak = f", peak {torch.cuda.max_memory_allocated() / 1e9:.1f} GB" if cuda else ""
    width, height = portrait.image.size
    return f"a portrait of {width}×{height} in {steps} steps: {seconds:.1f} s{peak}"


def main(arguments: Arguments) -> None:
    """Print a line for each measurement."""
    models, (analyser, _) = opened(arguments.model), choose_analyser()
    print(machine(models.device), flush=True)
    people = {"subject": ROOT / "assets" / "people" / "bruno", "style": ROOT / "presets" / "golden-hour"}
    with tempfile.TemporaryDirectory() as folder:
        for resolution, (name, changes) in itertools.product(arguments.resolutions, SETTINGS.items()):
            concepts: dict[str, Any] = {
                role: concept(role, path, resolution, analyser)  # type: ignore[arg-type]
                for role, path in people.items()
            }
            config = TrainConfig(
                resolution=resolution, ti_steps=arguments.steps, lora_steps=arguments.steps, sample_every=0,
                attention_every=0, **changes,
            )  # fmt: skip
            run = Path(folder) / f"{resolution}-{name}"
            try:
                for line in measured(models, concepts, config, analyser, run):
                    print(f"{resolution} px, {name}, {line}", flush=True)
            except OutOfMemory as error:
                print(f"{resolution} px, {name}: {error}", flush=True)
            gc.collect()
        print(drawn(models, run, analyser, arguments.drawing_steps), flush=True)


if __name__ == "__main__":
    main(tyro.cli(Arguments, description=__doc__))
