"""A tiny decoder (TAESD) for the identity loss: 1.2 M parameters, where Stable Diffusion's has 49 M; rougher."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from magicapture_core.languages import _
from magicapture_core.models.bundle import ModelBundle
from magicapture_core.models.hub import first_line
from magicapture_core.problems import MissingFiles, Problem, ran_out_of_memory
from magicapture_core.weights import weights_dir

SOURCE = "https://huggingface.co/madebyollin/"
ALIKE = 18.0
"""Least PSNR in dB of its picture against the autoencoder's. A guess, for the published TAESD was not at hand."""


def tiny_decoder(models: ModelBundle, latents: Tensor) -> Any:
    """diffusers' AutoencoderTiny from `weights_dir()`, frozen, on the model's device and in its dtype.

    latents: (b, c, h, w), scaled, of real photos; on one of them its picture is compared with the autoencoder's.
    Raises MissingFiles where it is not here, Problem where it cannot be read or is of another model's latents.
    """
    from diffusers import AutoencoderTiny

    folder, source = weights_dir() / models.tiny_decoder, SOURCE + models.tiny_decoder
    if not (folder / "config.json").is_file():
        raise MissingFiles(
            _(
                'identity_decode "tiny" needs the tiny decoder {decoder} (10 MB, MIT licence), which is not in '
                "{folder}. Get config.json and diffusion_pytorch_model.safetensors from {source}, or use "
                'identity_decode "face".',
                decoder=models.tiny_decoder,
                folder=folder,
                source=source,
            )
        )
    try:
        decoder = AutoencoderTiny.from_pretrained(folder, torch_dtype=models.dtype, use_safetensors=True)
    except Exception as error:  # diffusers raises all kinds for damaged files, even the bare class
        if ran_out_of_memory(error):
            raise
        raise Problem(
            _(
                "The tiny decoder in {folder} cannot be read ({reason}). Get it from {source} again.",
                folder=folder,
                reason=first_line(error),
                source=source,
            )
        ) from error
    decoder.requires_grad_(False).eval().to(models.device)
    _check(decoder, models, latents[:1], folder)
    return decoder


def _check(decoder: Any, models: ModelBundle, latents: Tensor, folder: Path) -> None:
    problem = Problem(
        _(
            "The tiny decoder in {folder} does not belong to {model}: it makes other pictures of the same latents than "
            "the autoencoder. taesd is for Stable Diffusion 1.x and 2.x, taesdxl for XL; use identity_decode "
            '"face" here.',
            folder=folder,
            model=models.name,
        )
    )
    scale = 2 ** (len(decoder.config.decoder_block_out_channels) - 1)
    if (decoder.config.latent_channels, scale) != (latents.shape[1], models.vae_scale_factor):
        raise problem
    with torch.no_grad():
        ours = decoder.decode(latents.to(models.dtype)).sample.float()
        theirs = models.decode(latents).float()
    error = (ours.clamp(-1, 1) - theirs.clamp(-1, 1)).square().mean().item() / 4  # of [0, 1]
    if not 10 * math.log10(1 / max(error, 1e-12)) >= ALIKE:
        raise problem
