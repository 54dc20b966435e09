"""How many items fit through the UNet at once."""

from __future__ import annotations

import torch

from magicapture_core.config import TrainConfig
from magicapture_core.models import ModelBundle

# Activations that phase 2 keeps per UNet item of 64×64 latents and 860 M parameters, in bytes at two
# bytes a number; estimated from the layer shapes of SD 1.5 and rounded up.
BYTES_PER_ITEM = 2.5e9
CHECKPOINTED = 0.25
RESERVE = 2e9
# On the CPU a larger batch gains little once a call keeps the cores busy, and memory is the user's own.
CPU_BUDGET = 2.5e9


def fitting_items_per_call(models: ModelBundle, config: TrainConfig) -> int:
    """Items of each task per UNet call that memory is expected to hold; at least 1."""
    cells = (config.resolution // models.vae_scale_factor) ** 2
    parameters = sum(parameter.numel() for parameter in models.unet.parameters())
    cost = BYTES_PER_ITEM * cells / 64**2 * parameters / 860e6
    cost *= torch.finfo(models.dtype).bits / 16 * (CHECKPOINTED if config.gradient_checkpointing else 1)
    budget = CPU_BUDGET
    if models.device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(models.device)
        budget = free - RESERVE
    return max(1, min(config.items_per_step, int(budget / (3 * cost))))
