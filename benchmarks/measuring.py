"""Functions of the benchmarks: timing of cases in turns, models and photos to measure with, memory, machine facts."""

from __future__ import annotations

import datetime
import importlib.metadata
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import torch

from magicapture_core import list_photos, load, prepare_concept, read_photo
from magicapture_core.concepts import Concept
from magicapture_core.faces import FaceAnalyser
from magicapture_core.models import ModelBundle, best_device, best_dtype, bundle_of

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("torch", "diffusers", "transformers", "peft", "accelerate", "gradio")


def take_turns(
    cases: Mapping[str, Callable[[], object]], rounds: int, device: torch.device, warm_up: int = 1
) -> dict[str, list[float]]:
    """Seconds of each case. The cases take turns, so that other load on the machine affects all of them equally."""
    seconds: dict[str, list[float]] = {name: [] for name in cases}
    for turn in range(warm_up + rounds):
        for name, case in cases.items():
            _finish(device)
            started = time.perf_counter()
            case()
            _finish(device)
            if turn >= warm_up:
                seconds[name].append(time.perf_counter() - started)
    return seconds


def ratio(seconds: Mapping[str, list[float]], slow: str, fast: str) -> float:
    """How many times longer `slow` took: the median of the ratios per round, whose cases had the same load."""
    return statistics.median(a / b for a, b in zip(seconds[slow], seconds[fast], strict=True))


SMALL: dict[str, dict[str, Any]] = {
    "unet": {
        "block_out_channels": (16, 16, 16, 16),
        "norm_num_groups": 4,
        "attention_head_dim": 2,
        "sample_size": 16,
    },
    "vae": {"block_out_channels": (8, 8, 8, 8), "norm_num_groups": 4, "layers_per_block": 1},
    "text_encoder": {"num_hidden_layers": 1},
}
"""What makes the published configuration small enough for a CPU; pictures of 128 pixels."""


def load_model(name: str, dtype: torch.dtype | None = None) -> ModelBundle:
    """The mini model, or one with random weights, always the same: "sd15-random" has Stable Diffusion 1.5's sizes,
    "small" its layout. They are made on the device: writing and reading them would take most of a lent GPU's minute."""
    if name == "mini":
        return load("mini", dtype=dtype)
    from tools.make_random_sd15 import random_pipeline

    device = best_device()
    dtype = dtype or best_dtype(device)
    with torch.device(device):
        pipeline = random_pipeline(torch.float32, changes=SMALL if name == "small" else {})
    return bundle_of(pipeline, name, device, dtype)


def concept(
    role: Literal["subject", "style"], folder: Path, resolution: int, analyser: FaceAnalyser
) -> Concept:
    """The photos of a folder, ready for training."""
    photos = [read_photo(path) for path in list_photos(folder)]
    return prepare_concept(photos, role, analyser=analyser, resolution=resolution)


def machine(device: torch.device) -> dict[str, str | int]:
    """Date, processor, threads and versions."""
    return {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else _processor(),
        "cores": os.cpu_count() or 0,
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in PACKAGES},
    }


def show(outcome: Mapping[str, object], as_json: bool) -> None:
    """Print what was measured, as JSON or a line each."""
    if as_json:
        print(json.dumps(outcome, indent=1))
    else:
        print("\n".join(f"{name}: {value}" for name, value in outcome.items()))


def resident_bytes(pid: int | str = "self") -> int:
    """Memory of a process, in bytes (Linux: Pss, else resident)."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="utf-8").splitlines()
        return int(next(line for line in lines if line.startswith("Pss:")).split()[1]) * 1024
    except (OSError, StopIteration):
        import psutil

        return int(psutil.Process(None if pid == "self" else int(pid)).memory_info().rss)


def _finish(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
