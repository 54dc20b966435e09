"""The bundled mini model: files, tokenizer, and pictures through plain diffusers."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

MINI = Path(__file__).parent.parent / "assets" / "mini"

pytestmark = pytest.mark.skipif(
    not (MINI / "model_index.json").exists(), reason="the mini model is not built yet"
)


@pytest.fixture(scope="module")
def tokenizer():
    from transformers import CLIPTokenizer

    return CLIPTokenizer.from_pretrained(MINI / "tokenizer")


@pytest.fixture(scope="module")
def pipeline():
    from diffusers import StableDiffusionPipeline

    made = StableDiffusionPipeline.from_pretrained(MINI, safety_checker=None)
    made.set_progress_bar_config(disable=True)
    return made


def test_weight_files_are_small() -> None:
    sizes = [path.stat().st_size for path in MINI.rglob("*") if path.is_file()]
    assert max(sizes) < 9.5e6
    assert sum(sizes) < 95e6


def test_quick_schedule_is_made_of_settings() -> None:
    from magicapture_core.config import TrainConfig, from_dict

    schedules = json.loads((MINI / "magicapture.json").read_text())["schedules"]
    assert from_dict(TrainConfig, schedules["quick"]).resolution == 256


def test_prompt_words_are_single_tokens(tokenizer) -> None:
    words = (
        "a",
        "photo",
        "of",
        "person",
        "in",
        "the",
        "style",
        ",",
        "wearing",
        "sunglasses",
        "portrait",
        "background",
    )
    assert [len(tokenizer.tokenize(word)) for word in words] == [1] * len(words)


def test_tokenizer_pads_to_77_with_its_end_token(tokenizer) -> None:
    ids = tokenizer("a photo", padding="max_length", truncation=True).input_ids
    assert len(ids) == 77
    assert ids[0] == tokenizer.bos_token_id
    assert ids[-1] == tokenizer.pad_token_id == tokenizer.eos_token_id


@settings(max_examples=60, deadline=None)
@given(
    words=st.lists(
        st.text(st.characters(codec="utf-8", categories=("Ll", "Lo")), min_size=1), min_size=1, max_size=5
    )
)
def test_any_words_are_encoded_and_come_back(words: list[str]) -> None:
    """Letters of any script round-trip but for Unicode normalisation (NFC), which CLIP's tokenizer does."""
    import unicodedata

    from transformers import CLIPTokenizer

    tokenizer = CLIPTokenizer.from_pretrained(MINI / "tokenizer")
    text = unicodedata.normalize("NFC", " ".join(words)).lower()
    ids = tokenizer(text, add_special_tokens=False).input_ids
    assert max(ids) < len(tokenizer)
    assert tokenizer.unk_token_id not in ids
    assert tokenizer.decode(ids).replace(" ", "") == text.replace(" ", "")


def test_follows_the_conventions_of_stable_diffusion_1(pipeline) -> None:
    settings_ = pipeline.scheduler.config
    assert (settings_.prediction_type, settings_.num_train_timesteps) == ("epsilon", 1000)
    assert (settings_.beta_schedule, settings_.beta_start, settings_.beta_end) == (
        "scaled_linear",
        0.00085,
        0.012,
    )
    assert pipeline.vae.config.scaling_factor == 0.18215
    assert sum("CrossAttn" in kind for kind in pipeline.unet.config.down_block_types) >= 2


def test_vae_brings_latents_to_unit_spread(pipeline) -> None:
    import cv2

    paths = sorted((MINI.parent / "people").glob("*/*.jpg"))
    photos = np.stack([cv2.resize(cv2.imread(str(path))[:, :, ::-1], (256, 256)) for path in paths])
    pixels = torch.from_numpy(photos).permute(0, 3, 1, 2).float() / 127.5 - 1
    with torch.no_grad():
        latents = pipeline.vae.encode(pixels).latent_dist.mean * pipeline.vae.config.scaling_factor
    assert 0.6 < latents.std() < 1.5
    assert abs(latents.mean()) < 0.4


def test_makes_a_picture_that_follows_the_seed(pipeline) -> None:
    def picture(seed: int) -> np.ndarray:
        generator = torch.Generator().manual_seed(seed)
        made = pipeline("a photo of a person", num_inference_steps=4, generator=generator, output_type="np")
        return made.images[0]

    first = picture(0)
    assert first.shape == (256, 256, 3)
    assert np.isfinite(first).all()
    assert first.std() > 0.03
    assert np.array_equal(first, picture(0))
    assert not np.array_equal(first, picture(1))
