"""The decoder's training with a critic, encoder frozen: it makes crisp what the losses alone leave soft.

The UNet needs nothing of it, and its latents stay as they are.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import spectral_norm

from tools.mini import stage
from tools.mini.clock import RunClock
from tools.mini.faces import HELD_OUT
from tools.mini.latents import Latents
from tools.mini.muon import Muon
from tools.mini.networks import SCALING_FACTOR, decoded
from tools.mini.perceptual import Perceptual
from tools.mini.pictures import PICTURES
from tools.mini.settings import Settings
from tools.mini.train_vae import psnr, reconstruction_loss, to_pixels

CHECKPOINT = "decoder.pt"
NOISE = 0.08
"""On the latents, whose spread is 1: what the UNet makes is never exact."""
WEIGHT, FROM, FULL = 0.5, 0.1, 0.3
"""Share of the critic's pull in that of the other losses; begins and is full at these shares of the stage."""
DECODER = ("decoder.", "post_quant_conv.")


def build_critic(channels: int) -> nn.Sequential:
    """Pixels (b, 3, h, w) -> one judgement for each patch of about 70 px: above 0 a photo, below 0 made."""

    def level(inputs: int, outputs: int, stride: int) -> list[nn.Module]:
        return [spectral_norm(nn.Conv2d(inputs, outputs, 4, stride, 1)), nn.LeakyReLU(0.2)]

    return nn.Sequential(
        *level(3, channels, 2),
        *level(channels, 2 * channels, 2),
        *level(2 * channels, 4 * channels, 2),
        *level(4 * channels, 4 * channels, 1),
        spectral_norm(nn.Conv2d(4 * channels, 1, 4, 1, 1)),
    )


def decoder_weights(vae: AutoencoderKL) -> list[tuple[str, nn.Parameter]]:
    return [(name, weight) for name, weight in vae.named_parameters() if name.startswith(DECODER)]


@dataclass
class DecoderTraining:
    """One step of the decoder's training, and one of the critic's."""

    vae: AutoencoderKL
    optimizer: Muon
    """Of the decoder's weights."""
    critic: nn.Sequential
    adam: torch.optim.Optimizer
    """Of the critic's weights."""
    data: Latents
    pictures: np.ndarray
    perceptual: Perceptual
    settings: Settings

    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        """Noisy unscaled latents and the pixels they stand for."""
        device = torch.device(self.settings.device)
        dtype, rng = stage.half(device), np.random.default_rng((self.settings.seed, 1, step))
        chosen = np.sort(rng.integers(len(self.data.pictures), size=self.settings.sizes.decoder_batch))
        flip = torch.from_numpy(rng.integers(2, size=len(chosen)))
        pixels = to_pixels(self.pictures[self.data.pictures[chosen]], device, dtype)
        pixels = torch.where(flip.to(device)[:, None, None, None] == 1, pixels.flip(-1), pixels)
        latents = self.data.latents[flip, torch.from_numpy(chosen)].to(device, torch.float32)
        draws = stage.draws(device, self.settings.seed + 1, step)
        noise = torch.randn(latents.shape, generator=draws, device=device)
        return ((latents + NOISE * noise) / SCALING_FACTOR).to(dtype), pixels

    def step(self, number: int, progress: float) -> dict[str, Tensor]:
        latents, pixels = self.batch(number)
        made = decoded(self.vae, latents)  # not compiled: the critic goes backward through it twice
        plain = reconstruction_loss(made, pixels)
        loss = plain + 0.25 * self.perceptual(made, pixels)
        pull = WEIGHT * min(1.0, max(0.0, (progress - FROM) / (FULL - FROM)))
        if pull > 0:
            loss = loss + pull * self._critic_loss(made, loss)
        loss.backward()
        self.optimizer.step(stage.learning_rate(1.0, number, progress, 20, 0.4))
        told = self._train_critic(made.detach().float(), pixels.float())
        return {"reconstruction": plain.detach(), "critic": told}

    def _critic_loss(self, made: Tensor, loss: Tensor) -> Tensor:
        """What the critic says, so scaled that it pulls the last layer about as hard as the other losses do."""
        last = self.vae.decoder.conv_out.weight
        doubt = -self._judge(made.float()).mean()
        (ours,) = torch.autograd.grad(loss, last, retain_graph=True)
        (theirs,) = torch.autograd.grad(doubt, last, retain_graph=True)
        balance = (ours.float().norm() / (theirs.float().norm() + 1e-4)).clamp(0, 20)
        return balance.detach() * doubt

    def _judge(self, pixels: Tensor) -> Tensor:
        with torch.autocast(pixels.device.type, torch.bfloat16, enabled=pixels.is_cuda):
            return self.critic(pixels).float()

    def _train_critic(self, made: Tensor, true: Tensor) -> Tensor:
        """Hinge loss; gradients that the decoder's step left in the critic are dropped."""
        self.adam.zero_grad()
        real, false = self._judge(torch.cat([true, made])).chunk(2)
        loss = F.relu(1 - real).mean() + F.relu(1 + false).mean()
        loss.backward()
        self.adam.step()
        return loss.detach()


def train(
    settings: Settings, clock: RunClock, vae: AutoencoderKL, weights: dict[str, Tensor], data: Latents,
    perceptual: Perceptual, saved: Callable[[dict[str, Tensor]], None],
) -> None:  # fmt: skip
    """Until the stage's time is over; afterwards `vae` has the averaged weights.

    weights: the autoencoder's in float32. saved: is given the new ones of the decoder at every checkpoint.
    """
    device, sizes = torch.device(settings.device), settings.sizes
    vae.encoder.requires_grad_(False)
    named = decoder_weights(vae)
    optimizer = Muon(named, 1e-3, 5e-4, weight_decay=0, average=0.998)
    optimizer.restart({name: weights[name].to(device) for name, _ in named})
    torch.manual_seed(settings.seed)
    critic = build_critic(sizes.critic_channels).to(device)
    adam = torch.optim.AdamW(critic.parameters(), 4e-4, betas=(0.5, 0.9), weight_decay=0)
    pictures = np.load(settings.work / PICTURES, mmap_mode="r")
    training = DecoderTraining(vae, optimizer, critic, adam, data, pictures, perceptual, settings)
    stage.train(
        settings.work / CHECKPOINT, {"optimizer": optimizer, "critic": critic, "adam": adam}, training.step,
        seconds=clock.left("decoder"), steps=sizes.decoder_steps, save_every=settings.save_every,
        saved=lambda: saved(optimizer.averages), say=clock.say,
    )  # fmt: skip
    optimizer.put_averages()
    held = np.load(settings.work / HELD_OUT)
    clock.say(f"decoder: {psnr(vae, held, device):.2f} dB on held-out faces")
