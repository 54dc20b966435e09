"""Single .safetensors files with the original key names: which open, and what is said of the others."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from toy import same_weights

from magicapture_core import models
from magicapture_core.models import files
from magicapture_core.problems import Problem
from tools.make_random_sd15 import original_state, original_unet_key, original_vae_key
from tools.make_random_sdxl import openclip_state


@pytest.mark.parametrize("old", [False, True])
def test_a_single_file_with_the_original_key_names(
    toy: models.ModelBundle, toy_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, old: bool
) -> None:
    """Old: text-encoder keys as transformers wrote them before 2022, without "text_model."."""
    configs = tmp_path / "configs"
    shutil.copytree(toy_folder, configs / "v1", ignore=shutil.ignore_patterns("*.safetensors", "tokenizer"))
    shutil.copytree(toy_folder / "tokenizer", configs / "tokenizer")
    monkeypatch.setattr(files, "CONFIGS", configs)
    file = tmp_path / "model.safetensors"
    state = {k: v.contiguous() for k, v in original_state(toy.pipeline("ddim")).items()}
    if old:
        state = {k.replace(".transformer.text_model.", ".transformer."): v for k, v in state.items()}
    save_file(state, file)
    bundle = models.load(file, device="cpu", dtype=torch.float32)
    for part in ("unet", "vae", "text_encoder"):
        assert same_weights(getattr(bundle, part), getattr(toy, part)), part
    assert bundle.tokenizer("a photo").input_ids == toy.tokenizer("a photo").input_ids
    assert bundle.prediction_type == "epsilon"


@pytest.mark.parametrize("velocity", [False, True])
def test_a_single_file_of_the_second_version(
    toy: models.ModelBundle,
    toy_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    velocity: bool,
) -> None:
    configs = tmp_path / "configs"
    shutil.copytree(toy_folder, configs / "v2", ignore=shutil.ignore_patterns("*.safetensors", "tokenizer"))
    shutil.copytree(toy_folder / "tokenizer", configs / "tokenizer")
    monkeypatch.setattr(files, "CONFIGS", configs)
    monkeypatch.setattr(files, "predicts_velocity", lambda _unet: velocity)
    state = original_state(toy.pipeline("ddim"))
    state = {key: weight for key, weight in state.items() if not key.startswith("cond_stage_model.")}
    state |= openclip_state(toy.text_encoder, "cond_stage_model.model.")
    file = tmp_path / "v2.safetensors"
    save_file({key: weight.contiguous().clone() for key, weight in state.items()}, file)
    bundle = models.load(file, device="cpu", dtype=torch.float32)
    for part in ("unet", "vae", "text_encoder"):
        assert same_weights(getattr(bundle, part), getattr(toy, part)), part
    assert bundle.prediction_type == ("v_prediction" if velocity else "epsilon")
    assert bundle.unet.config.sample_size == (96 if velocity else 16)
    assert bundle.tokenizer.pad_token == "!"


def test_the_original_key_names_are_the_published_ones() -> None:
    """A few names that every published SD 1.5 file has, with the diffusers name of each."""
    for ours, original in (
        ("conv_in.weight", "input_blocks.0.0.weight"),
        ("time_embedding.linear_1.weight", "time_embed.0.weight"),
        ("down_blocks.0.resnets.0.norm1.weight", "input_blocks.1.0.in_layers.0.weight"),
        ("down_blocks.1.resnets.0.conv_shortcut.weight", "input_blocks.4.0.skip_connection.weight"),
        ("down_blocks.2.downsamplers.0.conv.bias", "input_blocks.9.0.op.bias"),
        ("mid_block.attentions.0.proj_in.weight", "middle_block.1.proj_in.weight"),
        ("up_blocks.0.upsamplers.0.conv.weight", "output_blocks.2.1.conv.weight"),
        ("up_blocks.1.upsamplers.0.conv.weight", "output_blocks.5.2.conv.weight"),
        ("up_blocks.3.attentions.2.transformer_blocks.0.attn2.to_k.weight",
         "output_blocks.11.1.transformer_blocks.0.attn2.to_k.weight"),
        ("conv_out.bias", "out.2.bias"),
    ):  # fmt: skip
        assert original_unet_key(ours, 2) == "model.diffusion_model." + original
    for ours, original in (
        ("decoder.up_blocks.0.resnets.0.conv1.weight", "decoder.up.3.block.0.conv1.weight"),
        ("encoder.down_blocks.0.downsamplers.0.conv.bias", "encoder.down.0.downsample.conv.bias"),
        ("decoder.mid_block.attentions.0.to_out.0.weight", "decoder.mid.attn_1.proj_out.weight"),
        ("decoder.mid_block.attentions.0.group_norm.weight", "decoder.mid.attn_1.norm.weight"),
        ("encoder.mid_block.resnets.1.norm2.bias", "encoder.mid.block_2.norm2.bias"),
    ):
        assert original_vae_key(ours, 4) == "first_stage_model." + original


def test_velocity_is_told_from_noise_by_the_answer_to_pure_noise(toy: models.ModelBundle) -> None:
    class Predictor:
        config, dtype = toy.unet.config, torch.float32

        def __init__(self, share_of_noise: float) -> None:
            self.share = share_of_noise

        def __call__(self, sample: torch.Tensor, _t: int, _text: torch.Tensor) -> Any:
            other = torch.randn(sample.shape, generator=torch.Generator().manual_seed(5))
            return type("Output", (), {"sample": self.share * sample + (1 - self.share) * other})

    assert not files.predicts_velocity(Predictor(0.9))
    assert files.predicts_velocity(Predictor(0.1))


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        (["conditioner.embedders.0.transformer.x", files.UNET_KEY], "another family"),
        (["model.diffusion_model.joint_blocks.0.x"], "another family"),
        ([files.UNET_KEY], "only a part of one"),
        (["lora_unet_down_blocks_0_attentions_0_proj_in.lora_down.weight"], r"an adapter \(LoRA\)"),
        (["weight"], "no complete model"),
    ],
)
def test_single_files_of_something_else_are_refused(tmp_path: Path, keys: list[str], said: str) -> None:
    save_file({key: torch.zeros(1) for key in keys}, tmp_path / "other.safetensors")
    with pytest.raises(Problem, match=said):
        models.load(tmp_path / "other.safetensors", device="cpu")


@pytest.mark.parametrize(
    ("channels", "said"),
    [(5, "a depth model"), (8, "an editing model"), (9, "an inpainting model")],
)  # fmt: skip
@pytest.mark.parametrize("text", files.TEXT_KEYS)
def test_single_files_that_take_more_than_a_picture_are_named(
    tmp_path: Path, channels: int, said: str, text: str
) -> None:
    file = tmp_path / "other.safetensors"
    save_file({files.UNET_KEY: torch.zeros(8, channels, 3, 3), text: torch.zeros(4, 4)}, file)
    with pytest.raises(Problem, match=f"holds {said}") as caught:
        models.load(file, device="cpu")
    assert "download it again" not in str(caught.value)


@pytest.mark.parametrize(("name", "said"), [("model.ckpt", "a pickle"), ("model.txt", "unknown")])
def test_files_that_are_not_safetensors_are_refused(tmp_path: Path, name: str, said: str) -> None:
    (tmp_path / name).write_bytes(b"something")
    with pytest.raises(Problem, match=f"{name} is {said}.*expected a .safetensors file"):
        models.load(tmp_path / name, device="cpu")


def test_a_damaged_single_file_is_told(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"something that is no header at all")
    with pytest.raises(Problem, match="cannot be read"):
        models.load(tmp_path / "model.safetensors", device="cpu")
