"""A full-size Stable Diffusion XL 1.0 of the published configuration, with random weights.

As `make_random_sd15.py`, whose options it has. In half precision it takes 7 GB on the disk, and as much memory while it
is made.

    python tools/make_random_sdxl.py --out DIR --as folder|single|hub-cache [--dtype fp16]
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from magicapture_core.models import SDXL_ID
from magicapture_core.models.files import CONFIGS, FILLING
from tools.make_random_sd15 import command_line, original_unet, original_vae


def random_pipeline(dtype: torch.dtype, seed: int = 0, configs: Path = CONFIGS / "xl") -> Any:
    """A StableDiffusionXLPipeline of the published configuration with random weights."""
    from diffusers import (
        AutoencoderKL,
        EulerDiscreteScheduler,
        StableDiffusionXLPipeline,
        UNet2DConditionModel,
    )
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

    torch.manual_seed(seed)
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)  # in fp32 the UNet alone would take 10 GB
    try:
        unet = UNet2DConditionModel.from_config(UNet2DConditionModel.load_config(configs / "unet"))
        vae = AutoencoderKL.from_config(AutoencoderKL.load_config(configs / "vae"))
        encoders = {
            name: kind(CLIPTextConfig.from_pretrained(configs / name))
            for name, kind in (
                ("text_encoder", CLIPTextModel),
                ("text_encoder_2", CLIPTextModelWithProjection),
            )
        }
    finally:
        torch.set_default_dtype(before)
    tokenizers = {
        name: CLIPTokenizer.from_pretrained(CONFIGS / "tokenizer", pad_token=FILLING[version])
        for name, version in (("tokenizer", "v1"), ("tokenizer_2", "v2"))
    }
    scheduler = EulerDiscreteScheduler.from_pretrained(configs / "scheduler")
    for module in (unet, vae, *encoders.values()):
        module.to(dtype)
    return StableDiffusionXLPipeline(unet=unet, vae=vae, scheduler=scheduler, **encoders, **tokenizers)


def openclip_state(text_encoder: Any, prefix: str) -> dict[str, Tensor]:
    """A text encoder's weights as OpenCLIP's checkpoints name and stack them, after `prefix`.

    With the projection that the file has and an encoder may lack.
    """
    ours = {key.removeprefix("text_model."): weight for key, weight in text_encoder.state_dict().items()}
    width = text_encoder.config.hidden_size
    projection = ours.get("text_projection.weight", torch.eye(width))
    state = {
        "token_embedding.weight": ours["embeddings.token_embedding.weight"],
        "positional_embedding": ours["embeddings.position_embedding.weight"],
        "ln_final.weight": ours["final_layer_norm.weight"],
        "ln_final.bias": ours["final_layer_norm.bias"],
        "text_projection": projection.T,
        "logit_scale": torch.tensor(4.6052),
    }
    for layer in range(text_encoder.config.num_hidden_layers):
        for end in ("weight", "bias"):
            place, block = f"encoder.layers.{layer}", f"transformer.resblocks.{layer}"
            stacked = [ours[f"{place}.self_attn.{name}_proj.{end}"] for name in "qkv"]
            state[f"{block}.attn.in_proj_{end}"] = torch.cat(stacked)
            for old, new in (
                ("attn.out_proj", "self_attn.out_proj"), ("ln_1", "layer_norm1"), ("ln_2", "layer_norm2"),
                ("mlp.c_fc", "mlp.fc1"), ("mlp.c_proj", "mlp.fc2"),
            ):  # fmt: skip
                state[f"{block}.{old}.{end}"] = ours[f"{place}.{new}.{end}"]
    return {prefix + key: weight for key, weight in state.items()}


def original_state(pipeline: Any) -> Mapping[str, Tensor]:
    """The pipeline's weights under the key names of the original checkpoint, and what that holds beside them."""
    clip = "conditioner.embedders.0.transformer.text_model."
    return {
        **original_unet(pipeline.unet),
        **original_vae(pipeline.vae),
        **{
            clip + key.removeprefix("text_model."): weight
            for key, weight in pipeline.text_encoder.state_dict().items()
        },
        clip + "embeddings.position_ids": torch.arange(77)[None],
        **openclip_state(pipeline.text_encoder_2, "conditioner.embedders.1.model."),
    }


if __name__ == "__main__":
    command_line(__doc__ or "", SDXL_ID, random_pipeline, original_state)
