"""Train the small AutoencoderKL on the pictures that `variants.py` made.

python -m tools.mini.train_vae --work .training/mini --minutes 25
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch.nn import functional as F

from tools.mini import stage
from tools.mini.muon import Muon

SCALING_FACTOR = 0.18215  # SD 1.5's; train_unet.py bakes the latents' true mean and spread into the VAE


def build_vae(resolution: int) -> AutoencoderKL:
    """The architecture: ÷8, 4 latent channels, 3.0 M parameters.

    It starts as a plain autoencoder (posterior spread of 0.01): with the usual spread of 1 three of the four channels
    were lost in noise and stayed so.
    """
    vae = AutoencoderKL(
        block_out_channels=(24, 48, 96, 128),
        down_block_types=["DownEncoderBlock2D"] * 4,
        up_block_types=["UpDecoderBlock2D"] * 4,
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=1,  # more groups wipe out brightness and colour: 3 dB less after the same time
        sample_size=resolution,
        scaling_factor=SCALING_FACTOR,
    )
    quant = vae.quant_conv
    assert quant is not None
    assert quant.bias is not None
    with torch.no_grad():
        quant.weight[4:] = 0
        quant.bias[4:] = -9.2
    return vae


def to_pixels(pictures: np.ndarray, device: torch.device) -> torch.Tensor:
    """(b, h, w, 3) uint8 -> (b, 3, h, w) float32 in [-1, 1]."""
    pixels = torch.from_numpy(np.ascontiguousarray(pictures)).to(device)
    return pixels.permute(0, 3, 1, 2).float().div(127.5).sub(1).contiguous()


def augment(pixels: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Mirror half of the pictures, and change colour and brightness a little, so that any picture fits."""
    count = len(pixels)
    draw = torch.rand(4, count, 3, 1, 1, generator=generator).to(pixels.device)
    pixels = torch.where(draw[0, :, :1] < 0.5, pixels.flip(-1), pixels)
    gain = 0.85 + 0.3 * draw[1, :, :1] + 0.12 * (draw[1] - 0.5)
    return (pixels * gain + 0.3 * (draw[2, :, :1] - 0.5) + 0.1 * (draw[3] - 0.5)).clamp(-1, 1)


def edges(pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return pixels[..., 1:] - pixels[..., :-1], pixels[..., 1:, :] - pixels[..., :-1, :]


def loss_of(vae: AutoencoderKL, pixels: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """L1 of the picture, of its edges (sharper eyes and hair) and of its 8×8 means (colour sooner), and 1e-6 KL."""
    with torch.autocast(pixels.device.type, dtype=torch.bfloat16):
        posterior = vae.encode(pixels).latent_dist
        mean, logvar = posterior.mean.float(), posterior.logvar.float()
        noise = torch.randn(mean.shape, generator=generator).to(mean)
        decoded = vae.decode(mean + (0.5 * logvar).exp() * noise).sample
    decoded = decoded.float()
    edge = sum(F.l1_loss(a, b) for a, b in zip(edges(decoded), edges(pixels), strict=True))
    kl = 0.5 * (mean.square() + logvar.exp() - 1 - logvar).sum(dim=(1, 2, 3)).mean()
    coarse = F.l1_loss(F.avg_pool2d(decoded, 8), F.avg_pool2d(pixels, 8))
    return F.l1_loss(decoded, pixels) + 0.25 * edge + coarse + 1e-6 * kl


@torch.no_grad()
def psnr(vae: AutoencoderKL, pictures: np.ndarray, device: torch.device) -> float:
    """Mean PSNR in dB of the pictures (n, h, w, 3) uint8 after encoding and decoding, in uint8."""
    values = []
    for start in range(0, len(pictures), 20):
        pixels = to_pixels(pictures[start : start + 20], device)
        decoded = vae.decode(vae.encode(pixels).latent_dist.mean).sample
        error = (decoded.clamp(-1, 1) + 1).mul(127.5).round() - (pixels + 1).mul(127.5).round()
        values.append(10 * torch.log10(255**2 / error.square().mean(dim=(1, 2, 3))))
    return torch.cat(values).mean().item()


def train(args: argparse.Namespace) -> None:
    device, work = stage.pick_device(args.device), Path(args.work)
    pictures = np.load(work / "pictures.npy")
    heldout = np.load(work / "heldout.npy")[:100]
    torch.manual_seed(args.seed)
    vae = build_vae(pictures.shape[1]).to(device, memory_format=torch.channels_last)
    if args.start_from:
        vae.load_state_dict(stage.read_weights(Path(args.start_from), "vae"))
    optimizer = Muon(vae, args.lr, args.lr / 2, weight_decay=1e-3)
    clock = stage.Clock(args.minutes, args.steps)
    if state := stage.load_checkpoint(work / "vae.pt", clock):
        vae.load_state_dict(state["vae"])
        if "momenta" in state["optimizer"]:
            optimizer.load_state_dict(state["optimizer"])
    generator = torch.Generator().manual_seed(args.seed + clock.step)
    batches = stage.shuffled(len(pictures), args.batch, np.random.default_rng(args.seed + clock.step))
    saved, running = time.monotonic(), 0.0
    while clock.progress < 1:
        rate = stage.learning_rate(1.0, clock.step, clock.progress, args.warmup, args.decay_from)
        pixels = augment(to_pixels(pictures[np.sort(next(batches))], device), generator)
        loss = loss_of(vae, pixels, generator)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        optimizer.step(rate)
        clock.tick()
        running = 0.95 * running + 0.05 * loss.item() if running else loss.item()
        if clock.step % 20 == 0:
            print(
                f"vae step {clock.step} loss {running:.4f} rate {rate:.2f} {clock.seconds:.0f} s", flush=True
            )
        if time.monotonic() - saved > args.save_minutes * 60 or clock.progress >= 1:
            stage.save_checkpoint(
                work / "vae.pt", clock, vae=vae.state_dict(), optimizer=optimizer.state_dict()
            )
            print(f"vae step {clock.step} held-out PSNR {psnr(vae, heldout, device):.2f} dB", flush=True)
            saved = time.monotonic()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--work", required=True, help="folder of pictures.npy; the checkpoint lives there too"
    )
    parser.add_argument(
        "--start-from", help="an exported model to train on, such as assets/mini (checkpoints go first)"
    )
    parser.add_argument("--minutes", type=float, help="length of the training in minutes")
    parser.add_argument("--steps", type=int, help="or its length in steps")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--warmup", type=int, default=50)
    parser.add_argument("--decay-from", type=float, default=0.35)
    parser.add_argument("--save-minutes", type=float, default=3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", help="cpu or cuda; default: cuda where there is one")
    train(parser.parse_args())


if __name__ == "__main__":
    main()
