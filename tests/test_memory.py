"""How a step is split so that memory holds it, in worked numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from trainings import short

from magicapture_core.config import TrainConfig
from magicapture_core.models import ModelBundle
from magicapture_core.models.files import CONFIGS
from magicapture_core.models.stable_diffusion import StableDiffusion
from magicapture_core.training.memory import Plan, costs, free_bytes, plan

GB = 1e9


@pytest.mark.parametrize(
    ("budget", "expected"),
    [
        # Three tasks keep 3 · 2.5 = 7.5 GB an item; Eq. 7 after them 2.5 + 3 = 5.5.
        (80, Plan(4, False)),
        (30, Plan(4, False)),
        (29, Plan(3, False)),
        (7.5, Plan(1, False)),
        # Checkpointed: 3 · 0.625 = 1.875 GB, and for Eq. 7, which is not, 0.625 + 3 = 3.625.
        (7.4, Plan(2, True)),
        (3.7, Plan(1, True)),
        (3.6, Plan(1, True)),
        (0, Plan(1, True)),
        (-2, Plan(1, True)),
    ],
)  # fmt: skip
def test_what_memory_holds_of_stable_diffusion(budget: float, expected: Plan) -> None:
    assert plan(budget * GB, least=1, most=4, tasks=3, unet=2.5 * GB, decode=3 * GB) == expected


def test_the_decoder_counts_where_it_takes_more_than_the_tasks() -> None:
    sizes: dict[str, Any] = {"least": 1, "most": 9, "tasks": 3, "unet": 1 * GB}
    assert plan(25 * GB, decode=9 * GB, **sizes) == Plan(2, False)  # 1 + 9 = 10 GB an item
    assert plan(25 * GB, decode=0, **sizes) == Plan(8, False)  # 3 GB


def test_a_number_that_was_asked_for_stays_and_is_checkpointed_where_it_must_be() -> None:
    sizes: dict[str, Any] = {"least": 4, "most": 4, "tasks": 3, "unet": 2.5 * GB, "decode": 3 * GB}
    assert plan(30 * GB, **sizes) == Plan(4, False)
    assert plan(29 * GB, **sizes) == Plan(4, True)
    assert plan(1 * GB, **sizes) == Plan(4, True)


def test_checkpointing_that_was_asked_for_stays() -> None:
    sizes: dict[str, Any] = {"least": 1, "most": 4, "tasks": 3, "unet": 2.5 * GB, "decode": 3 * GB}
    assert plan(11 * GB, checkpointing=True, **sizes) == Plan(3, True)  # 3 · 3.625 = 10.9 GB
    assert plan(99 * GB, checkpointing=True, **sizes) == Plan(4, True)


@pytest.fixture(scope="module")
def sd15() -> ModelBundle:
    """Stable Diffusion 1.5's networks as shapes, without any numbers."""
    from diffusers import AutoencoderKL, UNet2DConditionModel

    with torch.device("meta"):
        unet = UNet2DConditionModel.from_config(UNet2DConditionModel.load_config(CONFIGS / "v1" / "unet"))
        vae = AutoencoderKL.from_config(AutoencoderKL.load_config(CONFIGS / "v1" / "vae"))
    nothing: dict[str, Any] = dict.fromkeys(
        ("tokenizer", "text_encoder", "noise_scheduler", "safety_checker", "feature_extractor")
    )
    return StableDiffusion(
        name="sd15",
        source="",
        unet=unet,
        vae=vae,
        device=torch.device("meta"),
        dtype=torch.bfloat16,
        **nothing,
    )


@pytest.mark.parametrize(
    ("changes", "window", "expected"),
    [
        ({}, 64, (2.5, 3.0)),
        ({}, 32, (2.5, 0.75)),  # the face takes a quarter of the picture
        ({"resolution": 256}, 32, (0.625, 0.75)),
        ({"identity_decode": "tiny"}, 64, (2.5, 0.3)),
        ({"lambda_id": 0.0}, 64, (2.5, 0.0)),
        ({"lora_steps": 0}, 64, (2.5, 0.0)),
    ],
)  # fmt: skip
def test_costs_follow_the_picture_the_window_and_what_is_decoded(
    sd15: ModelBundle, changes: dict[str, Any], window: int, expected: tuple[float, float]
) -> None:
    found = costs(sd15, TrainConfig(**changes), window)
    assert found == pytest.approx([cost * GB for cost in expected], rel=1e-3)


def test_twice_the_bits_take_twice_the_memory(sd15: ModelBundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sd15, "dtype", torch.float32)
    assert costs(sd15, TrainConfig(), 64) == pytest.approx((5 * GB, 6 * GB), rel=1e-3)


def test_a_device_that_cannot_be_asked_is_taken_to_hold_nothing() -> None:
    assert free_bytes(torch.device("meta")) == 0
    assert free_bytes(torch.device("cpu")) > 0


@pytest.mark.gpu
def test_what_torch_keeps_without_using_it_counts_as_free() -> None:
    device = torch.device("cuda")
    torch.cuda.empty_cache()
    before = free_bytes(device)
    block = torch.empty(10**9, dtype=torch.uint8, device=device)
    assert free_bytes(device) == pytest.approx(before - 1e9, abs=0.1e9)
    del block
    assert torch.cuda.memory_reserved(device) >= 10**9
    assert free_bytes(device) == pytest.approx(before, abs=0.1e9)


@pytest.mark.gpu
def test_a_job_that_ran_out_of_memory_gives_the_gpu_s_back(toy_folder: Path, tmp_path: Path) -> None:
    """Really out of it: a block that no GPU holds is asked for within a step that holds a large one."""
    from trainings import start

    from magicapture_core.models import load
    from magicapture_core.problems import OutOfMemory
    from magicapture_core.ui.jobs import Job, Jobs, Stream

    device = torch.device("cuda")
    models = load(toy_folder, device=device, dtype=torch.float32)
    config, calls = short(), 0

    def greedy(_unet: Any, values: tuple[Any, ...]) -> None:
        nonlocal calls
        calls += 1
        if calls == 3:
            large = torch.empty(4 * 10**9, dtype=torch.uint8, device=device)
            torch.empty(10**13, dtype=torch.uint8, device=device)
            assert len(large) == len(values)

    handle = models.unet.register_forward_pre_hook(greedy)

    def training(_job: Job) -> Stream:
        yield from start(models, config, tmp_path / "run")

    torch.cuda.empty_cache()
    before = torch.cuda.memory_reserved(device)
    jobs = Jobs()
    job = jobs.start("ann", "training", training)
    assert job.wait(300)
    assert jobs.close(300)
    handle.remove()
    assert isinstance(job.failure, OutOfMemory)
    torch.cuda.synchronize()
    assert torch.cuda.memory_reserved(device) < before + 10**9
    assert list(start(models, config, tmp_path / "run-again"))[-1].step == config.ti_steps + config.lora_steps
