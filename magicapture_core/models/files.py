"""Pipelines from files: a diffusers folder, or one .safetensors file with the original key names."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from magicapture_core.problems import MissingFiles, Problem
from magicapture_core.weights import ASSETS

CONFIGS = ASSETS / "stable_diffusion"
"""The published configurations, for single files, which hold only weights."""
UNET_KEY = "model.diffusion_model.input_blocks.0.0.weight"
TEXT_KEYS = {
    "cond_stage_model.transformer.text_model.embeddings.token_embedding.weight": "v1",  # CLIP
    "cond_stage_model.transformer.embeddings.token_embedding.weight": "v1",  # as transformers named it before 2022
    "cond_stage_model.model.token_embedding.weight": "v2",  # OpenCLIP
}
OLD_TEXT = re.compile(r"cond_stage_model\.transformer\.(?!text_model\.)")
OTHER_INPUTS = {5: "a depth model", 8: "an editing model (InstructPix2Pix)", 9: "an inpainting model"}
"""What takes more into its UNet than a picture's 4 channels, by their number."""
PARTS = ("tokenizer", "text_encoder", "unet", "vae", "scheduler")
WEIGHT_NAMES = {
    "text_encoder": "model",
    "unet": "diffusion_pytorch_model",
    "vae": "diffusion_pytorch_model",
    "safety_checker": "model",
}
PICKLES = (".bin", ".ckpt", ".pt", ".pth")
EXPECTED = "a Stable Diffusion 1.x or 2.x text-to-image model"


def open_folder(folder: Path, dtype: torch.dtype, vae_dtype: torch.dtype) -> Any:
    """A pipeline from a diffusers folder."""
    from diffusers import StableDiffusionPipeline

    variant = weight_variant(folder)
    return StableDiffusionPipeline.from_pretrained(
        folder,
        dtype={"default": dtype, "vae": vae_dtype},
        variant=variant,
        use_safetensors=True,
        local_files_only=True,
    )


def weight_variant(folder: Path) -> str | None:
    """Which weights a diffusers folder has: None for the plain ones, "fp16" if a part has only those. diffusers then
    takes the plain ones of the other parts.

    Raises Problem if the folder holds another kind of model, MissingFiles if parts of it are not there.
    """
    index = folder / "model_index.json"
    if not index.is_file():
        raise Problem(
            f"{folder} is not a model folder: expected {EXPECTED} in diffusers layout (model_index.json, "
            f"{', '.join(PARTS)}). For a single .safetensors file, give the file's path."
        )
    listed = json.loads(index.read_text(encoding="utf-8-sig"))
    kind = listed.get("_class_name")
    if kind not in ("StableDiffusionPipeline", "StableDiffusionImg2ImgPipeline"):
        raise Problem(f"{folder} holds a {kind}: expected {EXPECTED}. Choose one of those.")
    optional = [part for part in ("safety_checker",) if listed.get(part, [None])[0]]
    missing = [part for part in (*PARTS, *optional) if not (folder / part).is_dir()]
    if missing:
        raise MissingFiles(f"{folder} lacks {', '.join(missing)}. Copy or download the model again.")
    parts = ("text_encoder", "unet", "vae", *optional)
    plain, half = (
        {part for part in parts if _has_weights(folder / part, WEIGHT_NAMES[part], variant)}
        for variant in (None, "fp16")
    )
    lacking = [part for part in parts if part not in plain | half]
    if not lacking:
        return None if plain.issuperset(parts) else "fp16"
    pickles = [file for part in lacking for file in (folder / part).iterdir() if file.suffix in PICKLES]
    if pickles:
        raise Problem(
            f"{folder} has weights of {', '.join(lacking)} only as {pickles[0].name}: a pickle, which can "
            "run any code when it is opened, so it is refused. Use the model's .safetensors files."
        )
    raise MissingFiles(
        f"{folder} lacks the .safetensors weights of {', '.join(lacking)}. Copy or download the model again."
    )


def _has_weights(folder: Path, stem: str, variant: str | None) -> bool:
    dotted = f".{variant}" if variant else ""
    names = (f"{stem}{dotted}.safetensors", f"{stem}.safetensors.index{dotted}.json")
    return any((folder / name).is_file() for name in names)


def open_file(file: Path, dtype: torch.dtype, vae_dtype: torch.dtype) -> Any:
    """A pipeline from one .safetensors file with the original (not diffusers') key names."""
    from diffusers import AutoencoderKL, StableDiffusionPipeline
    from transformers import CLIPTokenizer

    version = _file_version(file)
    tokenizer = CLIPTokenizer.from_pretrained(
        CONFIGS / "tokenizer", pad_token="!" if version == "v2" else "<|endoftext|>"
    )
    configs = str(CONFIGS / version)
    vae = AutoencoderKL.from_single_file(
        str(file), config=configs, subfolder="vae", dtype=vae_dtype, local_files_only=True
    )
    old_text = _old_text_encoder(file, CONFIGS / version, dtype)
    pipeline = StableDiffusionPipeline.from_single_file(
        str(file),
        config=configs,
        vae=vae,
        tokenizer=tokenizer,
        safety_checker=None,
        feature_extractor=None,
        local_files_only=True,
        dtype=dtype,
        **({} if old_text is None else {"text_encoder": old_text}),
    )
    if version == "v2" and predicts_velocity(pipeline.unet):
        pipeline.scheduler.register_to_config(prediction_type="v_prediction")
        pipeline.unet.register_to_config(sample_size=96)
    return pipeline


def _old_text_encoder(file: Path, configs: Path, dtype: torch.dtype) -> Any:
    """The text encoder of a file that names it as transformers did before 2022; None for any other file.

    diffusers' converter knows only the later names.
    """
    from diffusers.loaders.single_file_utils import create_diffusers_clip_model_from_ldm
    from transformers import CLIPTextModel

    with safe_open(file, "pt") as content:
        old = {name: content.get_tensor(name) for name in content.keys() if OLD_TEXT.match(name)}  # noqa: SIM118
    if not old:
        return None
    renamed = {OLD_TEXT.sub("cond_stage_model.transformer.text_model.", name): old[name] for name in old}
    return create_diffusers_clip_model_from_ldm(
        CLIPTextModel, renamed, "text_encoder", str(configs), torch_dtype=dtype, local_files_only=True
    )


def _file_version(file: Path) -> str:
    """ "v1" or "v2", from the key names in the file's header; Problem if it is something else."""
    if file.suffix != ".safetensors":
        why = "a pickle, which can run any code when it is opened" if file.suffix in PICKLES else "unknown"
        raise Problem(f"{file.name} is {why}: expected a .safetensors file. Get the model in that format.")
    with safe_open(file, "pt") as content:
        keys = set(content.keys())
        versions = {version for name, version in TEXT_KEYS.items() if name in keys}
        shape = content.get_slice(UNET_KEY).get_shape() if UNET_KEY in keys else []
    channels = shape[1] if len(shape) == 4 else None
    if len(versions) == 1 and UNET_KEY in keys and channels not in OTHER_INPUTS:
        return versions.pop()
    if channels in OTHER_INPUTS:
        what = OTHER_INPUTS[channels]
    elif any("lora" in key for key in keys):
        what = "an adapter (LoRA), which only changes a model"
    elif UNET_KEY in keys or any("double_blocks" in key or "joint_blocks" in key for key in keys):
        what = "a model of another family (SDXL, SD 3, Flux, …) or only a part of one"
    else:
        what = "no complete model with the original key names"
    raise Problem(f"{file.name} holds {what}: expected {EXPECTED}. Choose one of those.")


@torch.no_grad()
def predicts_velocity(unet: Any) -> bool:
    """Whether a UNet predicts v rather than epsilon; a single file does not say.

    On pure noise at the last timestep, epsilon IS the input, whereas v = -x0 has nothing to do with it.
    """
    noise = torch.randn(1, unet.config.in_channels, 32, 32, generator=torch.Generator().manual_seed(0))
    nothing = torch.zeros(1, 77, unet.config.cross_attention_dim, dtype=unet.dtype)
    answer = unet(noise.to(unet.dtype), 999, nothing).sample.float()
    return bool(torch.cosine_similarity(answer.flatten(), noise.flatten(), dim=0) < 0.5)
