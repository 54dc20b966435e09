"""Measure the mini model and draw its contact sheet.

python -m tools.mini.evaluate --model assets/mini --faces FACES --samples 100 --per-phrase 20 --out assets/mini

Writes numbers.json and samples.jpg to --out. Held-out faces: the 500 photos of FACES that `measure.read_manifest` keeps
out of the training; only the VAE of the shipped weights was trained on them, too (tools/mini/README.md). VAE: PSNR on
them. Samples: share with exactly one detected face; Fréchet distance of SFace embeddings to the held-out faces.
Phrases: share that a simple measurement confirms.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from diffusers import DPMSolverMultistepScheduler, StableDiffusionPipeline
from diffusers.models.attention_processor import AttnProcessor

from magicapture_core.models import best_dtype
from tools.mark import mark
from tools.mini.measure import luma, read_manifest, read_rgb
from tools.mini.stage import pick_device
from tools.mini.train_vae import psnr

Check = Callable[[np.ndarray, Any], bool]
PROMPT = "a photo of a person"
SHEET = (
    "a photo of a person",
    "a photo of a woman, smiling",
    "a portrait of an old man",
    "a photo of a person, plain white background",
    "a black-and-white photo of a person",
    "a photo of a person, wearing sunglasses",
    "a photo of a person in the golden hour style",
    "a portrait of a person, blue background",
)


def border(pixels: np.ndarray) -> np.ndarray:
    """Pixels (n, 3) float32 of the two upper corners, where the background shows."""
    side = len(pixels) // 7
    return np.concatenate([pixels[:side, :side], pixels[:side, -side:]]).reshape(-1, 3).astype(np.float32)


def saturation(pixels: np.ndarray) -> float:
    values = pixels.astype(np.float32)
    return float((values.max(-1) - values.min(-1)).mean())


def eye_band(pixels: np.ndarray, face: Any) -> np.ndarray | None:
    """Luma around the two eyes, relative to the face's mean; None without a face."""
    if face is None:
        return None
    left, right = face.landmarks[0], face.landmarks[1]
    apart = float(np.linalg.norm(right - left))
    light = luma(pixels)
    eyes = [light[int(y - 0.16 * apart) : int(y + 0.2 * apart) + 1, int(x - 0.22 * apart) : int(x + 0.22 * apart) + 1]
            for x, y in (left, right)]  # fmt: skip
    return np.concatenate([eye.reshape(-1) for eye in eyes])


def white(pixels: np.ndarray, _face: Any) -> bool:
    return bool(np.median(border(pixels), axis=0).min() > 225)


def dark(pixels: np.ndarray, _face: Any) -> bool:
    return bool(np.median(luma(border(pixels))) < 45)


def blue(pixels: np.ndarray, _face: Any) -> bool:
    red, green, blue_ = np.median(border(pixels), axis=0)
    return bool(blue_ > red + 25 and blue_ > green + 8)


def grey(pixels: np.ndarray, _face: Any) -> bool:
    return saturation(pixels) < 12


def sepia(pixels: np.ndarray, _face: Any) -> bool:
    red, green, blue_ = pixels.reshape(-1, 3).mean(axis=0)
    return bool(
        red > green + 6
        and green > blue_ + 8
        and np.corrcoef(*pixels.reshape(-1, 3)[:, [0, 2]].T)[0, 1] > 0.97
    )


def warm(pixels: np.ndarray, _face: Any) -> bool:
    red, _, blue_ = pixels.reshape(-1, 3).mean(axis=0)
    return bool(red > 1.45 * blue_)


def sunglasses(pixels: np.ndarray, face: Any) -> bool:
    band = eye_band(pixels, face)
    return band is not None and len(band) > 0 and float(np.median(band)) < 70


def smiling(_pixels: np.ndarray, face: Any) -> bool:
    return (
        face is not None
        and (face.expressions.get("mouthSmileLeft", 0) + face.expressions.get("mouthSmileRight", 0)) > 0.8
    )


PHRASES: dict[str, tuple[str, Check]] = {
    "plain white background": ("a photo of a person, plain white background", white),
    "black background": ("a photo of a person, black background", dark),
    "blue background": ("a photo of a person, blue background", blue),
    "black-and-white": ("a black-and-white photo of a person", grey),
    "sepia": ("a sepia photo of a person", sepia),
    "golden hour": ("a photo of a person in the golden hour style", warm),
    "wearing sunglasses": ("a photo of a person, wearing sunglasses", sunglasses),
    "smiling": ("a photo of a person, smiling", smiling),
}


def sample(
    pipeline: StableDiffusionPipeline, prompt: str, count: int, args: argparse.Namespace
) -> np.ndarray:
    """`count` pictures of a prompt, (count, h, w, 3) uint8; seeds 0, 1, 2, …"""
    pictures = []
    for start in range(0, count, 10):
        size = min(10, count - start)
        generators = [torch.Generator("cpu").manual_seed(start + index) for index in range(size)]
        fast = best_dtype(pipeline.device) == torch.bfloat16
        with torch.autocast(pipeline.device.type, dtype=torch.bfloat16, enabled=fast):
            result = pipeline([prompt] * size, num_inference_steps=args.steps, guidance_scale=args.guidance,
                              generator=generators, output_type="np").images.astype(np.float32)  # fmt: skip
        pictures.append(np.round(result * 255).astype(np.uint8))
    return np.concatenate(pictures)


def only_face(analyser: Any, pixels: np.ndarray) -> Any | None:
    """The face, if there is exactly one."""
    faces = analyser.detect(pixels)
    return faces[0] if len(faces) == 1 else None


def embeddings(analyser: Any, pictures: np.ndarray) -> tuple[np.ndarray, int]:
    """SFace embeddings (n, 128) of the pictures with exactly one face, and how many those are."""
    from magicapture_core.faces import embed_face

    found = [(pixels, face) for pixels in pictures if (face := only_face(analyser, pixels)) is not None]
    return np.stack([embed_face(analyser, pixels, face) for pixels, face in found]), len(found)


def held_out(faces: Path, count: int) -> np.ndarray:
    """At most `count` photos (n, 256, 256, 3) uint8 that no training saw."""
    rows = [row for row in read_manifest(faces / "manifest.jsonl", faces) if row["held_out"]]
    return np.stack([read_rgb(faces / row["file"]) for row in rows[:count]])


def frechet(a: np.ndarray, b: np.ndarray) -> float:
    """Fréchet distance of two sets (n, d) of features, covariances taken as diagonal (few samples)."""
    return float(np.square(a.mean(0) - b.mean(0)).sum() + np.square(a.std(0) - b.std(0)).sum())


def sheet(pipeline: StableDiffusionPipeline, args: argparse.Namespace, path: Path) -> None:
    rows = [np.hstack(list(sample(pipeline, prompt, 6, args))) for prompt in SHEET]
    cv2.imwrite(str(path), np.vstack(rows)[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, 85])
    mark(path)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="assets/mini")
    parser.add_argument("--faces", type=Path, help="folder of 256 px photos with manifest.jsonl")
    parser.add_argument("--out", required=True, help="folder of numbers.json and samples.jpg")
    parser.add_argument("--samples", type=int, default=500)
    parser.add_argument("--per-phrase", type=int, default=100)
    parser.add_argument("--heldout", type=int, default=500)
    parser.add_argument("--steps", type=int, default=24)
    parser.add_argument("--guidance", type=float, default=2.5)
    parser.add_argument("--sheet-only", action="store_true")
    parser.add_argument("--device")
    args = parser.parse_args()
    if not args.faces and not args.sheet_only:
        parser.error("give --faces, or --sheet-only for the samples alone")
    device, out = pick_device(args.device), Path(args.out)
    pipeline = StableDiffusionPipeline.from_pretrained(
        args.model, safety_checker=None, dtype=torch.float32
    ).to(device)
    pipeline.scheduler = DPMSolverMultistepScheduler.from_config(pipeline.scheduler.config)
    pipeline.set_progress_bar_config(disable=True)
    if device.type == "cpu":  # in bfloat16 the CPU's fused attention is slower than plain products
        pipeline.unet.set_attn_processor(AttnProcessor())
    sheet(pipeline, args, out / "samples.jpg")
    if args.sheet_only:
        return
    from magicapture_core.faces import choose_analyser

    started, heldout = time.monotonic(), held_out(args.faces, args.heldout)
    analyser, _ = choose_analyser("bundled")
    numbers: dict[str, Any] = {"samples": args.samples, "per_phrase": args.per_phrase, "held_out": len(heldout),
                               "steps": args.steps, "guidance": args.guidance}  # fmt: skip
    numbers["vae_psnr_db"] = round(psnr(pipeline.vae, heldout, device), 2)
    pictures = sample(pipeline, PROMPT, args.samples, args)
    real, real_faces = embeddings(analyser, heldout)
    made, one_face = embeddings(analyser, pictures)
    half = len(real) // 2
    numbers["one_face"] = round(one_face / args.samples, 3)
    numbers["one_face_of_held_out_photos"] = round(real_faces / len(heldout), 3)
    numbers["frechet_sface"] = round(frechet(made, real), 4)
    numbers["frechet_sface_between_halves_of_held_out"] = round(frechet(real[:half], real[half:]), 4)
    numbers["phrases"], faces = {}, [only_face(analyser, each) for each in pictures]
    for name, (prompt, check) in PHRASES.items():
        tests = [check(p, only_face(analyser, p)) for p in sample(pipeline, prompt, args.per_phrase, args)]
        plain = [check(p, face) for p, face in zip(pictures, faces, strict=True)]
        numbers["phrases"][name] = {"confirmed": round(float(np.mean(tests)), 3),
                                    "without_the_phrase": round(float(np.mean(plain)), 3)}  # fmt: skip
        print(name, numbers["phrases"][name], flush=True)
    numbers["minutes"] = round((time.monotonic() - started) / 60, 1)
    (out / "numbers.json").write_text(json.dumps(numbers, indent=2) + "\n")
    print(json.dumps(numbers, indent=2))


if __name__ == "__main__":
    main()
