"""Gradient checkpointing of chosen parts of a network: less memory for more time, and the same gradient."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from typing import Any, Literal

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

Recomputed = Literal["nothing", "largest", "all"]
"""Of a UNet: "largest", the parts that see the latents at their full size; they keep most of the memory."""

UNET_PARTS = ("ResnetBlock2D", "BasicTransformerBlock")
DECODER_PARTS = ("ResnetBlock2D", "Upsample2D")
"""diffusers' classes, each of which keeps much within and takes and gives little."""


def unet_parts(unet: Any, which: Recomputed) -> list[nn.Module]:
    """The modules of a UNet that are computed again going backward."""
    if which == "nothing":
        return []
    roots = [unet] if which == "all" else [unet.down_blocks[0], unet.up_blocks[-1]]
    return [module for root in roots for module in _named(root, UNET_PARTS)]


def decoder_parts(decoder: nn.Module) -> list[nn.Module]:
    """The modules of an autoencoder's decoder that are computed again going backward."""
    return _named(decoder, DECODER_PARTS)


def recompute(modules: Iterable[nn.Module]) -> Callable[[], None]:
    """Let modules keep nothing but their inputs for the backward pass, which computes the rest again. Returns what
    ends it. They must draw nothing random: dropout is off in models that are not trained themselves."""
    changed = list(modules)
    for module in changed:
        module.forward = functools.partial(_again, module.forward)  # type: ignore[method-assign]

    def end() -> None:
        for module in changed:
            del module.forward

    return end


def _again(forward: Callable[..., Any], *values: Any, **options: Any) -> Any:
    if not torch.is_grad_enabled():
        return forward(*values, **options)
    return checkpoint(forward, *values, use_reentrant=False, preserve_rng_state=False, **options)


def _named(root: nn.Module, classes: tuple[str, ...]) -> list[nn.Module]:
    return [module for module in root.modules() if type(module).__name__ in classes]
