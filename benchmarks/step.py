"""One optimizer step of each phase against the network passes it cannot avoid, and against a plain loop.

    python benchmarks/step.py --model mini [--json]
    python benchmarks/step.py --model sd15-random [--resolution 512] [--json]

sd15-random: Stable Diffusion 1.5's published sizes with random weights, which do not change the speed.
Overhead: what a whole step (drawing, text encoder, maps, losses, face recognition, optimizer, log) takes beyond its
UNet and decoder passes alone. Own work: beyond the passes of all its networks, text encoder and face recognition
included. Speed-up: the plain loop of plain_loop.py over ours, on the same items with the same losses.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import tyro
from accelerate import PartialState

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.measuring import ROOT, concept, load_model, machine, ratio, take_turns
from benchmarks.plain_loop import PlainLoop
from magicapture_core import TrainConfig, choose_analyser
from magicapture_core.checkpoints import Run
from magicapture_core.concepts import Concept
from magicapture_core.config import from_dict
from magicapture_core.faces import FaceAnalyser
from magicapture_core.models import ModelBundle
from magicapture_core.models.conditioning import Conditioning
from magicapture_core.training.draws import Phase, draw_step, tasks_of
from magicapture_core.training.optimisation import PHASES, Optimisation
from magicapture_core.training.preparation import prepared
from magicapture_core.training.previews import shown_pictures
from magicapture_core.training.recorder import Recorder

FOREVER = 10**6


@dataclass
class Arguments:
    """Compare one optimizer step with its bare passes and with a plain loop."""

    model: Literal["mini", "sd15-random"] = "mini"
    rounds: int = 9
    """Rounds; in each, every case has its turn."""
    resolution: int | None = None
    """Pixels. Default: the model's."""
    items: int | None = None
    """Items of each task per step. Default: 4, as in the paper."""
    plain: bool = True
    """Also measure the plain loop."""
    json: Annotated[bool, tyro.conf.arg(help="Print JSON instead of a table.")] = False


def main(arguments: Arguments) -> dict[str, Any]:
    models = load_model(arguments.model)
    config = _config(models, arguments)
    analyser, _ = choose_analyser("bundled")
    subject = concept("subject", ROOT / "assets" / "people" / "alma", config.resolution, analyser)
    style = concept("style", ROOT / "presets" / "passport", config.resolution, analyser)
    results: dict[str, Any] = {"machine": machine(models.device), "model": arguments.model,
                               "resolution": config.resolution, "items": config.items_per_step}  # fmt: skip
    for number, phase in enumerate(PHASES, 1):
        changes = {"lora_steps": 0} if phase == PHASES[0] else {"ti_steps": 0}
        own = from_dict(TrainConfig, {**config.__dict__, **changes})
        results |= {
            f"phase{number}_{name}": value
            for name, value in _measure(models, own, subject, style, analyser, phase, arguments).items()
        }
    if arguments.plain:
        results["speedup_vs_plain"] = results["phase2_speedup_vs_plain"]
    return results


def _measure(
    models: ModelBundle,
    config: TrainConfig,
    subject: Concept,
    style: Concept,
    analyser: FaceAnalyser,
    phase: Phase,
    arguments: Arguments,
) -> dict[str, Any]:
    processes = PartialState(cpu=models.device.type == "cpu")
    with (
        prepared(models, subject, style, config, processes, analyser) as ready,
        tempfile.TemporaryDirectory() as folder,
    ):
        optimisation, run = ready.optimisation, Run.create(Path(folder) / "run", ready.facts)
        recorder = Recorder(run, optimisation, config, shown_pictures(subject, style), ready.analyser)
        recorder.begin()

        def ours() -> None:
            step = optimisation.launch()
            recorder.record(step, optimisation.settle(step))

        ours()  # phase 2 puts its LoRA into the networks
        cases: dict[str, Callable[[], object]] = {"ours": ours, "bare": lambda: _bare(optimisation, phase),
                                                 "networks": lambda: _networks(optimisation, phase)}  # fmt: skip
        facts: dict[str, Any] = {}
        if arguments.plain:
            plain = PlainLoop(optimisation.objective, subject, style, optimisation.trained())
            draw = draw_step(torch.Generator().manual_seed(1), optimisation.sizes, phase, config)
            cases["plain"] = lambda: plain.step(draw, phase)
            facts["loss_difference"] = _difference(optimisation, plain, draw, phase)
        seconds = take_turns(cases, arguments.rounds, models.device)
    facts |= {f"seconds_{name}": statistics.median(values) for name, values in seconds.items()}
    facts["overhead"] = ratio(seconds, "ours", "bare") - 1
    facts["own_work"] = ratio(seconds, "ours", "networks") - 1
    if arguments.plain:
        facts["speedup_vs_plain"] = ratio(seconds, "plain", "ours")
    return {name: round(value, 4) for name, value in facts.items()}


def _bare(optimisation: Optimisation, phase: Phase) -> None:
    """The UNet passes of a step, and the decoder's, forward and backward, on inputs that lie ready."""
    objective, config, per_call = (
        optimisation.objective,
        optimisation.config,
        optimisation.plan.items_per_call,
    )
    models = objective.models
    tasks = len(tasks_of(phase, config))
    _, channels, height, width = objective.style.latents.shape
    tokens, hidden_width = models.tokenizer.model_max_length, models.unet.config.cross_attention_dim
    objective.store.positions = None
    for start in range(0, config.items_per_step, per_call):
        items = min(per_call, config.items_per_step - start)
        identity = phase == "lora" and config.lambda_id > 0
        for count, decodes in ((tasks * items, False), *([(items, True)] if identity else [])):
            noisy = torch.randn(count, channels, height, width, device=models.device)
            hidden = torch.randn(count, tokens, hidden_width, device=models.device).requires_grad_()
            timesteps = torch.full((count,), 500, device=models.device)
            output = models.predict(noisy, timesteps, Conditioning(hidden))
            if decodes:
                cut = objective.windows.cut(output, torch.arange(items, device=models.device))
                output = objective._decode(cut)
            output.float().mean().backward()
    for parameter in optimisation.trained():
        parameter.grad = None


def _networks(optimisation: Optimisation, phase: Phase) -> None:
    """`_bare`, and the passes of the text encoder and of the face recognition, forward and backward."""
    objective, count = optimisation.objective, optimisation.config.items_per_step
    prompts = torch.cat([objective.prompts.ids[task][:2] for task in tasks_of(phase, optimisation.config)])
    objective.prompts.encode(prompts.unique(dim=0)).encoder_hidden_states.mean().backward()
    if phase == "lora" and optimisation.config.lambda_id > 0:
        side = objective.windows.side * objective.models.vae_scale_factor
        pictures = torch.rand(count, 3, side, side, device=objective.models.device).requires_grad_()
        warps = objective.warps[[0] * count] if objective.warps is not None else None
        objective.likeness(pictures, warps).mean().backward()
    _bare(optimisation, phase)


def _difference(optimisation: Optimisation, plain: PlainLoop, draw: Any, phase: Phase) -> float:
    """The largest relative difference of a loss term between the plain loop and ours, on the same items."""
    ours = optimisation.objective.step(
        draw, phase, optimisation.config.style_weight, optimisation.plan.items_per_call
    )
    for parameter in optimisation.trained():
        parameter.grad = None
    theirs = plain.step(draw, phase)
    return max(abs(float(ours[name]) - value) / max(abs(value), 1e-6) for name, value in theirs.items())


def _config(models: ModelBundle, arguments: Arguments) -> TrainConfig:
    start = dict(models.schedules.get("quick", {}))
    own = {
        "resolution": arguments.resolution or models.resolution,
        "batch_size": 1,
        "gradient_accumulation": arguments.items or 4,
        "ti_steps": FOREVER,
        "lora_steps": FOREVER,
        "sample_every": 0,
        "attention_every": 0,
        "checkpoint_every": FOREVER,
    }
    return from_dict(TrainConfig, {**start, **own})


def _table(results: dict[str, Any]) -> str:
    lines = ["| | phase 1 | phase 2 |", "|---|---|---|"]
    rows = {"seconds_ours": "step, s", "seconds_bare": "bare passes, s", "overhead": "overhead",
            "seconds_networks": "passes of all networks, s", "own_work": "own work",
            "seconds_plain": "plain loop, s", "speedup_vs_plain": "speed-up over the plain loop",
            "loss_difference": "largest relative difference of a loss"}  # fmt: skip
    for key, title in rows.items():
        if f"phase1_{key}" in results:
            values = [results[f"phase{number}_{key}"] for number in (1, 2)]
            shown = [f"{v:+.1%}" if key in ("overhead", "own_work") else f"{v:.3g}" for v in values]
            lines.append(f"| {title} | {shown[0]} | {shown[1]} |")
    facts = ", ".join(f"{name} {value}" for name, value in results["machine"].items())
    return "\n".join(
        [*lines, "", f"{results['model']}, {results['resolution']} px, {results['items']} items; {facts}"]
    )


if __name__ == "__main__":
    chosen = tyro.cli(Arguments, description=__doc__)
    outcome = main(chosen)
    print(json.dumps(outcome, indent=1) if chosen.json else _table(outcome))
