"""Train UNet and text encoder together, from nothing, on the latents of the pictures and their captions.

python -m tools.mini.train_unet --work .training/mini --steps 2500

The first run encodes the pictures with the trained VAE (latents.npy) and sets the VAE's output to mean 0 and SD 1.5's
spread. The newest averaged weights are always in unet.pt, ready for export.py.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
from safetensors.torch import load_file
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from tools.mini import stage
from tools.mini.captions import caption
from tools.mini.muon import Muon
from tools.mini.train_vae import SCALING_FACTOR, build_vae, to_pixels

TEXT_WIDTH = 256


def build_scheduler() -> DDPMScheduler:
    """SD 1.5's noise schedule."""
    return DDPMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", num_train_timesteps=1000,
        clip_sample=False, steps_offset=1, prediction_type="epsilon",
    )  # fmt: skip


def build_unet(latent_side: int, channels: tuple[int, ...], layers: int) -> UNet2DConditionModel:
    """Cross-attention at the full latent grid and at half of it (and in the middle)."""
    rest = len(channels) - 2
    return UNet2DConditionModel(
        sample_size=latent_side,
        block_out_channels=channels,
        layers_per_block=layers,
        down_block_types=["CrossAttnDownBlock2D"] * 2 + ["DownBlock2D"] * rest,
        up_block_types=["UpBlock2D"] * rest + ["CrossAttnUpBlock2D"] * 2,
        cross_attention_dim=TEXT_WIDTH,
        attention_head_dim=8,
    )


def build_text_encoder(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=TEXT_WIDTH,
        intermediate_size=4 * TEXT_WIDTH,
        num_hidden_layers=4,
        num_attention_heads=4,
        projection_dim=TEXT_WIDTH,
        max_position_embeddings=tokenizer.model_max_length,
        hidden_act="quick_gelu",
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return CLIPTextModel(config)


@torch.no_grad()
def encode(vae: AutoencoderKL, pictures: np.ndarray, device: torch.device) -> np.ndarray:
    """Means of the VAE's posterior, (n, 4, h/8, w/8) float32, unscaled."""
    latents, started = [], time.monotonic()
    for start in range(0, len(pictures), 32):
        with torch.autocast(device.type, dtype=torch.bfloat16):
            mean = vae.encode(to_pixels(pictures[start : start + 32], device)).latent_dist.mean
        latents.append(mean.float().cpu().numpy())
        if start % 3200 == 0:
            print(f"encoded {start} of {len(pictures)}, {time.monotonic() - started:.0f} s", flush=True)
    return np.concatenate(latents)


@torch.no_grad()
def normalise(vae: AutoencoderKL, mean: torch.Tensor, std: torch.Tensor) -> None:
    """Change the 1×1 convolutions around the latents so that scaled latents have mean 0 and spread 1 by channel.

    What the VAE decodes from its own latents stays the same.
    """
    gain = 1 / (std * SCALING_FACTOR)
    quant, post = vae.quant_conv, vae.post_quant_conv
    assert quant is not None
    assert post is not None
    post.bias += post.weight[:, :, 0, 0] @ mean
    post.weight /= gain[None, :, None, None]
    channels = len(mean)
    quant.weight[:channels] *= gain[:, None, None, None]
    quant.bias[:channels] = (quant.bias[:channels] - mean) * gain
    quant.bias[channels:] += 2 * gain.log()  # the log of the variance follows


def read_weights(folder: Path, part: str) -> dict[str, torch.Tensor]:
    """All weights of a part of an exported model ("unet", "text_encoder", "vae"), float32."""
    files = sorted((folder / part).glob("*.safetensors"))
    if not files:
        raise SystemExit(f"{folder / part} holds no .safetensors file: give the folder of an exported model")
    return {name: value.float() for file in files for name, value in load_file(file).items()}


def chosen_pictures(count: int, limit: int | None) -> np.ndarray:
    """Numbers of `limit` of `count` pictures, drawn at random, in order; all if None."""
    return np.sort(np.random.default_rng(0).permutation(count)[:limit])


def prepare_latents(
    work: Path, device: torch.device, limit: int | None, start: Path | None
) -> tuple[np.ndarray, np.ndarray]:
    """Scaled latents (n, 4, h, w) float32 of `limit` of the pictures (all, if None), and their numbers (n,).

    Makes latents.npy and vae_final.pt where missing. With `start`, an exported model, its VAE is used as it is.
    """
    count = len(np.load(work / "pictures.npy", mmap_mode="r"))
    numbers = chosen_pictures(count, limit)
    if not (work / "latents.npy").exists():
        pictures = np.load(work / "pictures.npy", mmap_mode="r")[numbers]
        vae = build_vae(pictures.shape[1])
        trained = (
            read_weights(start, "vae") if start else torch.load(work / "vae.pt", weights_only=True)["vae"]
        )
        vae.load_state_dict(trained)
        latents = encode(vae.to(device).eval(), pictures, device)
        mean, std = latents.mean(axis=(0, 2, 3)), latents.std(axis=(0, 2, 3))
        if start:  # its latents have mean 0 and the right spread already, and its UNet knows them so
            mean, std = np.zeros(4, np.float32), np.full(4, 1 / SCALING_FACTOR, np.float32)
        print(f"latents: mean {mean}, std {std}", flush=True)
        normalise(vae.cpu(), torch.from_numpy(mean), torch.from_numpy(std))
        torch.save(vae.state_dict(), work / "vae_final.pt")
        scaled = (latents - mean[None, :, None, None]) / std[None, :, None, None]
        np.save(work / "latents.npy", scaled.astype(np.float16))
    return np.load(work / "latents.npy").astype(np.float32), numbers


class Denoiser(nn.Module):
    """UNet and text encoder as one trainable module."""

    def __init__(self, unet: UNet2DConditionModel, text_encoder: CLIPTextModel) -> None:
        super().__init__()
        self.unet, self.text_encoder = unet, text_encoder

    def forward(self, noisy: torch.Tensor, timesteps: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
        states = self.text_encoder(ids).last_hidden_state
        return self.unet(noisy, timesteps, states, return_dict=False)[0]


class EvenNoise:
    """Weights that make every noise level count alike: one over the running error of the level.

    Predicted noise errs most where there is little of it; unweighted, fine detail drowns what the words decide
    (background, light, who), which is settled while there is much noise.
    """

    def __init__(self, bins: int = 20) -> None:
        self.errors = torch.linspace(1, 0.02, bins)

    def weight(self, timesteps: torch.Tensor, errors: torch.Tensor) -> torch.Tensor:
        """Timesteps (b,) and their detached errors (b,) -> weights (b,), about 1 on average."""
        places = timesteps * len(self.errors) // 1000
        for place, error in zip(places.tolist(), errors.tolist(), strict=True):
            self.errors[place] += 0.03 * (error - self.errors[place])
        weights = 1 / self.errors
        return (weights / weights.mean())[places]


def build(work: Path, args: argparse.Namespace, latent_side: int) -> tuple[Denoiser, CLIPTokenizer]:
    tokenizer = CLIPTokenizer.from_pretrained(work / "model" / "tokenizer")
    unet = build_unet(latent_side, tuple(args.channels), args.layers)
    return Denoiser(unet, build_text_encoder(tokenizer)), tokenizer


def save(path: Path, clock: stage.Clock, model: Denoiser, average: dict, optimizer: Muon,
         args: argparse.Namespace) -> None:  # fmt: skip
    shape = {"channels": list(args.channels), "layers": args.layers}
    stage.save_checkpoint(
        path, clock, model=model.state_dict(), average=average, optimizer=optimizer.state_dict(), shape=shape
    )


def train(args: argparse.Namespace) -> None:
    device, work = stage.pick_device(args.device), Path(args.work)
    start = Path(args.start_from) if args.start_from else None
    latents, numbers = prepare_latents(work, device, args.pictures, start)
    lines = (work / "words.jsonl").read_text().splitlines()
    words = [json.loads(lines[number]) for number in numbers]
    torch.manual_seed(args.seed)
    model, tokenizer = build(work, args, latents.shape[-1])
    if start:
        model.unet.load_state_dict(read_weights(start, "unet"))
        model.text_encoder.load_state_dict(read_weights(start, "text_encoder"))
    model.to(device)
    print(f"UNet {sum(p.numel() for p in model.unet.parameters()) / 1e6:.1f} M parameters, text encoder "
          f"{sum(p.numel() for p in model.text_encoder.parameters()) / 1e6:.1f} M", flush=True)  # fmt: skip
    average = {name: value.detach().clone().float() for name, value in model.state_dict().items()}
    optimizer = Muon(model, args.lr, args.lr / 2)
    clock, path = stage.Clock(args.minutes, args.steps), work / "unet.pt"
    if state := stage.load_checkpoint(path, clock):
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        average = {name: value.to(device) for name, value in state["average"].items()}
        del state
    alphas, levels = build_scheduler().alphas_cumprod, EvenNoise()
    rng = np.random.default_rng((args.seed, clock.step))
    generator = torch.Generator().manual_seed(args.seed + clock.step)
    batches, saved, running = stage.shuffled(len(latents), args.batch, rng), time.monotonic(), 0.0
    while clock.progress < 1:
        rate = stage.learning_rate(1.0, clock.step, clock.progress, args.warmup, args.decay_from)
        chosen = next(batches)
        texts = ["" if rng.random() < args.dropout else caption(words[index], rng) for index in chosen]
        ids = tokenizer(texts, padding="max_length", truncation=True, return_tensors="pt").input_ids
        clean = torch.from_numpy(latents[chosen])
        noise = torch.randn(clean.shape, generator=generator)
        # one timestep from each of `batch` equal parts of the schedule: less noise in the gradient
        parts = (torch.arange(args.batch) + torch.rand(args.batch, generator=generator)) / args.batch
        timesteps = (parts * 1000).long()
        alpha = alphas[timesteps][:, None, None, None]
        noisy = alpha.sqrt() * clean + (1 - alpha).sqrt() * noise
        with torch.autocast(device.type, dtype=torch.bfloat16):
            predicted = model(noisy.to(device), timesteps.to(device), ids.to(device))
        error = (predicted.float() - noise.to(device)).square().mean(dim=(1, 2, 3))
        loss = (error * levels.weight(timesteps, error.detach().cpu()).to(device)).mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step(rate)
        clock.tick()
        stage.update_average(average, model, clock.step, args.ema)
        running = 0.98 * running + 0.02 * error.mean().item() if running else error.mean().item()
        if clock.step % 20 == 0:
            print(
                f"unet step {clock.step} mse {running:.4f} rate {rate:.2f} {clock.seconds:.0f} s", flush=True
            )
        if time.monotonic() - saved > args.save_minutes * 60 or clock.progress >= 1:
            save(path, clock, model, average, optimizer, args)
            saved = time.monotonic()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--work", required=True, help="folder of the pictures, the VAE and the checkpoints")
    parser.add_argument(
        "--start-from", help="an exported model to train on, such as assets/mini (checkpoints go first)"
    )
    parser.add_argument("--minutes", type=float, help="length of the training in minutes")
    parser.add_argument("--steps", type=int, help="or its length in steps")
    parser.add_argument("--channels", type=int, nargs="+", default=[128, 192, 288])
    parser.add_argument("--layers", type=int, default=1, help="residual blocks of each level")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--warmup", type=int, default=30)
    parser.add_argument("--decay-from", type=float, default=0.5)
    parser.add_argument("--ema", type=float, default=0.99)
    parser.add_argument("--dropout", type=float, default=0.1, help="share of captions left empty")
    parser.add_argument("--pictures", type=int, help="use only so many of the pictures, drawn at random")
    parser.add_argument("--save-minutes", type=float, default=4)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", help="cpu or cuda; default: cuda where there is one")
    train(parser.parse_args())


if __name__ == "__main__":
    main()
