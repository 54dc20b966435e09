"""Faster ways of a CUDA GPU to compute the same. Each can be turned off, so that each can be measured alone."""

from __future__ import annotations

import dataclasses
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from magicapture_core.languages import _
from magicapture_core.problems import Problem

if TYPE_CHECKING:
    from magicapture_core.models.bundle import ModelBundle

VARIABLE = "MAGICAPTURE_KERNELS"
"""Environment variable: for example "compiled=1,channels_last=0"."""


@dataclass(frozen=True)
class Kernels:
    """Which of them are used. They change results by rounding only."""

    channels_last: bool = False
    """UNet and autoencoder in the memory format that tensor cores convolve in, without a copy before each."""
    fused_adamw: bool = False
    """One kernel for the optimizer's step, which leaves the weights alone where a loss is not finite."""
    ahead: bool = False
    """The next step begins before the losses of the last one have arrived. Needs `fused_adamw`."""
    tf32: bool = False
    """Products of float32 in TensorFloat-32, process-wide: LoRA's own and the autoencoder's at the end."""
    compiled: bool = False
    """torch.compile of the UNet's transformer blocks. Off until a GPU has measured that it pays its start back."""

    def apply(self, models: ModelBundle) -> None:
        """Make a loaded model, and torch, use them from now on. What `fused_adamw` and `ahead` say, training reads."""
        models.kernels = self
        if models.device.type == "cuda":
            torch.set_float32_matmul_precision("high" if self.tf32 else "highest")
            torch.backends.cudnn.allow_tf32 = self.tf32
        layout = torch.channels_last if self.channels_last else torch.contiguous_format
        for network in (models.unet, models.vae):
            network.to(memory_format=layout)
        if self.compiled:
            # All blocks share their code, and each width, listened to or not, with LoRA or not, is a graph of its own:
            # beyond the usual eight torch would go on without compiling, and not say so.
            torch._dynamo.config.cache_size_limit = 64
        for block in repeated_blocks(models.unet):
            if self.compiled:
                block.compile()
            else:
                block._compiled_call_impl = None


def repeated_blocks(unet: torch.nn.Module) -> list[torch.nn.Module]:
    """The blocks that a UNet repeats, as diffusers names them: a compiled one serves all of its shape."""
    names = getattr(unet, "_repeated_blocks", [])
    return [module for module in unet.modules() if type(module).__name__ in names]


def kernels_for(device: torch.device) -> Kernels:
    """What suits a device, with the changes that `MAGICAPTURE_KERNELS` asks for. Raises Problem on a word it does
    not know."""
    cuda = device.type == "cuda"
    chosen = Kernels(channels_last=cuda, fused_adamw=cuda, ahead=cuda, tf32=cuda)
    return changed(chosen, os.environ.get(VARIABLE, ""))


def changed(kernels: Kernels, words: str) -> Kernels:
    """`kernels` with the changes of "name=0,other=1"."""
    names = {field.name for field in dataclasses.fields(Kernels)}
    changes: dict[str, bool] = {}
    for word in filter(None, (part.strip() for part in words.split(","))):
        name, _equals, value = word.partition("=")
        if name not in names or value not in ("0", "1"):
            raise Problem(
                _(
                    "{variable} has {word!r}; expected name=0 or name=1, separated by commas, with a name of {names}. "
                    "Correct it, or unset the variable.",
                    variable=VARIABLE,
                    word=word,
                    names=", ".join(sorted(names)),
                )
            )
        changes[name] = value == "1"
    return dataclasses.replace(kernels, **changes)
