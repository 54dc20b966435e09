"""Train the small ×4 upscaler (SRVGGNetCompact) for the CPU, on faces at 512 px.

python -m tools.mini.train_upscaler faces --generator GENERATOR --work .training/mini       # the photos, once
python -m tools.mini.train_upscaler train --work .training/mini --vae assets/mini --minutes 20
python -m tools.mini.train_upscaler export --work .training/mini --out assets/mini

Its inputs are photos made small, some blurred, noisy or JPEG-compressed; every fourth went through the mini model's
VAE, whose softness it thereby learns to undo.
"""

from __future__ import annotations

import argparse
import time
from importlib import import_module
from pathlib import Path

import cv2
import numpy as np
import torch
from diffusers import AutoencoderKL
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional as F

from tools.mini import stage
from tools.mini.train_vae import edges, to_pixels

SCALE, SIDE = 4, 512
SEEDS = 30_000_000
HELD_OUT = 40
"""The last photos, kept out of the training."""


def build_upscaler() -> nn.Module:
    """0.27 M parameters; Real-ESRGAN's key names, so that any loader of its files knows it."""
    network = import_module("spandrel.architectures.Compact.__arch.SRVGG")
    return network.SRVGGNetCompact(
        num_in_ch=3, num_out_ch=3, num_feat=48, num_conv=12, upscale=SCALE, act_type="prelu"
    )


def make_faces(args: argparse.Namespace) -> None:
    """Write faces512.npy, (n, 512, 512, 3) uint8; goes on where it stopped."""
    from tools.people.generator import FaceGenerator

    generator = FaceGenerator(Path(args.generator), threads=args.threads)
    path, count_path = Path(args.work) / "faces512.npy", Path(args.work) / "faces512.count"
    shape, done = (args.count, SIDE, SIDE, 3), 0
    if path.exists() and count_path.exists():
        done = int(count_path.read_text())
    mode = "r+" if done else "w+"
    faces = np.lib.format.open_memmap(path, mode=mode, dtype=np.uint8, shape=None if done else shape)
    for index in range(done, len(faces)):
        psi = np.random.default_rng(SEEDS + index).uniform(0.55, 0.85)
        styles = generator.everywhere(generator.style(SEEDS + index, psi))
        faces[index] = cv2.resize(generator.picture(styles), (SIDE, SIDE), interpolation=cv2.INTER_AREA)
        if index % 50 == 49:
            faces.flush()
            count_path.write_text(str(index + 1))
            print(f"{index + 1} faces", flush=True)
    count_path.write_text(str(len(faces)))


def degrade(patch: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """(h, w, 3) uint8 -> (h/4, w/4, 3) uint8: made small in one of three ways; half of them blurred, noisy or JPEG."""
    picture, spoilt = patch.astype(np.float32), rng.random() < 0.5
    if spoilt and rng.random() < 0.6:
        picture = cv2.GaussianBlur(picture, (0, 0), rng.uniform(0.5, 2.4))
    way = (cv2.INTER_AREA, cv2.INTER_CUBIC, cv2.INTER_LINEAR)[int(rng.integers(3))]
    small = cv2.resize(picture, None, fx=1 / SCALE, fy=1 / SCALE, interpolation=way)
    if spoilt and rng.random() < 0.5:
        small += rng.normal(0, rng.uniform(1, 5), small.shape)
    small = np.clip(np.round(small), 0, 255).astype(np.uint8)
    if spoilt and rng.random() < 0.5:
        _, packed = cv2.imencode(".jpg", small, [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(55, 95))])
        small = cv2.imdecode(packed, cv2.IMREAD_COLOR)
    return small


def shrunk(pictures: np.ndarray) -> np.ndarray:
    """(n, 512, 512, 3) -> (n, 128, 128, 3) uint8, by area."""
    size = (SIDE // SCALE, SIDE // SCALE)
    return np.stack([cv2.resize(p, size, interpolation=cv2.INTER_AREA) for p in pictures])


@torch.no_grad()
def through_vae(vae: AutoencoderKL, small: np.ndarray) -> np.ndarray:
    """(n, 128, 128, 3) uint8 encoded and decoded, uint8."""
    decoded = []
    for start in range(0, len(small), 16):
        pixels = to_pixels(small[start : start + 16], vae.device)
        picture = vae.decode(vae.encode(pixels).latent_dist.mean).sample
        decoded.append((picture.clamp(-1, 1) + 1).mul(127.5).round().byte().permute(0, 2, 3, 1).cpu().numpy())
    return np.concatenate(decoded)


def softened(faces: np.ndarray, args: argparse.Namespace, device: torch.device) -> np.ndarray:
    """The faces at 128 px after the VAE of --vae; kept in softened.npy."""
    path = Path(args.work) / "softened.npy"
    if not path.exists():
        vae = AutoencoderKL.from_pretrained(args.vae, subfolder="vae").to(device).eval()
        np.save(path, through_vae(vae, shrunk(faces)))
    return np.load(path)


def batch_of(
    faces: np.ndarray, soft: np.ndarray, chosen: np.ndarray, patch: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Small patches (b, p, p, 3) and what they should become (b, 4p, 4p, 3), uint8."""
    inputs, targets = [], []
    for place, index in enumerate(chosen):
        y, x = rng.integers(0, SIDE // SCALE - patch + 1, 2)
        target = faces[index, SCALE * y : SCALE * (y + patch), SCALE * x : SCALE * (x + patch)]
        small = soft[index, y : y + patch, x : x + patch] if place % 4 == 3 else degrade(target, rng)
        if rng.random() < 0.5:
            small, target = small[:, ::-1], target[:, ::-1]
        inputs.append(small)
        targets.append(target)
    return np.stack(inputs), np.stack(targets)


def loss_of(made: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """L1 of the picture and of its edges: sharp without invented texture."""
    edge = sum(F.l1_loss(a, b) for a, b in zip(edges(made), edges(wanted), strict=True))
    return F.l1_loss(made, wanted) + 0.5 * edge


@torch.no_grad()
def compare(model: nn.Module, faces: np.ndarray, small: np.ndarray) -> dict[str, float]:
    """PSNR in dB, and the share of the photos' edge strength that is kept, against bicubic."""
    scores: dict[str, list[float]] = {"psnr": [], "psnr_bicubic": [], "edges": [], "edges_bicubic": []}
    for face, tiny in zip(faces, small, strict=True):
        made = model(to_pixels(tiny[None], torch.device("cpu")).add(1).div(2))[0].clamp(0, 1)
        pictures = {
            "": made.permute(1, 2, 0).numpy() * 255,
            "_bicubic": np.clip(
                cv2.resize(tiny.astype(np.float32), (SIDE, SIDE), interpolation=cv2.INTER_CUBIC), 0, 255
            ),
        }
        truth = face.astype(np.float32)
        strength = np.abs(np.diff(truth, axis=0)).mean()
        for name, picture in pictures.items():
            scores[f"psnr{name}"].append(10 * np.log10(255**2 / np.square(picture - truth).mean()))
            scores[f"edges{name}"].append(float(np.abs(np.diff(picture, axis=0)).mean() / strength))
    return {name: round(float(np.mean(values)), 3) for name, values in scores.items()}


def train(args: argparse.Namespace) -> None:
    device, work = stage.pick_device(args.device), Path(args.work)
    everything = np.load(work / "faces512.npy", mmap_mode="r")
    soft = softened(everything, args, device)
    faces = everything[:-HELD_OUT]
    torch.manual_seed(args.seed)
    model = build_upscaler().to(device)
    optimizer = torch.optim.AdamW(model.parameters(), args.lr, betas=(0.9, 0.99), weight_decay=0)
    clock, path = stage.Clock(args.minutes, args.steps), work / "upscaler.pt"
    if state := stage.load_checkpoint(path, clock):
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
    rng = np.random.default_rng((args.seed, clock.step))
    batches, saved = stage.shuffled(len(faces), args.batch, rng), time.monotonic()
    while clock.progress < 1:
        rate = stage.learning_rate(args.lr, clock.step, clock.progress, 20, 0.5)
        for group in optimizer.param_groups:
            group["lr"] = rate
        small, wanted = batch_of(faces, soft, next(batches), args.patch, rng)
        pair = [to_pixels(each, device).add(1).div(2) for each in (small, wanted)]
        # in full precision: what is learned is a few levels of 255, which bfloat16 rounds away
        loss = loss_of(model(pair[0]), pair[1])
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 0.5)
        optimizer.step()
        clock.tick()
        if clock.step % 50 == 0:
            print(f"upscaler step {clock.step} loss {loss.item():.4f} {clock.seconds:.0f} s", flush=True)
        if time.monotonic() - saved > args.save_minutes * 60 or clock.progress >= 1:
            stage.save_checkpoint(path, clock, model=model.state_dict(), optimizer=optimizer.state_dict())
            saved = time.monotonic()
    held = everything[-HELD_OUT:]
    model.cpu()
    print("held-out photos made small:", compare(model, held, shrunk(held)))
    print("and through the VAE:", compare(model, held, soft[-HELD_OUT:]))


def export(args: argparse.Namespace) -> None:
    state = torch.load(Path(args.work) / "upscaler.pt", weights_only=True)["model"]
    save_file(
        {name: value.half().contiguous() for name, value in state.items()},
        Path(args.out) / "upscaler.safetensors",
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("stage", choices=("faces", "train", "export"))
    parser.add_argument("--work", required=True)
    parser.add_argument("--generator", help="random_face/data of the unpacked PyPI wheel random-face")
    parser.add_argument("--count", type=int, default=540, help="photos to make, held-out ones included")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument(
        "--vae", default="assets/mini", help="exported model whose VAE softens a quarter of the inputs"
    )
    parser.add_argument("--minutes", type=float)
    parser.add_argument("--steps", type=int)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--patch", type=int, default=48, help="side of an input patch")
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--save-minutes", type=float, default=3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device")
    parser.add_argument("--out", default="assets/mini")
    args = parser.parse_args()
    {"faces": make_faces, "train": train, "export": export}[args.stage](args)


if __name__ == "__main__":
    main()
