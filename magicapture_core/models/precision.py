"""What a model of half precision computes in float32 all the same, because it costs next to nothing there."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor

HALF = (torch.float16, torch.bfloat16)


def vae_dtype_for(device: torch.device, dtype: torch.dtype) -> torch.dtype:
    """The autoencoder's, which encodes each photo once and decodes each portrait once: float32 on a CUDA GPU."""
    return torch.float32 if device.type == "cuda" and dtype in HALF else dtype


def take_float32(unet: Any, dtype: torch.dtype) -> None:
    """Let a UNet that computes in `dtype` be given float32 and answer in it. See `draw_in_float32`."""

    def given(_unet: Any, values: tuple[Any, ...], options: dict[str, Any]) -> tuple[tuple[Any, ...], dict]:
        if "sample" in options:
            return values, {**options, "sample": options["sample"].to(dtype)}
        sample, *others = values
        return (sample.to(dtype), *others), options

    def answered(_unet: Any, _values: Any, output: Any) -> Any:
        if isinstance(output, tuple):
            return (output[0].float(), *output[1:])
        output.sample = output.sample.float()
        return output

    unet.register_forward_pre_hook(given, with_kwargs=True)
    unet.register_forward_hook(answered)


def draw_in_float32(pipeline: Any) -> Any:
    """The same pipeline of diffusers, which draws its first latents in float32; a prompt in half precision would have
    it draw them in that, and samplers keep to the precision that they begin with."""
    prepare = pipeline.prepare_latents

    def prepared(
        count: int, channels: int, height: int, width: int, _dtype: torch.dtype, *others: Any
    ) -> Tensor:
        latents: Tensor = prepare(count, channels, height, width, torch.float32, *others)
        return latents

    pipeline.prepare_latents = prepared
    return pipeline


class HalfDecoder(torch.nn.Module):
    """A copy of an autoencoder's decoder in `dtype`: in training it runs at every step, forward and backward."""

    def __init__(self, vae: Any, dtype: torch.dtype) -> None:
        super().__init__()
        self.first = copy.deepcopy(vae.post_quant_conv) or torch.nn.Identity()
        self.decoder = copy.deepcopy(vae.decoder)
        self.scaling_factor: float = vae.config.scaling_factor
        self.dtype = dtype
        self.to(dtype).requires_grad_(False).eval()

    def forward(self, latents: Tensor) -> Tensor:
        """Scaled latents (b, c, h, w) → pictures (b, 3, h, w) in about [-1, 1]."""
        pictures: Tensor = self.decoder(self.first((latents / self.scaling_factor).to(self.dtype)))
        return pictures
