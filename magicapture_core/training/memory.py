"""How a step is split so that memory holds it: items per UNet call, and gradient checkpointing."""

from __future__ import annotations

from typing import NamedTuple

import torch

from magicapture_core.config import TrainConfig
from magicapture_core.models import ModelBundle
from magicapture_core.training.draws import tasks_of

# Activations that the UNet keeps per item of 64×64 latents at 860 M parameters, and Eq. 7's decoder per item of
# 512×512 pixels at 128 channels, in bytes at two bytes a number. Both are estimates from the layers, rounded up.
UNET_BYTES = 2.5e9
DECODER_BYTES = 3e9
CHECKPOINTED = 0.25
"""What gradient checkpointing leaves of the first."""
TINY = 0.1
"""What the tiny decoder takes of the second; a guess."""
RESERVE = 2e9
"""Left free: for the optimizer, previews, workspaces, and other programs."""
# On the CPU a larger batch gains little once a call keeps the cores busy.
CPU_BATCH = 2.5e9


class Plan(NamedTuple):
    """How a step is split. The gradient is the same whatever it says."""

    items_per_call: int
    """Items of each task per UNet call."""
    gradient_checkpointing: bool


def plan(
    budget: float,
    *,
    least: int,
    most: int,
    tasks: int,
    unet: float,
    decode: float,
    checkpointing: bool = False,
) -> Plan:
    """The most items of each task that `budget` bytes hold, and whether only gradient checkpointing makes room.

    least, most: bounds of the items per call. unet, decode: bytes that one item keeps in the UNet, and in Eq. 7's
    decoder (0 without it), whose UNet pass comes after that of the `tasks`. checkpointing: it is wanted in any case.
    Where nothing fits: `least` with checkpointing, which needs the least memory.
    """
    for checkpointed in (True,) if checkpointing else (False, True):
        each = unet * (CHECKPOINTED if checkpointed else 1)
        fitting = int(budget // max(tasks * each, each + decode))
        if fitting >= least:
            return Plan(min(most, fitting), checkpointed)
    return Plan(least, True)


def plan_for(models: ModelBundle, config: TrainConfig, window: int) -> Plan:
    """How to split the steps on the models' device as it is now. window: latent cells along a side of what Eq. 7
    decodes."""
    tasks = len(tasks_of("lora" if config.lora_steps else "textual_inversion", config))
    unet, decode = costs(models, config, window)
    most = config.items_per_step
    if models.device.type == "cpu":
        most = max(1, min(most, int(CPU_BATCH // (tasks * unet))))
    return plan(
        free_bytes(models.device) - RESERVE,
        least=config.items_per_call or 1,
        most=config.items_per_call or most,
        tasks=tasks,
        unet=unet,
        decode=decode,
        checkpointing=config.gradient_checkpointing,
    )


def costs(models: ModelBundle, config: TrainConfig, window: int) -> tuple[float, float]:
    """Bytes that one item keeps for the backward pass: in the UNet, and in the decoder (0 if nothing is decoded)."""
    numbers = torch.finfo(models.dtype).bits / 16
    cells = (config.resolution // models.vae_scale_factor) ** 2
    unet = UNET_BYTES * numbers * cells / 64**2 * models.unet_share
    if not (config.decodes and config.lora_steps):
        return unet, 0.0
    pixels = (window * models.vae_scale_factor) ** 2
    channels = models.vae.config.block_out_channels[0]
    decode = DECODER_BYTES * numbers * pixels / 512**2 * channels / 128
    return unet, decode * (TINY if config.identity_decode == "tiny" else 1)


def free_bytes(device: torch.device) -> float:
    """What may still be allocated, with what torch holds of the device without using it; 0 where nobody can say."""
    if device.type in ("cuda", "xpu"):
        module = torch.get_device_module(device)
        free, _ = module.mem_get_info(device)
        return float(free + module.memory_reserved(device) - module.memory_allocated(device))
    if device.type == "mps":
        return float(torch.mps.recommended_max_memory() - torch.mps.current_allocated_memory())
    if device.type == "cpu":
        import psutil

        return float(psutil.virtual_memory().available)
    return 0.0
