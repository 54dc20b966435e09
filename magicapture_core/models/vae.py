"""The autoencoder of Stable Diffusion XL: in which precision it computes, and the variant that half precision suits.

The published one makes numbers inside that fp16 cannot hold and bf16 holds roughly; its configuration says so
(`force_upcast`). Then it computes in fp32 wherever a picture is kept, unless the variant that was made for half
precision is at hand.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from magicapture_core.languages import _
from magicapture_core.problems import Problem, ran_out_of_memory
from magicapture_core.weights import weights_dir

FIXED = "madebyollin/sdxl-vae-fp16-fix"
"""On the hub; MIT licence."""


def with_fitting_vae(pipeline: Any, dtype: torch.dtype, vae_dtype: torch.dtype) -> Any:
    """The pipeline, its fp32 autoencoder replaced or cast where `dtype` is half and that costs no quality.

    vae_dtype: what an autoencoder that half precision suits computes in.
    """
    if dtype == torch.float32:
        return pipeline
    if not pipeline.vae.config.force_upcast:
        pipeline.vae.to(vae_dtype)
    elif folder := _fixed_folder():
        pipeline.vae = _read(folder, vae_dtype)
    return pipeline


def _fixed_folder() -> Path | None:
    """Where the variant for half precision is on this computer, if it is; nothing is downloaded."""
    from huggingface_hub import snapshot_download

    own = weights_dir() / FIXED.rpartition("/")[2]
    if (own / "config.json").is_file():
        return own
    try:
        folder = Path(snapshot_download(FIXED, local_files_only=True))
    except (OSError, ValueError):
        return None
    weights = folder / "diffusion_pytorch_model.safetensors"
    return folder if weights.is_file() and (folder / "config.json").is_file() else None


def _read(folder: Path, dtype: torch.dtype) -> Any:
    from diffusers import AutoencoderKL

    try:
        return AutoencoderKL.from_pretrained(folder, dtype=dtype, use_safetensors=True, local_files_only=True)
    except Exception as error:  # diffusers raises all kinds for damaged files, even the bare class
        if ran_out_of_memory(error):
            raise
        reason = str(error).partition("\n")[0]
        raise Problem(
            _(
                "The autoencoder in {folder} cannot be read ({reason}). Copy it again, or remove the folder: the "
                "model's own is used then.",
                folder=folder,
                reason=reason,
            )
        ) from error
