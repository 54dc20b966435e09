"""The training of UNet, text encoder and the maps that make words of faces and looks, all together."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import CLIPTokenizer

from tools.mini import stage
from tools.mini.clock import RunClock
from tools.mini.latents import Latents
from tools.mini.muon import Muon
from tools.mini.networks import Denoiser, build_scheduler
from tools.mini.settings import Settings

CHECKPOINT = "unet.pt"
UNCONDITIONAL = 0.1
"""Share of captions left empty, for classifier-free guidance."""
SPOILED = 0.7
"""Share of words made of another, worse picture of the person instead of this one."""
BLUR = 0.06
"""Most noise on a face embedding: people near each other look alike."""
TIMESTEPS = 1000


class EvenNoise:
    """Weights that make every noise level count alike: one over the running error of the level.

    Predicted noise errs most where there is little of it; unweighted, fine detail drowns what the words decide
    (background, light, who), which is settled while there is much noise.
    """

    def __init__(self, device: torch.device | str = "cpu", bins: int = 20, follow: float = 0.05) -> None:
        """follow: how fast the running errors follow."""
        self.errors = torch.linspace(1, 0.02, bins, device=device)
        self.follow = follow

    @torch.no_grad()
    def weight(self, timesteps: Tensor, errors: Tensor) -> Tensor:
        """Timesteps (b,) and their errors (b,) -> weights (b,), about 1 on average."""
        bins = len(self.errors)
        places = timesteps * bins // TIMESTEPS
        total, count = torch.zeros_like(self.errors), torch.zeros_like(self.errors)
        total.index_add_(0, places, errors.detach())
        count.index_add_(0, places, torch.ones_like(errors))
        moved = self.errors + self.follow * (total / count.clamp_min(1) - self.errors)
        self.errors = torch.where(count > 0, moved, self.errors)
        weights = 1 / self.errors
        return (weights / weights.mean())[places]

    def state_dict(self) -> dict[str, Any]:
        return {"errors": self.errors}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.errors = state["errors"].to(self.errors)


@dataclass(frozen=True, eq=False)
class Batch:
    """Inputs of a step; b rows."""

    noise: Tensor
    noisy: Tensor
    timesteps: Tensor
    ids: Tensor
    people: Tensor
    looks: Tensor


class UnetTraining:
    """One step of the training."""

    def __init__(
        self, denoiser: Denoiser, optimizer: Muon, data: Latents, tokenizer: CLIPTokenizer, settings: Settings,
        predict: Callable[..., Tensor],
    ) -> None:  # fmt: skip
        """data: on the device; predict: `denoiser.predict`, perhaps compiled."""
        self.denoiser, self.optimizer, self.data, self.predict = denoiser, optimizer, data, predict
        self.device, self.settings = torch.device(settings.device), settings
        self.levels = EvenNoise(self.device)
        self.batches = stage.Batches(len(data.pictures), settings.sizes.unet_batch, settings.seed)
        self.alphas = build_scheduler().alphas_cumprod.to(self.device)
        empty = tokenizer("", padding="max_length", return_tensors="pt").input_ids[0]
        self.empty = empty.to(self.device)

    def batch(self, step: int) -> Batch:
        data, device = self.data, self.device
        draws = stage.draws(device, self.settings.seed + 2, step)
        chosen = torch.from_numpy(self.batches(step)).to(device)
        count, dtype = len(chosen), stage.half(device)

        def uniform(*shape: int) -> Tensor:
            return torch.rand(*shape, generator=draws, device=device)

        flip = (uniform(count) < 0.5).long()
        clean = data.latents[flip, chosen].float()
        which = (uniform(count) * data.captions.shape[1]).long()
        ids = torch.where((uniform(count) < UNCONDITIONAL)[:, None], self.empty, data.captions[chosen, which])
        spoiled = SPOILED if self.settings.pairs else 0.0
        people = torch.where(uniform(count, 1) < spoiled, data.spoiled[chosen], data.people[chosen])
        blur = torch.randn(people.shape, generator=draws, device=device)
        people = people + BLUR * uniform(count, 1) * blur
        noise = torch.randn(clean.shape, generator=draws, device=device)
        # one timestep from each of `count` equal parts of the schedule: less noise in the gradient
        parts = (torch.arange(count, device=device) + uniform(count)) / count
        timesteps = (parts * TIMESTEPS).long().clamp(max=TIMESTEPS - 1)
        alpha = self.alphas[timesteps][:, None, None, None]
        noisy = alpha.sqrt() * clean + (1 - alpha).sqrt() * noise
        looks = data.looks[flip, chosen]
        return Batch(noise, noisy.to(dtype), timesteps, ids, people.to(dtype), looks.to(dtype))

    def step(self, number: int, progress: float) -> dict[str, Tensor]:
        batch = self.batch(number)
        states = self.denoiser.encode(batch.ids, batch.people, batch.looks)
        predicted = self.predict(batch.noisy, batch.timesteps, states)
        errors = (predicted.float() - batch.noise).square().mean(dim=(1, 2, 3))
        loss = (errors * self.levels.weight(batch.timesteps, errors)).mean()
        loss.backward()
        self.optimizer.step(stage.learning_rate(1.0, number, progress, 100, 0.3))
        return {"error": errors.detach().mean()}


def train(training: UnetTraining, clock: RunClock, saved: Callable[[], None]) -> None:
    """Until the making's time is over; afterwards the networks have the averaged weights."""
    settings = training.settings
    stage.train(
        settings.work / CHECKPOINT, {"optimizer": training.optimizer, "levels": training.levels}, training.step,
        seconds=clock.left("unet"), steps=settings.sizes.unet_steps, save_every=settings.save_every, saved=saved,
        say=clock.say,
    )  # fmt: skip
    training.optimizer.put_averages()
