"""Train the VAE's decoder on, while the encoder (and so the UNet's latents) stays as it is.

python -m tools.mini.refine_decoder --work .training/mini --minutes 30

Runs beside or after train_unet.py, on its latents.npy; export.py takes the result, vae_refined.pt, where there is one.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F

from tools.mini import stage
from tools.mini.muon import Muon
from tools.mini.train_unet import chosen_pictures
from tools.mini.train_vae import SCALING_FACTOR, build_vae, edges, psnr, to_pixels


def train(args: argparse.Namespace) -> None:
    device, work = stage.pick_device(args.device), Path(args.work)
    latents = np.load(work / "latents.npy")
    pictures = np.load(work / "pictures.npy", mmap_mode="r")
    pictures = pictures[chosen_pictures(len(pictures), len(latents))]
    heldout = np.load(work / "heldout.npy")[:60]
    vae = build_vae(pictures.shape[1])
    vae.load_state_dict(torch.load(work / "vae_final.pt", weights_only=True))
    vae.to(device).encoder.requires_grad_(False)
    clock, path = stage.Clock(args.minutes, args.steps), work / "decoder.pt"
    optimizer = Muon(vae.decoder, args.lr, args.lr / 2, weight_decay=1e-3)
    average = {name: value.detach().clone() for name, value in vae.state_dict().items()}
    if state := stage.load_checkpoint(path, clock):
        vae.load_state_dict(state["vae"])
        optimizer.load_state_dict(state["optimizer"])
        average = {name: value.to(device) for name, value in state["average"].items()}
    generator = torch.Generator().manual_seed(args.seed + clock.step)
    batches = stage.shuffled(len(latents), args.batch, np.random.default_rng((args.seed, clock.step)))
    saved = time.monotonic()
    while clock.progress < 1:
        rate = stage.learning_rate(1.0, clock.step, clock.progress, 20, args.decay_from)
        chosen = next(batches)
        pixels = to_pixels(pictures[chosen], device)
        clean = torch.from_numpy(latents[chosen].astype(np.float32))
        # a little noise: what the UNet makes is never exact
        noisy = clean + args.noise * torch.randn(clean.shape, generator=generator)
        with torch.autocast(device.type, dtype=torch.bfloat16):
            decoded = vae.decode(noisy.to(device) / SCALING_FACTOR).sample
        decoded = decoded.float()
        edge = sum(F.l1_loss(a, b) for a, b in zip(edges(decoded), edges(pixels), strict=True))
        coarse = F.l1_loss(F.avg_pool2d(decoded, 8), F.avg_pool2d(pixels, 8))
        loss = F.l1_loss(decoded, pixels) + 0.25 * edge + 0.5 * coarse
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(vae.decoder.parameters(), 1.0)
        optimizer.step(rate)
        clock.tick()
        stage.update_average(average, vae, clock.step, 0.98)
        if clock.step % 20 == 0:
            print(f"decoder step {clock.step} loss {loss.item():.4f} {clock.seconds:.0f} s", flush=True)
        if time.monotonic() - saved > args.save_minutes * 60 or clock.progress >= 1:
            stage.save_checkpoint(
                path, clock, vae=vae.state_dict(), average=average, optimizer=optimizer.state_dict()
            )
            torch.save(average, work / "vae_refined.pt")
            tested = build_vae(pictures.shape[1]).to(device)
            tested.load_state_dict(average)
            print(
                f"decoder step {clock.step} held-out PSNR {psnr(tested, heldout, device):.2f} dB", flush=True
            )
            saved = time.monotonic()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--work", required=True, help="folder of latents.npy and vae_final.pt")
    parser.add_argument("--minutes", type=float)
    parser.add_argument("--steps", type=int)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--lr", type=float, default=1.5e-3)
    parser.add_argument("--noise", type=float, default=0.03, help="noise on the latents, whose spread is 1")
    parser.add_argument("--decay-from", type=float, default=0.4)
    parser.add_argument("--save-minutes", type=float, default=4)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--device", help="cpu or cuda; default: cuda where there is one")
    train(parser.parse_args())


if __name__ == "__main__":
    main()
