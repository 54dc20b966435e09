"""A full-size Stable Diffusion 1.5 of the published configuration, with random weights.

It draws only noise, but it has the size, the layout and the vocabulary of the real one, so that loading,
training, generating and exporting can be tried where the real one cannot be had.

    python tools/make_random_sd15.py --out DIR --as folder|single|hub-cache [--dtype fp16]

folder: DIR in diffusers layout. single: DIR is a .safetensors file with the original key names.
hub-cache: DIR as HF_HUB_CACHE, holding stable-diffusion-v1-5/stable-diffusion-v1-5.
"""

from __future__ import annotations

import argparse
import re
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from magicapture_core.models import HUB_ID
from magicapture_core.models.files import CONFIGS

DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}
REVISION = "0" * 40
NO_CHANGES: Mapping[str, Mapping[str, Any]] = {}


def random_pipeline(
    dtype: torch.dtype,
    seed: int = 0,
    configs: Path = CONFIGS / "v1",
    changes: Mapping[str, Mapping[str, Any]] = NO_CHANGES,
) -> Any:
    """A StableDiffusionPipeline of the published configuration with random weights. changes: of a network's
    configuration, by "unet", "vae" and "text_encoder"."""
    from diffusers import AutoencoderKL, PNDMScheduler, StableDiffusionPipeline, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    torch.manual_seed(seed)
    of_unet = {**UNet2DConditionModel.load_config(configs / "unet"), **changes.get("unet", {})}
    of_vae = {**AutoencoderKL.load_config(configs / "vae"), **changes.get("vae", {})}
    of_text = CLIPTextConfig.from_pretrained(configs / "text_encoder", **changes.get("text_encoder", {}))
    unet = UNet2DConditionModel.from_config(of_unet).to(dtype)
    vae = AutoencoderKL.from_config(of_vae).to(dtype)
    text_encoder = CLIPTextModel(of_text).to(dtype)
    return StableDiffusionPipeline(
        unet=unet,
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=CLIPTokenizer.from_pretrained(CONFIGS / "tokenizer"),
        scheduler=PNDMScheduler.from_pretrained(configs / "scheduler"),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def original_unet_key(key: str, layers: int, plain_ups: frozenset[int] = frozenset({0})) -> str:
    """A UNet key of diffusers as the original checkpoints name it.

    layers: layers_per_block. plain_ups: indices of the up blocks without attention, whose upsampler
    therefore stands one place earlier.
    """
    for ours, original in (
        ("time_embedding.linear_1", "time_embed.0"), ("time_embedding.linear_2", "time_embed.2"),
        ("conv_in", "input_blocks.0.0"), ("conv_norm_out", "out.0"), ("conv_out", "out.2"),
        ("mid_block.resnets.0", "middle_block.0"), ("mid_block.attentions.0", "middle_block.1"),
        ("mid_block.resnets.1", "middle_block.2"),
    ):  # fmt: skip
        if key.startswith(ours + "."):
            key = original + key.removeprefix(ours)
    found = re.match(r"(down|up)_blocks\.(\d+)\.(resnets|attentions|downsamplers|upsamplers)\.(\d+)", key)
    if found:
        way, block, kind, layer = found[1], int(found[2]), found[3], int(found[4])
        first = block * (layers + 1)
        place = f"input_blocks.{1 + first + layer}" if way == "down" else f"output_blocks.{first + layer}"
        if kind == "downsamplers":
            new = f"input_blocks.{1 + first + layers}.0.op"
        elif kind == "upsamplers":
            new = f"output_blocks.{first + layers}.{1 if block in plain_ups else 2}.conv"
        else:
            new = f"{place}.{0 if kind == 'resnets' else 1}"
        key = new + key[found.end() :].removeprefix(".conv" if "samplers" in kind else "")
    if "transformer_blocks" not in key:
        for ours, original in (
            (".norm1.", ".in_layers.0."), (".conv1.", ".in_layers.2."), (".norm2.", ".out_layers.0."),
            (".conv2.", ".out_layers.3."), (".time_emb_proj.", ".emb_layers.1."),
            (".conv_shortcut.", ".skip_connection."),
        ):  # fmt: skip
            key = key.replace(ours, original)
    return "model.diffusion_model." + key


def original_vae_key(key: str, blocks: int) -> str:
    """A VAE key of diffusers as the original checkpoints name it. blocks: of its decoder."""
    key = re.sub(r"down_blocks\.(\d+)\.resnets", r"down.\1.block", key)
    key = re.sub(r"down_blocks\.(\d+)\.downsamplers\.0", r"down.\1.downsample", key)
    key = re.sub(r"up_blocks\.(\d+)\.resnets", lambda m: f"up.{blocks - 1 - int(m[1])}.block", key)
    key = re.sub(r"up_blocks\.(\d+)\.upsamplers\.0", lambda m: f"up.{blocks - 1 - int(m[1])}.upsample", key)
    key = re.sub(r"mid_block\.resnets\.(\d)", lambda m: f"mid.block_{int(m[1]) + 1}", key)
    for ours, original in (
        ("mid_block.attentions.0", "mid.attn_1"), ("group_norm", "norm"), ("to_q", "q"), ("to_k", "k"),
        ("to_v", "v"), ("to_out.0", "proj_out"), ("conv_shortcut", "nin_shortcut"),
        ("conv_norm_out", "norm_out"),
    ):  # fmt: skip
        key = key.replace(ours, original)
    return "first_stage_model." + key


def original_state(pipeline: Any) -> dict[str, Tensor]:
    """The pipeline's weights under the key names of the original v1 checkpoints."""
    ups = pipeline.unet.up_blocks
    plain_ups = frozenset(n for n, up in enumerate(ups) if not getattr(up, "has_cross_attention", False))
    layers = pipeline.unet.config.layers_per_block
    state = {
        original_unet_key(key, layers, plain_ups): weight
        for key, weight in pipeline.unet.state_dict().items()
    }
    for key, weight in pipeline.vae.state_dict().items():
        # Attention was written as 1×1 convolutions there.
        as_convolution = re.search(r"attentions.*to_.*weight", key) is not None
        name = original_vae_key(key, len(pipeline.vae.decoder.up_blocks))
        state[name] = weight[:, :, None, None] if as_convolution else weight
    for key, weight in pipeline.text_encoder.state_dict().items():
        # transformers 5 dropped the prefix that the checkpoints carry.
        state["cond_stage_model.transformer.text_model." + key.removeprefix("text_model.")] = weight
    return state | original_extras(pipeline)


def original_extras(pipeline: Any) -> Mapping[str, Tensor]:
    """Entries that published files carry and no network reads."""
    return {
        "cond_stage_model.transformer.text_model.embeddings.position_ids": torch.arange(77)[None],
        "alphas_cumprod": pipeline.scheduler.alphas_cumprod,
    }


def save(pipeline: Any, out: Path, layout: str, variant: str | None) -> Path:
    """Write the pipeline and return what `magicapture_core.models.load` takes."""
    if layout == "folder":
        pipeline.save_pretrained(out, variant=variant)
        return out
    if layout == "single":
        from safetensors.torch import save_file

        out.parent.mkdir(parents=True, exist_ok=True)
        save_file({key: weight.contiguous() for key, weight in original_state(pipeline).items()}, out)
        return out
    repository = out / ("models--" + HUB_ID.replace("/", "--"))
    shutil.rmtree(repository, ignore_errors=True)
    pipeline.save_pretrained(repository / "snapshots" / REVISION, variant=variant)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(REVISION, encoding="ascii")
    return Path(HUB_ID)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--as", dest="layout", choices=("folder", "single", "hub-cache"), default="folder")
    parser.add_argument("--dtype", choices=tuple(DTYPES), default="fp16")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    pipeline = random_pipeline(DTYPES[options.dtype], options.seed)
    variant = "fp16" if options.dtype == "fp16" and options.layout != "single" else None
    print(save(pipeline, options.out, options.layout, variant))


if __name__ == "__main__":
    main()
