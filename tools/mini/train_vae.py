"""The autoencoder's training, on faces and, as soon as they are there, on the pictures made of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import Tensor
from torch.nn import functional as F

from magicapture_core.faces import FaceEmbedder
from tools.mini import stage
from tools.mini.clock import RunClock
from tools.mini.faces import FACES, HELD_OUT, READY
from tools.mini.muon import Muon
from tools.mini.networks import decoded, posterior_mean
from tools.mini.perceptual import Perceptual, likeness_loss
from tools.mini.pictures import DONE, OWNERS, PICTURES, PICTURES_READY
from tools.mini.settings import Settings

CHECKPOINT = "vae.pt"
NOISE = 0.1
"""On the latents, in their own spread: neighbouring latents decode alike, as the UNet needs it."""
LIKENESS, LIKENESS_EVERY = 0.1, 4
SMALL = 1e-4
"""Weight of the latents' mean square, which keeps them from growing."""


def to_pixels(pictures: np.ndarray, device: torch.device, dtype: torch.dtype = torch.float32) -> Tensor:
    """(b, h, w, 3) uint8 -> (b, 3, h, w) in [-1, 1]."""
    pixels = torch.from_numpy(np.array(pictures)).to(device)
    return pixels.permute(0, 3, 1, 2).to(dtype).div(127.5).sub(1).contiguous()


def augment(pixels: Tensor, draws: torch.Generator) -> Tensor:
    """Mirror half of the pictures; change colour and brightness of half of them, so that any picture fits."""
    count = len(pixels)
    draw = torch.rand(6, count, 3, 1, 1, generator=draws, device=pixels.device).to(pixels.dtype)
    pixels = torch.where(draw[0, :, :1] < 0.5, pixels.flip(-1), pixels)
    gain = 0.85 + 0.3 * draw[1, :, :1] + 0.12 * (draw[2] - 0.5)
    shifted = (pixels * gain + 0.3 * (draw[3, :, :1] - 0.5) + 0.1 * (draw[4] - 0.5)).clamp(-1, 1)
    return torch.where(draw[5, :, :1] < 0.5, shifted, pixels)


def edges(pixels: Tensor) -> tuple[Tensor, Tensor]:
    return pixels[..., 1:] - pixels[..., :-1], pixels[..., 1:, :] - pixels[..., :-1, :]


def reconstruction_loss(made: Tensor, wanted: Tensor) -> Tensor:
    """L1 of the picture, of its edges (sharper eyes and hair) and of its 8×8 means (colour sooner)."""
    made, wanted = made.float(), wanted.float()
    edge = torch.stack([F.l1_loss(a, b) for a, b in zip(edges(made), edges(wanted), strict=True)]).sum()
    coarse = F.l1_loss(F.avg_pool2d(made, 8), F.avg_pool2d(wanted, 8))
    return F.l1_loss(made, wanted) + 0.25 * edge + 0.5 * coarse


@torch.no_grad()
def psnr(vae: AutoencoderKL, pictures: np.ndarray, device: torch.device) -> float:
    """Mean PSNR in dB of the pictures (n, h, w, 3) uint8 after encoding and decoding, in uint8."""
    dtype, values = next(vae.parameters()).dtype, []
    for start in range(0, len(pictures), 20):
        pixels = to_pixels(pictures[start : start + 20], device)
        made = decoded(vae, posterior_mean(vae, pixels.to(dtype))).float()
        error = (made.clamp(-1, 1) + 1).mul(127.5).round() - (pixels + 1).mul(127.5).round()
        values.append(10 * torch.log10(255**2 / error.square().mean(dim=(1, 2, 3)).clamp_min(1e-6)))
    return torch.cat(values).mean().item()


@dataclass
class Stock:
    """Faces and the pictures made of them, on the disk, of which each step reads what it needs."""

    work: Path
    faces: np.ndarray
    pictures: np.ndarray | None = None
    made: np.ndarray | None = None
    """Numbers of the pictures that were made."""
    landmarks: np.ndarray | None = None
    """(n, 5, 2) of the faces."""

    @classmethod
    def open(cls, work: Path) -> Stock:
        """What is there now; `look` finds what comes later."""
        stock = cls(work, np.load(work / FACES, mmap_mode="r")[: int((work / READY).read_text())])
        stock.look()
        return stock

    def look(self) -> None:
        if self.landmarks is None and (self.work / "labels.npz").exists():
            with np.load(self.work / "labels.npz") as labels:
                self.landmarks = labels["landmarks"]
        if self.pictures is None and (self.work / PICTURES_READY).exists():
            self.pictures = np.load(self.work / PICTURES, mmap_mode="r")
            self.made = made_pictures(self.work)[0]


def made_pictures(work: Path) -> tuple[np.ndarray, np.ndarray]:
    """Numbers of the pictures that were made, and of the face that each shows, both (n,)."""
    owners, done = np.load(work / OWNERS), np.load(work / DONE)
    per = len(np.load(work / PICTURES, mmap_mode="r")) // max(1, len(owners))
    places = np.flatnonzero(done)
    return (places[:, None] * per + np.arange(per)).reshape(-1), np.repeat(owners[places], per)


class VaeTraining:
    """One step of the autoencoder's training."""

    def __init__(
        self, vae: AutoencoderKL, optimizer: Muon, stock: Stock, perceptual: Perceptual, embedder: FaceEmbedder,
        settings: Settings, encode: Callable[[Tensor], Tensor], decode: Callable[[Tensor], Tensor],
    ) -> None:  # fmt: skip
        """encode: pixels -> unscaled latents; decode: the other way. Both of `vae`, perhaps compiled."""
        self.vae, self.optimizer, self.stock, self.settings = vae, optimizer, stock, settings
        self.perceptual, self.embedder, self.encode, self.decode = perceptual, embedder, encode, decode
        self.device = torch.device(settings.device)

    def batch(self, step: int, draws: torch.Generator) -> tuple[Tensor, Tensor | None]:
        """Pixels, every second time of pictures; every fourth time with the points of faces as they were made."""
        self.stock.look()
        rng = np.random.default_rng((self.settings.seed, step))
        stock, dtype, size = self.stock, stage.half(self.device), self.settings.sizes.vae_batch
        if step % 2 and stock.pictures is not None and stock.made is not None:
            chosen = np.sort(stock.made[rng.integers(len(stock.made), size=size)])
            return augment(to_pixels(stock.pictures[chosen], self.device, dtype), draws), None
        chosen = np.sort(rng.integers(len(stock.faces), size=size))
        pixels = to_pixels(stock.faces[chosen], self.device, dtype)
        if stock.landmarks is not None and step % LIKENESS_EVERY == 0:
            return pixels, torch.from_numpy(stock.landmarks[chosen]).to(self.device)
        return augment(pixels, draws), None

    def step(self, number: int, progress: float) -> dict[str, Tensor]:
        draws = stage.draws(self.device, self.settings.seed, number)
        pixels, landmarks = self.batch(number, draws)
        latents = self.encode(pixels)
        spread = latents.detach().float().std(dim=(0, 2, 3), keepdim=True).to(latents.dtype)
        noise = torch.randn(latents.shape, generator=draws, device=self.device, dtype=latents.dtype)
        made = self.decode(latents + NOISE * spread * noise)
        plain, seen = reconstruction_loss(made, pixels), self.perceptual(made, pixels)
        # first the picture's colours, then what it looks like
        loss = plain + (0.05 + 0.2 * min(1.0, 2 * progress)) * seen + SMALL * latents.float().square().mean()
        if landmarks is not None:
            loss = loss + LIKENESS * likeness_loss(self.embedder, made, pixels, landmarks)
        loss.backward()
        self.optimizer.step(stage.learning_rate(1.0, number, progress, 50, 0.35))
        return {"reconstruction": plain.detach(), "perceptual": seen.detach()}


def train(training: VaeTraining, clock: RunClock, saved: Callable[[], None]) -> None:
    """Until the stage's time is over; afterwards the network has the averaged weights."""
    settings = training.settings
    stage.train(
        settings.work / CHECKPOINT, {"optimizer": training.optimizer}, training.step, seconds=clock.left("vae"),
        steps=settings.sizes.vae_steps, save_every=settings.save_every, saved=saved, say=clock.say,
    )  # fmt: skip
    training.optimizer.put_averages()
    held = np.load(settings.work / HELD_OUT)
    clock.say(f"autoencoder: {psnr(training.vae, held, training.device):.2f} dB on held-out faces")
