"""Train UNet and text encoder together, from nothing, on the latents of the pictures and their captions.

python -m tools.mini.train_unet --work .training/mini --steps 2500

The first run encodes the pictures with the trained VAE (latents.npy), after setting the VAE's latents to mean 0 and
SD 1.5's spread. The newest averaged weights are always in unet.pt, ready for export.py.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from tools.mini import stage
from tools.mini.captions import PERSON_MARK, STYLE_MARK, caption
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
def turn(vae: AutoencoderKL, matrix: torch.Tensor, offset: torch.Tensor) -> None:
    """Change the 1×1 convolutions around the latents so that latents z (c,) become matrix @ z + offset.

    What the VAE decodes from its own latents stays the same.
    """
    quant, post = vae.quant_conv, vae.post_quant_conv
    assert quant is not None
    assert post is not None
    inverse, channels = torch.linalg.inv(matrix), len(matrix)
    post.weight.copy_((post.weight[:, :, 0, 0] @ inverse)[:, :, None, None])
    post.bias -= post.weight[:, :, 0, 0] @ offset
    quant.weight[:channels] = (matrix @ quant.weight[:channels, :, 0, 0])[:, :, None, None]
    quant.bias[:channels] = matrix @ quant.bias[:channels] + offset
    quant.bias[channels:] += matrix.square().sum(dim=1).log()  # the log of the variance follows, about


def normalising(latents: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The (matrix, offset) that gives scaled latents mean 0 and spread 1 by channel."""
    gain = 1 / (latents.std(axis=(0, 2, 3)) * SCALING_FACTOR)
    return np.diag(gain), -gain * latents.mean(axis=(0, 2, 3))


def matching(latents: np.ndarray, wanted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The (matrix, offset) that brings latents (n, c, h, w) nearest to `wanted`, by least squares."""
    ours, theirs = (each.transpose(0, 2, 3, 1).reshape(-1, each.shape[1]) for each in (latents, wanted))
    ours = np.concatenate([ours, np.ones_like(ours[:, :1])], axis=1)
    solution = np.linalg.lstsq(ours.astype(np.float64), theirs.astype(np.float64), rcond=None)[0]
    left = ours @ solution - theirs
    print(f"of the starting model's latents {left.var() / theirs.var():.1%} are not matched", flush=True)
    return solution[:-1].T, solution[-1]


def chosen_pictures(count: int, limit: int | None) -> np.ndarray:
    """Numbers of `limit` of `count` pictures, drawn at random, in order; all if None."""
    return np.sort(np.random.default_rng(0).permutation(count)[:limit])


def prepare_latents(
    work: Path, device: torch.device, limit: int | None, start: Path | None
) -> tuple[np.ndarray, np.ndarray]:
    """Scaled latents (n, 4, h, w) float32 of `limit` of the pictures (all, if None), and their numbers (n,).

    Makes latents.npy and vae_final.pt where missing, from the trained VAE (vae.pt). With `start`, an exported model,
    that VAE's latents are turned to be near to those that its UNet knows; without vae.pt its own VAE is used as it is.
    """
    count = len(np.load(work / "pictures.npy", mmap_mode="r"))
    numbers = chosen_pictures(count, limit)
    if not (work / "latents.npy").exists():
        pictures = np.load(work / "pictures.npy", mmap_mode="r")[numbers]
        vae, trained = build_vae(pictures.shape[1]), work / "vae.pt"
        if trained.exists():
            vae.load_state_dict(torch.load(trained, weights_only=True)["vae"])
            few = pictures[:: max(1, len(pictures) // 500)]
            found = encode(vae.to(device).eval(), few, device)
            if start:
                known = build_vae(pictures.shape[1])
                known.load_state_dict(stage.read_weights(start, "vae"))
                change = matching(found, encode(known.to(device).eval(), few, device))
            else:
                change = normalising(found)
            turn(vae.cpu(), *(torch.from_numpy(np.float32(each)) for each in change))
        elif start:
            vae.load_state_dict(stage.read_weights(start, "vae"))
        latents = encode(vae.to(device).eval(), pictures, device) * SCALING_FACTOR
        print(f"latents: mean {latents.mean((0, 2, 3))}, spread {latents.std((0, 2, 3))}", flush=True)
        torch.save(vae.state_dict(), work / "vae_final.pt")
        np.save(work / "latents.npy", latents.astype(np.float16))
    return np.load(work / "latents.npy").astype(np.float32), numbers


def looks_of(pictures: np.ndarray) -> np.ndarray:
    """Pictures (n, h, w, 3) uint8 -> what their style looks like, (n, 38) float32, about unit length.

    Colours of the 12 outer cells of a 4×4 grid (the face is in the middle), saturation and contrast.
    """
    outer = np.ones((4, 4), bool)
    outer[1:3, 1:3] = False
    values = []
    for picture in pictures:
        cells = cv2.resize(picture, (4, 4), interpolation=cv2.INTER_AREA).astype(np.float32)[outer]
        small = cv2.resize(picture, (32, 32), interpolation=cv2.INTER_AREA).astype(np.float32)
        spread = (small.max(-1) - small.min(-1)).mean(), small.std()
        values.append(np.concatenate([cells.reshape(-1), spread]))
    found = np.stack(values)
    return np.float32((found - found.mean(0)) / found.std(0) / found.shape[1] ** 0.5)


class Denoiser(nn.Module):
    """UNet and text encoder as one trainable module, with what stands in for the names of people and styles."""

    def __init__(
        self, unet: UNet2DConditionModel, text_encoder: CLIPTextModel, marks: tuple[int, int]
    ) -> None:
        """marks: token ids of captions.PERSON_MARK and STYLE_MARK."""
        super().__init__()
        self.unet, self.text_encoder, self.marks = unet, text_encoder, marks
        self.person_embedding, self.style_embedding = nn.Linear(128, TEXT_WIDTH), nn.Linear(38, TEXT_WIDTH)
        for layer in (self.person_embedding, self.style_embedding):
            nn.init.normal_(layer.weight, std=0.02)  # as long as the embeddings of words
            nn.init.zeros_(layer.bias)

    def forward(
        self, noisy: torch.Tensor, timesteps: torch.Tensor, ids: torch.Tensor, people: torch.Tensor,
        looks: torch.Tensor,
    ) -> torch.Tensor:  # fmt: skip
        """people (b, 128) face embeddings, looks (b, 38): used by the items whose captions hold the marks."""

        def put(_module: nn.Module, _inputs: object, embedded: torch.Tensor) -> torch.Tensor:
            for mark, vectors in zip(
                self.marks, (self.person_embedding(people), self.style_embedding(looks)), strict=True
            ):
                embedded = torch.where((ids == mark)[..., None], vectors[:, None].to(embedded), embedded)
            return embedded

        handle = self.text_encoder.get_input_embeddings().register_forward_hook(put)
        try:
            states = self.text_encoder(ids).last_hidden_state
        finally:
            handle.remove()
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
    return Denoiser(unet, build_text_encoder(tokenizer), marks_of(tokenizer)), tokenizer


def marks_of(tokenizer: CLIPTokenizer) -> tuple[int, int]:
    person, style = tokenizer([PERSON_MARK, STYLE_MARK], add_special_tokens=False).input_ids
    assert len(person) == len(style) == 1
    return person[0], style[0]


def people_of(work: Path, numbers: np.ndarray, count: int) -> np.ndarray:
    """Face embeddings (n, 128) of the pictures with these numbers, of `count` in all."""
    rows = [json.loads(line) for line in (work / "rows.jsonl").read_text().splitlines()]
    training = np.load(work / "identities.npy")[[not row["held_out"] for row in rows]]
    return np.float32(training[numbers // (count // len(training))])


def save(path: Path, clock: stage.Clock, model: Denoiser, average: dict, optimizer: Muon,
         args: argparse.Namespace) -> None:  # fmt: skip
    shape = {"channels": list(args.channels), "layers": args.layers}
    stage.save_checkpoint(
        path, clock, model=model.state_dict(), average=average, optimizer=optimizer.state_dict(), shape=shape
    )


@dataclass
class Pictures:
    """What the training draws from; a row each."""

    latents: np.ndarray
    words: list[dict[str, str]]
    people: np.ndarray
    looks: np.ndarray
    tokenizer: CLIPTokenizer
    alphas: torch.Tensor
    generator: torch.Generator
    rng: np.random.Generator
    dropout: float
    blur: float

    def batch(self, chosen: np.ndarray) -> tuple[torch.Tensor, tuple[torch.Tensor, ...]]:
        """The noise that was added to these pictures, and Denoiser's arguments, on the CPU."""
        count, rng = len(chosen), self.rng
        texts = ["" if rng.random() < self.dropout else caption(self.words[index], rng) for index in chosen]
        ids = self.tokenizer(texts, padding="max_length", truncation=True, return_tensors="pt").input_ids
        clean, people = torch.from_numpy(self.latents[chosen]), torch.from_numpy(self.people[chosen])
        # people near each other look alike
        people = people + self.blur * torch.randn(people.shape, generator=self.generator)
        noise = torch.randn(clean.shape, generator=self.generator)
        # one timestep from each of `count` equal parts of the schedule: less noise in the gradient
        parts = (torch.arange(count) + torch.rand(count, generator=self.generator)) / count
        timesteps = (parts * 1000).long()
        alpha = self.alphas[timesteps][:, None, None, None]
        noisy = alpha.sqrt() * clean + (1 - alpha).sqrt() * noise
        return noise, (noisy, timesteps, ids, people, torch.from_numpy(self.looks[chosen]))


def read_pictures(
    work: Path, tokenizer: CLIPTokenizer, latents: np.ndarray, numbers: np.ndarray, step: int,
    args: argparse.Namespace,
) -> Pictures:  # fmt: skip
    """The pictures with these numbers; `step` is where the training goes on."""
    lines = (work / "words.jsonl").read_text().splitlines()
    pictures = np.load(work / "pictures.npy", mmap_mode="r")
    return Pictures(
        latents, [json.loads(lines[number]) for number in numbers], people_of(work, numbers, len(pictures)),
        looks_of(pictures)[numbers], tokenizer, build_scheduler().alphas_cumprod,
        torch.Generator().manual_seed(args.seed + step), np.random.default_rng((args.seed, step)), args.dropout,
        args.blur,
    )  # fmt: skip


def train(args: argparse.Namespace) -> None:
    device, work = stage.pick_device(args.device), Path(args.work)
    start = Path(args.start_from) if args.start_from else None
    latents, numbers = prepare_latents(work, device, args.pictures, start)
    torch.manual_seed(args.seed)
    model, tokenizer = build(work, args, latents.shape[-1])
    if start:
        model.unet.load_state_dict(stage.read_weights(start, "unet"))
        model.text_encoder.load_state_dict(stage.read_weights(start, "text_encoder"))
    model.to(device)
    if device.type == "cpu":  # the CPU's fused attention takes a third of a step; plain products a tenth
        model.unet.set_attn_processor(AttnProcessor())
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
    pictures, levels = read_pictures(work, tokenizer, latents, numbers, clock.step, args), EvenNoise()
    batches = stage.shuffled(len(latents), args.batch, pictures.rng)
    saved, running = time.monotonic(), 0.0
    while clock.progress < 1:
        rate = stage.learning_rate(1.0, clock.step, clock.progress, args.warmup, args.decay_from)
        noise, inputs = pictures.batch(next(batches))
        with torch.autocast(device.type, dtype=torch.bfloat16):
            predicted = model(*(each.to(device) for each in inputs))
        error = (predicted.float() - noise.to(device)).square().mean(dim=(1, 2, 3))
        loss = (error * levels.weight(inputs[1], error.detach().cpu()).to(device)).mean()
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
    parser.add_argument("--blur", type=float, default=0.02, help="noise on the face embeddings in captions")
    parser.add_argument("--pictures", type=int, help="use only so many of the pictures, drawn at random")
    parser.add_argument("--save-minutes", type=float, default=4)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", help="cpu or cuda; default: cuda where there is one")
    train(parser.parse_args())


if __name__ == "__main__":
    main()
