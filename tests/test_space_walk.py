"""A visitor's way through the app in a Space's environment (tools/space_walk.py names what is a stand-in)."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from magicapture_core.schedules import PAPER, QUICK
from magicapture_core.ui import lent_gpu
from magicapture_core.ui.server_models import SD15, ServerModels

ROOT = Path(__file__).resolve().parent.parent


def walked(*options: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """The walk, ended."""
    return subprocess.run(
        [sys.executable, "-m", "tools.space_walk", *options], cwd=ROOT, capture_output=True, text=True, check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1", **variables}, timeout=590,
    )  # fmt: skip


@pytest.mark.long
def test_on_cpu_hardware_the_built_in_model_serves() -> None:
    done = walked("--steps", "4")
    assert done.returncode == 0, done.stderr
    for line in (
        "listens on 0.0.0.0",
        "6 of 6 accepted",
        "4 steps on the model mini",
        "portraits: 2",
        "0 sessions left",
    ):
        assert line in done.stdout


@pytest.mark.long
def test_on_zero_gpu_a_visitor_is_asked_for_every_loan() -> None:
    pytest.importorskip("spaces", reason="spaces is not installed (pip install spaces)")
    done = walked("--hardware", "zero-gpu", "--steps", "4")
    assert done.returncode == 0, done.stderr
    for line in ("6 of 6 accepted", "4 steps on the model mini", "portraits: 2", "0 sessions left"):
        assert line in done.stdout
    loans = re.findall(r"(\d+) s asked for by (.*),", done.stdout)
    assert len(loans) >= 2
    assert {who for _, who in loans} == {"a visitor"}
    # The model stands on the GPU: hardly more is asked for than what lies beside the work.
    assert max(int(seconds) for seconds, _ in loans) <= lent_gpu.STANDING + 6


def test_what_a_day_buys_is_what_the_page_says() -> None:
    text = (ROOT / "docs" / "spaces.md").read_text(encoding="utf-8")

    def takes(schedule: str) -> int:
        config = ServerModels(SD15, any_model=False).facts(SD15).config(schedule)
        drawn = (config.ti_steps + config.lora_steps) // config.sample_every
        drawn *= config.sample_pictures * config.sample_steps
        phases = {"textual_inversion": config.ti_steps, "lora": config.lora_steps}
        return lent_gpu.training_quota(phases, config.items_per_step, drawn, standing=True)

    seconds, whole = takes(QUICK), takes(PAPER)
    assert f"| a quick training, samples included | {seconds} s |" in text
    assert f"| the paper's training, samples included | {whole} s |" in text
    assert f"| ten portraits | {lent_gpu.drawing_seconds(10, 50, standing=True)} s |" in text
    assert f"{40 * 60 // seconds} quick trainings, or {40 * 60 // whole} of the paper's" in text
