"""What the two training stages share: device, arithmetic, course of the learning rate, checkpoints."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file


def pick_device(name: str | None) -> torch.device:
    return torch.device(name or ("cuda" if torch.cuda.is_available() else "cpu"))


class Clock:
    """Progress of a stage from 0 to 1, by minutes of training (all sessions together) or by steps."""

    def __init__(self, minutes: float | None, steps: int | None) -> None:
        if (minutes is None) == (steps is None):
            raise ValueError("give exactly one of --minutes and --steps")
        self.minutes, self.steps = minutes, steps
        self.step, self.seconds, self._last = 0, 0.0, time.monotonic()

    @property
    def progress(self) -> float:
        if self.steps is not None:
            return min(1.0, self.step / self.steps)
        assert self.minutes is not None
        return min(1.0, self.seconds / 60 / self.minutes)

    def tick(self) -> None:
        now = time.monotonic()
        self.seconds, self._last, self.step = self.seconds + now - self._last, now, self.step + 1


def learning_rate(base: float, step: int, progress: float, warmup: int, decay_from: float) -> float:
    """Linear warm-up, constant, then a half cosine to 2 % of `base` from `decay_from` of the way on."""
    if step < warmup:
        return base * (step + 1) / warmup
    if progress <= decay_from:
        return base
    left = (progress - decay_from) / (1 - decay_from)
    return base * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * left)))


def shuffled(count: int, batch: int, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """Batches of indices for ever, every index once an epoch."""
    while True:
        order = rng.permutation(count)
        for start in range(0, count - batch + 1, batch):
            yield order[start : start + batch]


def read_weights(folder: Path, part: str) -> dict[str, torch.Tensor]:
    """All weights of a part of an exported model ("unet", "text_encoder", "vae"), float32."""
    files = sorted((folder / part).glob("*.safetensors"))
    if not files:
        raise SystemExit(f"{folder / part} holds no .safetensors file: give the folder of an exported model")
    return {name: value.float() for file in files for name, value in load_file(file).items()}


def save_checkpoint(path: Path, clock: Clock, **state: Any) -> None:
    """Write a checkpoint whole or not at all."""
    part = path.with_suffix(".part")
    torch.save({"step": clock.step, "seconds": clock.seconds, **state}, part)
    part.replace(path)


def load_checkpoint(path: Path, clock: Clock) -> dict[str, Any] | None:
    """The state saved at `path`, with the clock set to it; None where there is none."""
    if not path.exists():
        return None
    state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    clock.step, clock.seconds = state["step"], state["seconds"]
    return state


@torch.no_grad()
def update_average(average: dict[str, torch.Tensor], model: torch.nn.Module, step: int, decay: float) -> None:
    """Exponential moving average of the weights; young averages forget faster."""
    keep = min(decay, (1 + step) / (10 + step))
    for name, value in model.state_dict().items():
        if value.is_floating_point():
            average[name].lerp_(value.float(), 1 - keep)
        else:
            average[name].copy_(value)
