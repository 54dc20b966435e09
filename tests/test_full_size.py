"""Full-size Stable Diffusion 1.5 with random weights: the first real user must not be the first run.

Takes the better part of an hour on two cores, 12 GB of memory and 7 GB of disk:

    pytest -m slow tests/test_full_size.py
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from full_size import LAYOUTS, maker, named, said
from safetensors.torch import load_file
from toy import ToyAnalyser

from magicapture_core import models
from magicapture_core.concepts import prepare_concept
from magicapture_core.config import GenerateConfig, TrainConfig
from magicapture_core.export import export_run
from magicapture_core.generation import generate
from magicapture_core.photos import Photo
from magicapture_core.training import train

pytestmark = [pytest.mark.slow, pytest.mark.timeout(5400), pytest.mark.usefixtures("all_cores")]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The same random model in any layout."""
    return maker("make_random_sd15.py", tmp_path_factory.mktemp("sd15"))


@pytest.mark.parametrize("layout", LAYOUTS[1:])
def test_every_layout_holds_the_same_bits(
    made: Callable[[str], Path], layout: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = models.load(made("folder"), device="cpu", dtype=torch.float16)
    other = models.load(named(made, layout, models.HUB_ID, monkeypatch), device="cpu", dtype=torch.float16)
    for part in ("unet", "vae", "text_encoder"):
        ours, theirs = getattr(folder, part).state_dict(), getattr(other, part).state_dict()
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[key], theirs[key]) for key in ours), part
    prompt = "a photo of a person, painted by Van Gogh; naïve 🎨"
    assert folder.tokenizer(prompt).input_ids == other.tokenizer(prompt).input_ids
    assert other.resolution == 512
    assert other.prediction_type == "epsilon"
    assert torch.equal(folder.noise_scheduler.alphas_cumprod, other.noise_scheduler.alphas_cumprod)


def photo(seed: int) -> Photo:
    random = np.random.default_rng(seed)
    coarse = random.integers(0, 256, (12, 12, 3), dtype=np.uint8)
    return Photo(f"{seed}.png", np.kron(coarse, np.ones((48, 48, 1), np.uint8)))


def published_names() -> set[str]:
    """The 64 cross-attention projections of SD 1.5's UNet, as kohya's trainer names them."""
    blocks = [f"down_blocks_{b}_attentions_{n}" for b, n in itertools.product(range(3), range(2))]
    blocks += ["mid_block_attentions_0"]
    blocks += [f"up_blocks_{b}_attentions_{n}" for b, n in itertools.product(range(1, 4), range(3))]
    return {
        f"lora_unet_{block}_transformer_blocks_0_attn2_{projection}"
        for block in blocks
        for projection in ("to_q", "to_k", "to_v", "to_out_0")
    }


@pytest.mark.parametrize("layout", LAYOUTS)
def test_it_loads_trains_generates_and_exports(
    made: Callable[[str], Path], layout: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started = time.monotonic()
    bundle = models.load(named(made, layout, models.HUB_ID, monkeypatch), device="cpu")
    assert bundle.dtype == torch.float32
    said(f"loaded {layout}", started)

    analyser = ToyAnalyser()
    config = TrainConfig(
        ti_steps=1, lora_steps=1, gradient_accumulation=1, flip=False, gradient_checkpointing=True,
        sample_every=0, attention_every=1,
    )  # fmt: skip
    concepts = [
        prepare_concept([photo(seed)], role, resolution=512, analyser=analyser)  # type: ignore[arg-type]
        for seed, role in enumerate(("subject", "style"))
    ]
    started = time.monotonic()
    for report in train(bundle, *concepts, config, tmp_path / "run", analyser=analyser):
        assert all(np.isfinite(value) for value in report.losses.values()), report.losses
        said(f"trained {report.phase} ({report.seconds:.0f} s the step alone): {report.losses}", started)
        started = time.monotonic()
    assert set(report.losses) >= {"source", "reference", "composed", "identity", "attention"}

    settings = GenerateConfig(count=1, steps=2, seed=1, attention_words=("{subject}", "{style}"))
    started = time.monotonic()
    portrait = next(generate(bundle, tmp_path / "run", settings, analyser=analyser))
    said("generated", started)
    assert portrait.image.size == (512, 512)
    assert np.ptp(np.asarray(portrait.image)) > 0
    assert portrait.identity is not None
    assert {heat.shape for heat in portrait.attention.values()} == {(16, 16)}

    for format in ("diffusers", "kohya"):
        export_run(tmp_path / "run", format, tmp_path / format)
    state = load_file(tmp_path / "kohya" / "run.safetensors")
    ends = (".lora_down.weight", ".lora_up.weight", ".alpha")
    assert set(state) == {name + end for name in published_names() for end in ends}
    assert load_file(tmp_path / "kohya" / "run-subject.safetensors")["emb_params"].shape == (1, 768)
