"""Full-size Stable Diffusion XL with random weights: the first real user must not be the first run.

Takes an hour on two cores, 16 GB of memory and 21 GB of disk:

    pytest -m slow -s tests/test_full_size_xl.py
"""

from __future__ import annotations

import gc
import itertools
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

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
from magicapture_core.models.stable_diffusion_xl import StableDiffusionXL
from magicapture_core.photos import Photo
from magicapture_core.training import train

pytestmark = [pytest.mark.slow, pytest.mark.timeout(5400), pytest.mark.usefixtures("all_cores")]
PARTS = ("unet", "vae", "text_encoder", "text_encoder_2")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The same random model in any layout."""
    return maker("make_random_sdxl.py", tmp_path_factory.mktemp("sdxl"))


def opened(name: str) -> Any:
    started = time.monotonic()
    bundle = models.load(name, device="cpu", dtype=torch.bfloat16)
    said(f"loaded {Path(name).name}", started)
    return bundle


def sums(bundle: Any) -> dict[str, int]:
    """Of every tensor's bits: two models of this size do not fit into memory together."""
    found = {}
    for part in PARTS:
        for key, tensor in getattr(bundle, part).state_dict().items():
            bits = tensor.contiguous().view(torch.int16 if tensor.element_size() == 2 else torch.int32)
            found[f"{part}.{key}"] = int(bits.sum(dtype=torch.int64))
    return found


def photo(seed: int) -> Photo:
    random = np.random.default_rng(seed)
    coarse = random.integers(0, 256, (12, 16, 3), dtype=np.uint8)
    return Photo(f"{seed}.png", np.kron(coarse, np.ones((60, 60, 1), np.uint8)))


def published_names() -> set[str]:
    """The cross-attention projections of SDXL's UNet, as kohya's trainer names them: 70 layers of four."""
    depths = {f"input_blocks_{n}": 2 for n in (4, 5)} | {f"input_blocks_{n}": 10 for n in (7, 8)}
    depths |= {"middle_block": 10}
    depths |= {f"output_blocks_{n}": 10 for n in (0, 1, 2)} | {f"output_blocks_{n}": 2 for n in (3, 4, 5)}
    return {
        f"lora_unet_{block}_1_transformer_blocks_{n}_attn2_{projection}"
        for block, depth in depths.items()
        for n, projection in itertools.product(range(depth), ("to_q", "to_k", "to_v", "to_out_0"))
    }


def test_every_layout_holds_the_same_bits(
    made: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = []
    for layout in LAYOUTS:
        bundle = opened(named(made, layout, models.SDXL_ID, monkeypatch))
        assert isinstance(bundle, StableDiffusionXL)
        assert (bundle.resolution, bundle.prediction_type) == (1024, "epsilon")
        assert (bundle.unet.dtype, bundle.vae.dtype) == (torch.bfloat16, torch.float32)
        ids = [each("a photo of a person").input_ids for each in (bundle.tokenizer, bundle.tokenizer_2)]
        assert ids == [[49406, 320, 1125, 539, 320, 2533, 49407]] * 2
        assert bundle.tokenizer_2.pad_token_id == 0
        found.append((sums(bundle), bundle.noise_scheduler.alphas_cumprod))
        del bundle
        gc.collect()
    assert len(found[0][0]) > 2000
    for other, alphas in found[1:]:
        assert other == found[0][0]
        assert torch.equal(alphas, found[0][1])


def test_it_trains_at_512_pixels_draws_and_exports(made: Callable[[str], Path], tmp_path: Path) -> None:
    bundle = opened(str(made("folder")))
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
        assert {view.heat.shape for view in report.attention} == {(16, 16)}
        started = time.monotonic()
    assert set(report.losses) >= {"source", "reference", "composed", "identity", "attention"}

    settings = GenerateConfig(
        count=1, steps=1, seed=1, width=512, height=512, attention_words=("{subject}", "{style}")
    )
    started = time.monotonic()
    portrait = next(generate(bundle, tmp_path / "run", settings, analyser=analyser))
    said("generated", started)
    assert portrait.image.size == (512, 512)
    assert np.ptp(np.asarray(portrait.image)) > 0
    assert {heat.shape for heat in portrait.attention.values()} == {(16, 16)}
    assert "far from the sizes" in portrait.warnings[0]

    for format in ("diffusers", "kohya"):
        export_run(tmp_path / "run", format, tmp_path / format)
    state = load_file(tmp_path / "kohya" / "run.safetensors")
    ends = (".lora_down.weight", ".lora_up.weight", ".alpha")
    assert len(published_names()) == 280
    assert set(state) == {name + end for name in published_names() for end in ends}
    rows = load_file(tmp_path / "kohya" / "run-subject.safetensors")
    assert {name: tuple(row.shape) for name, row in rows.items()} == {"clip_l": (1, 768), "clip_g": (1, 1280)}
