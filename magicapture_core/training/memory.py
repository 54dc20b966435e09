"""How a step is split so that memory holds it: items per UNet call, and what is computed again going backward."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch

from magicapture_core.config import TrainConfig
from magicapture_core.models import ModelBundle
from magicapture_core.training.draws import tasks_of
from magicapture_core.training.recompute import Recomputed

# Counted for Stable Diffusion 1.5 by `python benchmarks/counting.py`, in bytes at two bytes a number: what an item of
# 64×64 latents takes at most in a UNet of 860 M parameters, and in a decoder of 128 channels to 512×512 pixels.
UNET_BYTES: Mapping[Recomputed, float] = {"nothing": 0.89e9, "largest": 0.58e9, "all": 0.26e9}
DECODER_BYTES: Mapping[bool, float] = {False: 3.0e9, True: 1.1e9}
TINY_BYTES = 0.36e9
"""The same of the tiny decoder (TAESD)."""
UNET_WORK: Mapping[Recomputed, float] = {"nothing": 1.0, "largest": 1.15, "all": 1.34}
"""Operations of a UNet pass and its backward pass, with what is computed again, by those without (1.72 TFLOP)."""
DECODER_WORK: Mapping[bool, float] = {False: 2.9, True: 3.6}
"""Those of the decoder to 512×512 pixels, by the same."""
CALL = 4.0
"""A call takes as long as one of so many items at least, for the host has to launch it: an H100 took 0.1 s, which is
the time of eight items there and of two on a small card."""
RESERVE = 1e9
"""Left free: for workspaces, the optimizer and other programs."""
CPU_BATCH = UNET_BYTES["nothing"]
"""On the CPU a larger batch gains little once a call keeps the cores busy: bytes of such a call."""


class Plan(NamedTuple):
    """How a step is split. The gradient is the same whatever it says."""

    items_per_call: int
    """Items of each task per UNet call."""
    recomputed: Recomputed
    """Of the UNet."""
    decoder_recomputed: bool

    @property
    def saves_all(self) -> bool:
        """Whether `gradient_checkpointing` would add nothing."""
        return self.recomputed == "all"


@dataclass(frozen=True)
class Costs:
    """Bytes that one item takes: in the UNet, and in the decoder (0 if nothing is decoded)."""

    unet: Mapping[Recomputed, float]
    decode: Mapping[bool, float]
    tasks: int
    """Items of that many tasks are in one call of the UNet. Eq. 7's decode comes after it, with its own UNet pass."""

    def of(self, plan: Plan) -> float:
        """Bytes that a step takes at most."""
        unet, decode = self.unet[plan.recomputed], self.decode[plan.decoder_recomputed]
        return plan.items_per_call * max(self.tasks * unet, unet + decode if decode else 0)

    def times(self, factor: float) -> Costs:
        """The same, had everything taken `factor` times as much."""
        unet = {name: factor * value for name, value in self.unet.items()}
        return Costs(unet, {name: factor * value for name, value in self.decode.items()}, self.tasks)


def plan(
    budget: float, costs: Costs, *, least: int, most: int, wanted: int, checkpointing: bool = False
) -> Plan:
    """Of the plans that `budget` bytes hold, the fastest.

    least, most: bounds of the items per call; wanted: items of each task in a step. checkpointing: everything is
    computed again, whether it must be or not. Where nothing fits: `least` with all of that, which needs the least.
    """
    smallest = Plan(least, "all", bool(costs.decode[True]))
    names: tuple[Recomputed, ...] = ("all",) if checkpointing else ("nothing", "largest", "all")
    decoder = {smallest.decoder_recomputed} | (set() if checkpointing else {False})
    candidates = [
        Plan(items, name, again)
        for items in range(least, most + 1)
        for name in names
        for again in sorted(decoder)
    ]
    fitting = [each for each in candidates if costs.of(each) <= budget]
    return min(fitting, key=lambda each: (_work(each, costs, wanted), -each.items_per_call), default=smallest)


def _work(plan: Plan, costs: Costs, wanted: int) -> float:
    """How long a step takes, in UNet passes of one item."""
    items, unet = plan.items_per_call, UNET_WORK[plan.recomputed]
    call = max(costs.tasks * items * unet, CALL)
    if costs.decode[False]:
        share = costs.decode[False] / costs.unet["nothing"] * UNET_BYTES["nothing"] / DECODER_BYTES[False]
        call += max(items * unet, CALL) + items * share * DECODER_WORK[plan.decoder_recomputed]
    return math.ceil(wanted / items) * call


@dataclass(frozen=True)
class Planner:
    """Plans the steps of a run, and corrects the plan by what a step has taken."""

    costs: Costs
    budget: float
    """Bytes that a step may take."""
    least: int
    most: int
    wanted: int
    checkpointing: bool
    exact: bool = False
    """Whether a resumed run must split its steps as before, whatever is free."""

    @classmethod
    def of(cls, models: ModelBundle, config: TrainConfig, window: int) -> Planner:
        """For the models' device as it is now. window: latent cells along a side of what Eq. 7 decodes."""
        found = costs(models, config, window)
        most = config.items_per_step
        if models.device.type == "cpu":
            most = max(1, min(most, int(CPU_BATCH // (found.tasks * found.unet["nothing"]))))
        return cls(
            found,
            free_bytes(models.device) - RESERVE,
            least=config.items_per_call or 1,
            most=config.items_per_call or most,
            wanted=config.items_per_step,
            checkpointing=config.gradient_checkpointing,
            exact=models.device.type == "cpu" or config.items_per_call is not None,
        )

    def plan(self) -> Plan:
        """How to split a step."""
        return plan(self.budget, self.costs, least=self.least, most=self.most, wanted=self.wanted,
                    checkpointing=self.checkpointing)  # fmt: skip

    def plan_with(self, items: int) -> Plan:
        """How to split a step as before, `items` a call; where a GPU has no room for that, how it has."""
        exact = replace(self, least=items, most=items)
        wanted = exact.plan()
        # Another split rounds otherwise. Only on a CPU is a resumed run promised to be the same, bit for bit.
        fits = self.costs.of(wanted) <= self.budget
        return wanted if fits or self.exact else self.plan()

    def corrected(self, plan: Plan, taken: float) -> Plan:
        """`plan`, or a better one, now that a step by it has taken `taken` bytes: with fewer items or more computed
        again where that is more than there is, with more items where fewer calls then do."""
        if taken > self.budget:
            return replace(self, costs=self.costs.times(taken / self.costs.of(plan))).plan()
        fitting = min(self.most, int(self.budget * plan.items_per_call / max(taken, 1)))
        calls = math.ceil(self.wanted / max(fitting, plan.items_per_call))
        return plan._replace(
            items_per_call=max(plan.items_per_call, min(self.most, math.ceil(self.wanted / calls)))
        )


class Watch:
    """What a device's memory holds at most from now on, beyond what it holds already."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.before = 0
        if device.type == "cuda":
            self.before = torch.cuda.memory_allocated(device)
            torch.cuda.reset_peak_memory_stats(device)

    def taken(self) -> float | None:
        """Bytes; None where nobody counts them. torch counts as it launches, so that nothing is waited for."""
        if self.device.type != "cuda":
            return None
        return float(torch.cuda.max_memory_allocated(self.device) - self.before)


def costs(models: ModelBundle, config: TrainConfig, window: int) -> Costs:
    """What an item of this model and these settings takes."""
    tasks = len(tasks_of("lora" if config.lora_steps else "textual_inversion", config))
    numbers = torch.finfo(models.dtype).bits / 16
    cells = (config.resolution // models.vae_scale_factor) ** 2
    size = numbers * cells / 64**2
    unet = {name: size * value * models.unet_share(name) for name, value in UNET_BYTES.items()}
    decode = dict.fromkeys(DECODER_BYTES, 0.0)
    if config.decodes and config.lora_steps:
        pixels = (window * models.vae_scale_factor) ** 2
        size = numbers * pixels / 512**2 * models.vae.config.block_out_channels[0] / 128
        decode = {name: size * value for name, value in DECODER_BYTES.items()}
        if config.identity_decode == "tiny":
            decode = dict.fromkeys(decode, numbers * pixels / 512**2 * TINY_BYTES)
    return Costs(unet, decode, tasks)


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
