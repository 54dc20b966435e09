"""What a GPU takes for the paper's schedule: time, peak memory, bfloat16 against float32, portraits against diffusers.

    python benchmarks/full_size.py                    # on a GPU: Stable Diffusion 1.5's size at 512 px
    python benchmarks/full_size.py --model mini       # anywhere, to try it; no memory without a GPU

Time: steps of both phases, and what 1200 and 1500 of them take. "low memory": gradient checkpointing and one item of
each task per UNet call. Agreement: the largest relative difference of a loss term on the same items. Portraits: ours,
with likeness and adapter, over a plain StableDiffusionPipeline with the same adapter.
"""

from __future__ import annotations

import math
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import tyro
from accelerate import PartialState

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.measuring import ROOT, concept, load_model, machine, ratio, show, take_turns
from magicapture_core import GenerateConfig, TrainConfig, choose_analyser, generate, train
from magicapture_core.config import from_dict
from magicapture_core.models import ModelBundle
from magicapture_core.problems import OutOfMemory
from magicapture_core.prompts import expand
from magicapture_core.training.draws import draw_step
from magicapture_core.training.optimisation import PHASES
from magicapture_core.training.preparation import prepared

PAPER = {"ti_steps": 1200, "lora_steps": 1500}
SETTINGS: dict[str, dict[str, Any]] = {
    "standard": {},
    "low_memory": {"gradient_checkpointing": True, "items_per_call": 1},
}
PROMPT = "a photo of a {subject} in the {style}"


@dataclass
class Arguments:
    """Measure a training by the paper's schedule, and portraits."""

    model: Literal["sd15-random", "mini"] = "sd15-random"
    steps: int = 10
    """Steps of each phase that are measured, after two more."""
    pictures: int = 4
    drawing_steps: int = 30
    rounds: int = 3
    """Rounds of drawing; in each, ours and diffusers have their turn."""
    json: bool = False
    """Print JSON instead of a line each."""


def main(arguments: Arguments) -> dict[str, Any]:
    if arguments.model == "sd15-random" and not torch.cuda.is_available():
        raise SystemExit(
            "Stable Diffusion 1.5's size takes hours on a CPU. Use a GPU, or --model mini to try this."
        )
    models = load_model(arguments.model)
    analyser, _ = choose_analyser("bundled")
    base = {
        "resolution": models.resolution,
        "sample_every": 0,
        "attention_every": 0,
        "checkpoint_every": 10**6,
    }
    concepts = {
        "subject": concept("subject", ROOT / "assets" / "people" / "alma", models.resolution, analyser),
        "style": concept("style", ROOT / "presets" / "passport", models.resolution, analyser),
    }
    results: dict[str, Any] = {"machine": machine(models.device), "model": arguments.model,
                               "resolution": models.resolution}  # fmt: skip
    for name, changes in SETTINGS.items():
        settings = {**base, **changes, "ti_steps": arguments.steps + 2, "lora_steps": arguments.steps + 2}
        config = from_dict(TrainConfig, settings)
        try:
            facts = _training(models, concepts, config, analyser)
        except OutOfMemory as problem:
            facts = {"problem": str(problem)}
        results |= {f"{name}_{what}": value for what, value in facts.items()}
    results |= _portraits(models, concepts, from_dict(TrainConfig, {**base, "ti_steps": 1, "lora_steps": 1}),
                          analyser, arguments)  # fmt: skip
    results["bfloat16_loss_difference"] = _agreement(arguments.model, concepts, base, analyser)
    return results


def _training(models: ModelBundle, concepts: Any, config: TrainConfig, analyser: Any) -> dict[str, Any]:
    """Seconds a step of each phase, minutes of the paper's schedule, and the most memory a GPU held."""
    cuda = models.device.type == "cuda"
    if cuda:
        torch.cuda.reset_peak_memory_stats(models.device)
    seconds: dict[str, list[float]] = {phase: [] for phase in PHASES}
    with tempfile.TemporaryDirectory() as folder:
        last = time.perf_counter()
        for report in train(
            models, **concepts, config=config, run_folder=Path(folder) / "run", analyser=analyser
        ):
            now = time.perf_counter()  # a report holds the step's losses, so the GPU has finished it
            if report.phase_step > 2:
                seconds[report.phase].append(now - last)
            last = now
    step = {phase: statistics.median(values) for phase, values in seconds.items()}
    minutes = sum(step[phase] * steps for phase, steps in zip(PHASES, PAPER.values(), strict=True)) / 60
    facts: dict[str, Any] = {f"seconds_phase{k}": round(step[phase], 3) for k, phase in enumerate(PHASES, 1)}
    facts["paper_schedule_minutes"] = round(minutes, 1)
    if cuda:
        facts["peak_gb"] = round(torch.cuda.max_memory_allocated(models.device) / 1e9, 2)
    return facts


def _portraits(
    models: ModelBundle, concepts: Any, config: TrainConfig, analyser: Any, arguments: Arguments
) -> dict[str, Any]:
    """Seconds of ours and of plain diffusers for the same pictures, and their ratio."""
    count = arguments.pictures
    asked = GenerateConfig(
        prompt=PROMPT, count=count, steps=arguments.drawing_steps, seed=0, enlarge=1, pictures_per_call=count,
        adapter_scale=1,
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        for _ in train(models, **concepts, config=config, run_folder=run, analyser=analyser):
            pass
        cases: dict[str, Callable[[], object]] = {
            "ours": lambda: list(generate(models, run, asked, analyser=analyser)),
            "diffusers": lambda: _by_diffusers(models, asked, run / "adapter"),
        }
        seconds = take_turns(cases, arguments.rounds, models.device)
    facts = {
        f"portraits_seconds_{name}": round(statistics.median(values), 2) for name, values in seconds.items()
    }
    return facts | {"portraits_over_diffusers": round(ratio(seconds, "ours", "diffusers"), 3)}


def _by_diffusers(models: ModelBundle, asked: GenerateConfig, adapter: Path) -> None:
    """The same pictures with nothing of ours: adapter loaded, drawn, adapter taken out, as ours does."""
    pipeline = models.pipeline(asked.scheduler)
    pipeline.load_lora_weights(adapter, weight_name="pytorch_lora_weights.safetensors")
    for name in ("subject", "style"):
        pipeline.load_textual_inversion(adapter / f"{name}.safetensors", token=f"<{name}>")
    pipeline(
        expand(asked.prompt).text,
        num_images_per_prompt=asked.count,
        generator=[torch.Generator().manual_seed(seed) for seed in range(asked.count)],
        num_inference_steps=asked.steps,
        guidance_scale=asked.guidance_scale,
        height=models.resolution,
        width=models.resolution,
    )
    pipeline.unload_lora_weights()
    pipeline.unload_textual_inversion()


def _agreement(model: str, concepts: Any, base: dict[str, Any], analyser: Any) -> float:
    """The largest relative difference of a term of phase 2 between bfloat16 and float32, on the same items."""
    found = []
    for dtype in (torch.float32, torch.bfloat16):
        models = load_model(model, dtype)
        config = from_dict(TrainConfig, {**base, "ti_steps": 0, "lora_steps": 1, "items_per_call": 1})
        processes = PartialState(cpu=models.device.type == "cpu")
        with prepared(models, **concepts, config=config, processes=processes, analyser=analyser) as ready:
            draw = draw_step(torch.Generator().manual_seed(1), ready.optimisation.sizes, PHASES[1], config)
            terms = ready.optimisation.objective.step(draw, PHASES[1], config.style_weight, 1)
            found.append({name: float(value) for name, value in terms.items()})
        del models, ready
    exact, rounded = found
    if not all(math.isfinite(value) for terms in found for value in terms.values()):
        raise SystemExit(f"A loss is not finite: {found}")
    return round(max(abs(rounded[name] - value) / max(abs(value), 1e-6) for name, value in exact.items()), 4)


if __name__ == "__main__":
    chosen = tyro.cli(Arguments, description=__doc__)
    outcome = main(chosen)
    show(outcome, chosen.json)
