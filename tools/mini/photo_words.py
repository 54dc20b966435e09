"""Fit anew what makes words of photos, for a model whose words were learned from good pictures: no network is trained.

python -m tools.mini.photo_words --faces FACES --model assets/mini

Writes into the model's words.safetensors how the faces' embeddings are spread, and the map from the embedding of a
face as photos show it (small, tinted, of another light, turned, behind glasses) to that of the same face in the
training's pictures.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from safetensors.torch import load_file

from magicapture_core.faces import FaceEmbedder, align
from magicapture_core.faces.sface import load_sface
from magicapture_core.files import atomic_file
from magicapture_core.models.words import FILE, face_statistics, save_words
from tools.mini.cleaning import cleaning
from tools.mini.measure import read_manifest, read_rgb
from tools.mini.networks import RECOGNISER
from tools.mini.variants import finish, light, wear

COPIES = 4
"""Spoiled copies of each photo."""
BATCH = 32
LIGHTS = ("warm", "cool", "side", "soft")
FINISHES = ("black-and-white", "sepia", "vintage")


def spoiled(
    pixels: np.ndarray, row: dict[str, Any], rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """A photo (h, w, 3) uint8 as a bad one might show the face, and its five points (5, 2), a little off."""
    side = len(pixels)
    picture = pixels.astype(np.float32)
    if rng.random() < 0.25:
        picture = wear(picture, row, "round glasses" if rng.random() < 0.7 else "sunglasses", rng)
    if rng.random() < 0.35:
        everywhere = np.ones((side, side), np.float32)
        picture = light(
            np.clip(picture, 0, 255), LIGHTS[int(rng.integers(len(LIGHTS)))], everywhere, rng
        ).astype(np.float32)
    if rng.random() < 0.25:
        picture = finish(np.clip(picture, 0, 255), FINISHES[int(rng.integers(len(FINISHES)))], rng)
    picture = (picture - 128) * rng.uniform(0.6, 1.3) + 128 + rng.normal(0, 15) + rng.normal(0, 6, 3)
    picture = _compressed(np.clip(picture, 0, 255).astype(np.float32), rng)
    corners = np.float32([[0, 0], [side - 1, 0], [side - 1, side - 1], [0, side - 1]])
    moved = corners + rng.normal(0, 0.04 * side, corners.shape).astype(np.float32)
    turn = cv2.getPerspectiveTransform(corners, moved)
    picture = cv2.warpPerspective(picture, turn, (side, side), borderMode=cv2.BORDER_REPLICATE)
    points = cv2.perspectiveTransform(np.float32(row["landmarks"])[None], turn)[0]
    return np.clip(picture, 0, 255), points + rng.normal(0, 0.006 * side, points.shape)


def _compressed(picture: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """As a small, noisy JPEG shows it, at the old size."""
    side = len(picture)
    coarse = int(rng.integers(side // 6, side))
    small = cv2.resize(picture, (coarse, coarse), interpolation=cv2.INTER_AREA)
    small = small + rng.normal(0, rng.uniform(0, 8), small.shape)
    quality = [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(40, 95))]
    _, data = cv2.imencode(".jpg", np.clip(small, 0, 255).astype(np.uint8), quality)
    back = cv2.imdecode(data, cv2.IMREAD_COLOR).astype(np.float32)
    return np.asarray(cv2.resize(back, (side, side), interpolation=cv2.INTER_LINEAR))


@torch.no_grad()
def embed(embedder: FaceEmbedder, found: Iterator[tuple[np.ndarray, np.ndarray]]) -> torch.Tensor:
    """Face embeddings (n, 128) of pictures (h, w, 3) in 0..255 with their points (5, 2)."""
    vectors, batch = [], []
    for each in found:
        batch.append(each)
        if len(batch) == BATCH:
            vectors.append(_embed(embedder, batch))
            batch = []
            print(f"{len(vectors) * BATCH} faces", end="\r", flush=True)
    return torch.cat([*vectors, *([_embed(embedder, batch)] if batch else [])])


def _embed(embedder: FaceEmbedder, batch: list[tuple[np.ndarray, np.ndarray]]) -> torch.Tensor:
    pictures = torch.from_numpy(np.stack([picture for picture, _ in batch])).permute(0, 3, 1, 2).float() / 255
    points = torch.from_numpy(np.stack([points for _, points in batch])).float()
    return embedder(align(pictures, points, embedder.size))


def fit(faces: Path, model: Path) -> None:
    """Write the model's words.safetensors anew."""
    rows = [row for row in read_manifest(faces / "manifest.jsonl", faces) if not row["held_out"]]
    rng, embedder = np.random.default_rng(5), load_sface()

    def photos() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        return ((read_rgb(faces / row["file"]), np.float32(row["landmarks"])) for row in rows)

    people = embed(embedder, photos())
    copies = [
        embed(embedder, (spoiled(pixels, row, rng) for (pixels, _), row in zip(photos(), rows, strict=True)))
        for _ in range(COPIES)
    ]
    weight, bias = cleaning(torch.cat(copies), people.repeat(COPIES, 1))
    tensors = load_file(model / FILE)
    statistics = face_statistics(people)
    statistics["face_directions"] = statistics["face_directions"].half()
    tensors |= {**statistics, "clean_weight": weight.half(), "clean_bias": bias}
    with atomic_file(model / FILE) as path:
        save_words(path, tensors, RECOGNISER)
    alike = torch.stack([torch.cosine_similarity(copy, people).mean() for copy in copies]).mean()
    made = torch.cat(copies) @ weight.T + bias
    print(
        f"{len(people)} faces, {COPIES} spoiled copies each: cosine to the face {alike:.3f}, cleaned "
        f"{torch.cosine_similarity(made, people.repeat(COPIES, 1)).mean():.3f}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--faces", required=True, type=Path, help="folder of 256 px photos with manifest.jsonl"
    )
    parser.add_argument("--model", default=Path("assets/mini"), type=Path)
    args = parser.parse_args()
    fit(args.faces, args.model)


if __name__ == "__main__":
    main()
