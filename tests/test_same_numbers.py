"""A rebuilt house trains and draws the same: toy runs against the numbers that the code gave before.

Record them anew after a change that is meant to change results: `PYTHONPATH=.:tests python tests/test_same_numbers.py`.
"""

from __future__ import annotations

import json
import platform
import re
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from toy import ToyAnalyser, save_toy
from trainings import short, start, weights_of

from magicapture_core import GenerateConfig, generate, load

RECORDED = Path(__file__).parent / "data" / "toy_runs.safetensors"
VARIANTS: dict[str, dict[str, Any]] = {
    "paper": {},
    "everything": {
        "lora_targets": ("cross", "self", "feed_forward", "text_encoder"),
        "identity_decode": "full",
        "lambda_colour": 1.0,
        "lambda_lightness": 0.1,
        "style_weight": 2.0,
        "embedding_norm": 0.4,
        "learning_rate_decay": "constant",
        "attention_scale": "region",
    },
    "custom-diffusion": {"trained": "cross_kv", "prior_weight": 1.0, "prior_pictures": 2, "lambda_attn": 0.0},
}


def machine() -> dict[str, str]:
    """What decides the last bits of a sum. One thread, so that the number of cores does not."""
    about = Path("/proc/cpuinfo")  # libraries for matrices choose by the maker, too
    found = re.search(r"vendor_id\s*:\s*(\S+)", about.read_text()) if about.is_file() else None
    return {
        "torch": torch.__version__,
        "cpu": torch.backends.cpu.get_cpu_capability(),
        "maker": found[1] if found else platform.machine(),
    }


def numbers_of(models: Any, variant: str, folder: Path) -> dict[str, torch.Tensor]:
    """Losses of every step, what was learned, and a picture drawn with it."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        reports = list(start(models, short(**VARIANTS[variant]), folder))
        drawing = generate(models, folder, GenerateConfig(steps=3, count=1, seed=4), analyser=ToyAnalyser())
        picture = torch.from_numpy(np.array(next(drawing).image))
        drawing.close()
    finally:
        torch.set_num_threads(threads)
    losses = {
        f"loss {report.step} {name}": torch.tensor(value, dtype=torch.float64)
        for report in reports
        for name, value in report.losses.items()
    }
    return {**losses, **weights_of(folder), "picture": picture}


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_run_gives_the_numbers_that_it_gave_before(toy: Any, tmp_path: Path, variant: str) -> None:
    prefix = f"{variant}/"
    recorded = {
        name.removeprefix(prefix): tensor
        for name, tensor in load_file(RECORDED).items()
        if name.startswith(prefix)
    }
    with safe_open(RECORDED, "pt") as file:
        same_machine = json.loads(file.metadata()["machine"]) == machine()
    now = numbers_of(toy, variant, tmp_path / "run")
    assert now.keys() == recorded.keys()
    for name, before in recorded.items():
        if same_machine:
            assert torch.equal(now[name], before), name
        elif name == "picture":
            assert (now[name].int() - before.int()).abs().max() <= 2
        else:  # Adam makes a whole step of a gradient that is nothing but rounding
            assert (now[name] - before).norm() <= 0.03 * before.norm(), name


def record() -> None:
    """Write what the code gives now."""
    with tempfile.TemporaryDirectory() as folder:
        models = load(save_toy(Path(folder) / "toy"), device="cpu", dtype=torch.float32)
        tensors = {
            f"{variant}/{name}": tensor.contiguous()
            for variant in VARIANTS
            for name, tensor in numbers_of(models, variant, Path(folder) / variant).items()
        }
    RECORDED.parent.mkdir(exist_ok=True)
    save_file(tensors, RECORDED, metadata={"machine": json.dumps(machine())})


if __name__ == "__main__":
    record()
