"""Between autoencoder and UNet: all pictures encoded, and the latents brought to mean 0 and SD 1.5's spread.

The mean and spread are baked into the autoencoder's 1×1 convolutions, so that the model needs no numbers of its own
beside SD's scaling factor.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import Tensor

from magicapture_core.models.words import LOOK_SIZE, look_features
from tools.mini.clock import RunClock
from tools.mini.labels import LABELS, Labels
from tools.mini.networks import SCALING_FACTOR, SURE, posterior_mean
from tools.mini.pictures import CAPTIONS, PICTURES
from tools.mini.settings import Settings
from tools.mini.store import save_arrays, save_tensors
from tools.mini.train_vae import made_pictures, to_pixels

LATENTS, BAKED = "latents.npz", "vae-baked.pt"
CHUNK = 128


@torch.no_grad()
def encode(vae: AutoencoderKL, pictures: np.ndarray, numbers: np.ndarray) -> tuple[Tensor, Tensor]:
    """Unscaled latents (2, n, c, h/16, w/16) float16 and look features (2, n, 38) float32, on the CPU.

    Of the pictures (all, h, w, 3) uint8 with these numbers; first as they are, then mirrored.
    """
    weight = next(vae.parameters())
    latents, looks = [], []
    for start in range(0, len(numbers), CHUNK):
        pixels = to_pixels(pictures[numbers[start : start + CHUNK]], weight.device)
        both = torch.stack([pixels, pixels.flip(-1)])
        encoded = [posterior_mean(vae, each.to(weight.dtype)) for each in both]
        latents.append(torch.stack(encoded).half().cpu())
        looks.append(torch.stack([look_features(each) for each in both]).cpu())
    return torch.cat(latents, dim=1), torch.cat(looks, dim=1)


def statistics(latents: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and spread (c,) float32 of latents (2, n, c, h, w), from 5,000 of them at most."""
    some = latents[:, :: max(1, latents.shape[1] // 2500)].float()
    return some.mean(dim=(0, 1, 3, 4)), some.std(dim=(0, 1, 3, 4))


@torch.no_grad()
def bake(weights: Mapping[str, Tensor], mean: Tensor, spread: Tensor) -> dict[str, Tensor]:
    """The autoencoder's weights, changed so that latents z become (z - mean) / spread / SCALING_FACTOR.

    What it decodes from its own latents stays the same. mean, spread: (c,).
    """
    baked = {name: value.clone() for name, value in weights.items()}
    mean, spread, channels = mean.to(baked["quant_conv.bias"]), spread.to(baked["quant_conv.bias"]), len(mean)
    gain = 1 / (spread * SCALING_FACTOR)
    quant, post = baked["quant_conv.weight"], baked["post_quant_conv.weight"]
    baked["post_quant_conv.bias"] += post[:, :, 0, 0] @ mean
    post.div_(gain[None, :, None, None])
    quant[:channels] *= gain[:, None, None, None]
    baked["quant_conv.bias"][:channels] = gain * (baked["quant_conv.bias"][:channels] - mean)
    quant[channels:] = 0
    baked["quant_conv.bias"][channels:] = (
        SURE + 2 * gain.log()
    )  # the log variance, which grows with the latents
    return baked


@dataclass(frozen=True, eq=False)
class Latents:
    """What the UNet learns from. Rows belong together; a picture and its mirror image are latents[0] and latents[1]."""

    latents: Tensor
    """(2, n, c, h, w) float16, scaled: mean 0, spread 1 in each channel."""
    looks: Tensor
    """(2, n, 38) float32, normalised as words.py does."""
    look_mean: Tensor
    look_std: Tensor
    pictures: np.ndarray
    """(n,) numbers of the pictures."""
    owners: np.ndarray
    """(n,) numbers of the faces that they show."""
    people: Tensor
    """(n, 128) their face embeddings."""
    spoiled: Tensor
    """(n, 128) of another, worse picture of the same person."""
    captions: Tensor
    """(n, captions, 77) token ids, int64."""


def prepare(
    settings: Settings, clock: RunClock, vae: AutoencoderKL, weights: Mapping[str, Tensor]
) -> Latents:
    """Encode and bake, unless done before; `vae` has the baked weights afterwards.

    weights: the autoencoder's in float32. One to train on from has been baked before and stays as it is.
    """
    work = settings.work
    if not (work / LATENTS).exists():
        numbers, _ = made_pictures(work)
        latents, looks = encode(vae, np.load(work / PICTURES, mmap_mode="r"), numbers)
        mean, spread = statistics(latents)
        if settings.start_from:
            mean, spread = torch.zeros_like(mean), torch.full_like(spread, 1 / SCALING_FACTOR)
        else:
            weights = bake(weights, mean, spread)
        for chunk in latents.split(1000, dim=1):  # in place: there may be gigabytes
            chunk.copy_((chunk.float() - mean[:, None, None]) / spread[:, None, None])
        save_tensors(work / BAKED, {name: value.cpu() for name, value in weights.items()})
        save_arrays(work / LATENTS, latents=latents.numpy(), looks=looks.numpy())
        found = statistics(latents)
        clock.say(
            f"{len(numbers)} pictures encoded; latents have mean {found[0].abs().max():.3f} at most and a spread of "
            f"{found[1].min():.2f} to {found[1].max():.2f}"
        )
    vae.load_state_dict(torch.load(work / BAKED, weights_only=True))
    return read(work)


def read(work: Path) -> Latents:
    with np.load(work / LATENTS) as arrays:
        latents, raw = torch.from_numpy(arrays["latents"]), torch.from_numpy(arrays["looks"])
    numbers, owners = made_pictures(work)
    labels = Labels.read(work / LABELS)
    flat = raw.flatten(0, 1)
    mean, std = flat.mean(0), flat.std(0, correction=0).clamp_min(1e-3)
    return Latents(
        latents, (raw - mean) / std / LOOK_SIZE**0.5, mean, std, numbers, owners,
        torch.from_numpy(labels.people[owners]), torch.from_numpy(labels.spoiled[owners]),
        torch.from_numpy(np.load(work / CAPTIONS)[numbers].astype(np.int64)),
    )  # fmt: skip


def on(latents: Latents, device: torch.device) -> Latents:
    """The same with all tensors on the device: each step draws from them there."""
    moved = {
        name: value.to(device) if isinstance(value, Tensor) else value
        for name, value in vars(latents).items()
    }
    return Latents(**moved)
