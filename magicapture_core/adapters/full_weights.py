"""Unlike the paper: training weights of the UNet itself, as the methods do that it is compared with."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from magicapture_core.adapters.files import UNET_FILE

PREFIX = "unet."
TRAINED = {"unet": re.compile(r".*"), "cross_kv": re.compile(r".*\.attn2\.to_[kv]\.weight")}
"""Which of the UNet's parameters, by name: DreamBooth's all, Custom Diffusion's keys and values of the text."""

Originals = dict[str, Tensor]
"""What the weights were, by their names in the UNet, in their own precision, on the CPU."""


def unfreeze(unet: Any, trained: Literal["cross_kv", "unet"]) -> tuple[dict[str, nn.Parameter], Originals]:
    """Make the weights trainable, in fp32. Returns them by name and what they were."""
    weights: dict[str, nn.Parameter] = {}
    originals: Originals = {}
    for name, parameter in unet.named_parameters():
        if TRAINED[trained].fullmatch(name):
            originals[name] = parameter.detach().to("cpu", copy=True)
            parameter.data = parameter.data.float()
            weights[PREFIX + name] = parameter.requires_grad_(True)
    return weights, originals


def freeze_again(unet: Any, originals: Originals) -> None:
    """Leave the UNet as it was before `unfreeze`."""
    parameters = dict(unet.named_parameters())
    for name, original in originals.items():
        parameters[name].data = original.to(parameters[name].device)
        parameters[name].grad = None
        parameters[name].requires_grad_(False)


def save_unet(weights: dict[str, nn.Parameter], folder: Path, dtype: torch.dtype) -> None:
    """Write the trained weights under their names in the UNet, in the model's own precision."""
    tensors: dict[str, Any] = {
        name.removeprefix(PREFIX): weight.detach().to("cpu", dtype).contiguous()
        for name, weight in weights.items()
    }
    save_file(tensors, folder / UNET_FILE)


@contextmanager
def replaced(unet: Any, trained: Mapping[str, Tensor], scale: float) -> Iterator[None]:
    """Within the context the UNet's weights are W + scale · (W' - W), W' those of `trained`, which fit."""
    parameters = dict(unet.named_parameters())
    before = {name: parameters[name].data for name in trained}
    try:
        for name, weight in trained.items():
            parameters[name].data = torch.lerp(
                before[name].float(), weight.to(before[name].device).float(), scale
            ).to(before[name].dtype)
        yield
    finally:
        for name, weight in before.items():
            parameters[name].data = weight
