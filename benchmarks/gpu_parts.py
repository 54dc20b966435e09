"""The parts of full_size.py: each measures one thing of a model and returns what it found."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState

from benchmarks.measuring import load_model, ratio, take_turns
from benchmarks.plain_loop import PlainLoop
from magicapture_core import GenerateConfig, TrainConfig, generate, train
from magicapture_core.concepts import Concept
from magicapture_core.config import from_dict
from magicapture_core.export import export_run
from magicapture_core.faces import FaceAnalyser
from magicapture_core.models import ModelBundle
from magicapture_core.models.kernels import Kernels, changed
from magicapture_core.prompts import expand
from magicapture_core.training import memory
from magicapture_core.training.draws import draw_step
from magicapture_core.training.optimisation import PHASES, Optimisation
from magicapture_core.training.preparation import prepared

PAPER = {"ti_steps": 1200, "lora_steps": 1500}
SKIPPED = 3
"""Steps of each phase that are not measured: kernels are chosen, and memory is looked at, in the first."""
PROMPT = "a photo of a {subject} in the {style}"


@dataclass
class Bench:
    """What is measured, on what."""

    model: str
    models: ModelBundle
    concepts: dict[str, Concept]
    analyser: FaceAnalyser
    folder: Path
    """For runs."""
    steps: int
    pictures: int
    drawing_steps: int
    rounds: int

    def config(self, **changes: Any) -> TrainConfig:
        base = {"resolution": self.models.resolution, "sample_every": 0, "attention_every": 0,
                "checkpoint_every": 10**6}  # fmt: skip
        return from_dict(TrainConfig, {**base, **changes})

    @property
    def device(self) -> torch.device:
        return self.models.device

    @contextmanager
    def opened(self, models: ModelBundle, **changes: Any) -> Iterator[Optimisation]:
        """A training of phase 2 that nothing is recorded of."""
        processes = PartialState(cpu=self.device.type == "cpu")
        config = self.config(ti_steps=0, lora_steps=10**6, **changes)
        with prepared(
            models, **self.concepts, config=config, processes=processes, analyser=self.analyser
        ) as ready:
            yield ready.optimisation

    def finish(self) -> None:
        """Wait for the device."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


# --- trainings ------------------------------------------------------------------------------------


def training(bench: Bench, name: str, **changes: Any) -> dict[str, Any]:
    """Seconds a step of each phase, minutes of the paper's schedule, the most memory a GPU held, and the plan."""
    config = bench.config(ti_steps=SKIPPED + bench.steps, lora_steps=SKIPPED + bench.steps, **changes)
    seconds: dict[str, list[float]] = {phase: [] for phase in PHASES}
    peaks: dict[str, float] = dict.fromkeys(PHASES, 0.0)
    last = time.perf_counter()
    reports = train(bench.models, **bench.concepts, config=config, run_folder=bench.folder / name,
                    analyser=bench.analyser)  # fmt: skip
    for report in reports:
        now = time.perf_counter()  # the losses are here, so the GPU has finished this step
        if report.phase_step > SKIPPED:
            seconds[report.phase].append(now - last)
        if bench.device.type == "cuda":
            peaks[report.phase] = max(
                peaks[report.phase], torch.cuda.max_memory_allocated(bench.device) / 1e9
            )
        last = now
    step = {phase: statistics.median(values) for phase, values in seconds.items()}
    minutes = sum(step[phase] * steps for phase, steps in zip(PHASES, PAPER.values(), strict=True)) / 60
    facts: dict[str, Any] = {}
    for number, phase in enumerate(PHASES, 1):
        facts[f"seconds_phase{number}"] = round(step[phase], 4)
        if bench.device.type == "cuda":
            facts[f"peak_gb_phase{number}"] = round(peaks[phase], 2)
    if not all(math.isfinite(value) for value in report.losses.values()):
        raise ArithmeticError(f"a loss is not finite: {report.losses}")
    return {**facts, "paper_schedule_minutes": round(minutes, 1)}


def small_card(bench: Bench, gb: float) -> dict[str, Any]:
    """`training` as a card of `gb` would have it: the planner is told so, and torch refuses more."""
    with _limited(bench.device, gb):
        return training(bench, "small-card")


@contextmanager
def _limited(device: torch.device, gb: float) -> Iterator[None]:
    if device.type != "cuda":  # nothing is counted there
        yield
        return
    torch.cuda.empty_cache()
    free_bytes, total = memory.free_bytes, torch.cuda.get_device_properties(device).total_memory

    def of_such_a_card(_device: torch.device) -> float:
        return gb * 1e9 - torch.cuda.memory_allocated(device)

    memory.free_bytes = of_such_a_card
    torch.cuda.set_per_process_memory_fraction(min(1.0, gb * 1e9 / total), device)
    try:
        yield
    finally:
        memory.free_bytes = free_bytes
        torch.cuda.set_per_process_memory_fraction(1.0, device)


def looking(bench: Bench) -> dict[str, Any]:
    """Samples, maps, checkpoints, a pause and going on: seconds of the steps after which something was due."""
    config = bench.config(
        ti_steps=3, lora_steps=5, sample_every=4, sample_steps=4, attention_every=2, checkpoint_every=3
    )
    run, seen, due = bench.folder / "looking", [], []
    options: dict[str, Any] = {
        **bench.concepts,
        "config": config,
        "run_folder": run,
        "analyser": bench.analyser,
    }
    reports = train(bench.models, **options)
    last = time.perf_counter()
    for report in islice(reports, 5):
        if report.checkpoint or report.sample or report.attention:
            due.append(time.perf_counter() - last)
        seen.append(report)
        last = time.perf_counter()
    reports.close()
    rest = list(train(bench.models, **options, resume=True))
    assert rest[-1].step == 8
    assert rest[0].step in (6, 7)  # on CUDA the step after the last report may have been made
    return {
        "samples": sum(report.sample is not None for report in (*seen, *rest)),
        "maps": sum(len(report.attention) for report in (*seen, *rest)),
        "resumed_at": rest[0].step,
        "seconds_with_something_due": round(statistics.median(due), 2),
    }


# --- portraits ------------------------------------------------------------------------------------


def portraits(bench: Bench) -> dict[str, Any]:
    """Ours, with likeness, over diffusers' own pipeline with the same adapter; then word maps, and export."""
    run = bench.folder / "portraits"
    for _ in train(bench.models, **bench.concepts, config=bench.config(ti_steps=1, lora_steps=1), run_folder=run,
                   analyser=bench.analyser):  # fmt: skip
        pass
    asked = {"prompt": PROMPT, "count": bench.pictures, "steps": bench.drawing_steps, "seed": 0, "enlarge": 1,
             "pictures_per_call": bench.pictures, "adapter_scale": 1}  # fmt: skip
    config = from_dict(GenerateConfig, asked)
    cases: dict[str, Callable[[], object]] = {
        "ours": lambda: list(generate(bench.models, run, config, analyser=bench.analyser)),
        "diffusers": lambda: _by_diffusers(bench.models, config, run / "adapter"),
    }
    seconds = take_turns(cases, bench.rounds, bench.device)
    words = from_dict(GenerateConfig, {**asked, "attention_words": ("{subject}", "{style}")})
    started = time.perf_counter()
    made = list(generate(bench.models, run, words, analyser=bench.analyser))
    taken = time.perf_counter() - started
    assert all(set(each.attention) == {"{subject}", "{style}"} for each in made)
    for kind in ("diffusers", "kohya"):
        export_run(run, kind, bench.folder / f"exported-{kind}")
    return {
        **{f"seconds_{name}": round(statistics.median(values), 2) for name, values in seconds.items()},
        "over_diffusers": round(ratio(seconds, "ours", "diffusers"), 3),
        "seconds_with_word_maps": round(taken, 2),
    }


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


# --- against others, and within --------------------------------------------------------------------


def plain(bench: Bench) -> dict[str, Any]:
    """A step of phase 2 against the loop of plain_loop.py, on the same items."""
    with bench.opened(bench.models) as optimisation:
        optimisation.advance()
        loop = PlainLoop(optimisation.objective, bench.concepts["subject"], bench.concepts["style"],
                         optimisation.trained())  # fmt: skip
        draw = draw_step(torch.Generator().manual_seed(1), optimisation.sizes, PHASES[1], optimisation.config)
        cases: dict[str, Callable[[], object]] = {"ours": optimisation.advance,
                                                  "plain": lambda: loop.step(draw, PHASES[1])}  # fmt: skip
        seconds = take_turns(cases, bench.rounds, bench.device)
    facts = {f"seconds_{name}": round(statistics.median(values), 4) for name, values in seconds.items()}
    return {**facts, "times_faster": round(ratio(seconds, "plain", "ours"), 2)}


def profiled(bench: Bench) -> dict[str, Any]:
    """What takes the time of two steps of phase 2: the kernels (operations on a CPU) that take most, and how long the
    device worked of each step's time."""
    from torch.profiler import ProfilerActivity, profile

    cuda = bench.device.type == "cuda"
    with bench.opened(bench.models) as optimisation:
        for _ in range(2):
            optimisation.advance()
        bench.finish()
        started = time.perf_counter()
        with profile(activities=[ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if cuda else [])]) as found:
            for _ in range(2):
                optimisation.settle(optimisation.launch())
            bench.finish()
        wall = (time.perf_counter() - started) / 2
    events = [each for each in found.key_averages() if not cuda or str(each.device_type).endswith("CUDA")]
    key = (lambda each: each.self_device_time_total) if cuda else (lambda each: each.self_cpu_time_total)
    worked = sum(key(each) for each in events) / 2e6
    most = sorted(events, key=key, reverse=True)[:12]
    waits = {each.key: each.count for each in found.key_averages() if "StreamSynchronize" in each.key}
    return {
        "seconds": round(wall, 4),
        "seconds_worked": round(worked, 4),
        "waits": waits,
        **{
            each.key[:60]: f"{key(each) / 2e6 / max(worked, 1e-9):.1%} in {each.count // 2} calls"
            for each in most
        },
    }


def agreement(bench: Bench) -> dict[str, Any]:
    """The largest relative difference of a term of phase 2 between bfloat16 and float32, on the same items."""
    found = []
    for dtype in (torch.float32, torch.bfloat16):
        models = load_model(bench.model, dtype)
        with bench.opened(models, items_per_call=1) as optimisation:
            draw = draw_step(
                torch.Generator().manual_seed(1), optimisation.sizes, PHASES[1], optimisation.config
            )
            optimisation.start_phase(PHASES[1])
            terms = optimisation.objective.step(draw, PHASES[1], optimisation.config.style_weight, 1)
            found.append({name: float(value) for name, value in terms.items()})
        del models, optimisation
    exact, rounded = found
    if not all(math.isfinite(value) for terms in found for value in terms.values()):
        raise ArithmeticError(f"a loss is not finite: {found}")
    return {
        name: round(abs(rounded[name] - value) / max(abs(value), 1e-6), 5) for name, value in exact.items()
    }


def compared(bench: Bench, one: str, other: str) -> dict[str, Any]:
    """Two settings of the kernels in turns: seconds a step, and how many times faster the second is."""
    start = bench.models.kernels
    seconds: dict[str, dict[str, list[float]]] = {}
    minutes: dict[str, list[float]] = {one: [], other: []}
    try:
        for turn in range(bench.rounds):
            for words in (one, other):
                kernels: Kernels = changed(start, words)
                kernels.apply(bench.models)
                name = f"compare-{turn}-{words.replace(',', '-')}"
                facts = training(bench, name)
                minutes[words].append(facts["paper_schedule_minutes"])
                for phase in ("seconds_phase1", "seconds_phase2"):
                    seconds.setdefault(phase, {one: [], other: []})[words].append(facts[phase])
    finally:
        start.apply(bench.models)
    facts = {
        f"{phase} {words}": round(statistics.median(values), 4)
        for phase, both in seconds.items()
        for words, values in both.items()
    }
    for phase, both in seconds.items():
        facts[f"{phase} times faster"] = round(ratio(both, one, other), 3)
    return {**facts, **{f"minutes {words}": statistics.median(values) for words, values in minutes.items()}}
