"""Face embeddings of every photo, which train_unet.py puts in the place of a name.

python -m tools.mini.identities --faces FACES --work .training/mini
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch

from tools.mini.measure import read_rgb

BATCH = 16


@torch.no_grad()
def embed(args: argparse.Namespace) -> None:
    """Write identities.npy: (rows, 128) float32 of unit length, a row for each of rows.jsonl."""
    from magicapture_core.faces import align, choose_analyser

    work, started = Path(args.work), time.monotonic()
    rows = [json.loads(line) for line in (work / "rows.jsonl").read_text().splitlines()]
    embedder = choose_analyser("bundled")[0].embedder(args.device)
    vectors = []
    for start in range(0, len(rows), BATCH):
        some = rows[start : start + BATCH]
        pixels = np.stack([read_rgb(Path(args.faces) / row["file"]) for row in some])
        pictures = torch.from_numpy(pixels).permute(0, 3, 1, 2).float().div(255).to(args.device)
        landmarks = torch.tensor([row["landmarks"] for row in some])
        vectors.append(embedder(align(pictures, landmarks.to(pictures), embedder.size)).cpu().numpy())
        if start % 800 == 0:
            print(f"embedded {start} of {len(rows)}, {time.monotonic() - started:.0f} s", flush=True)
    np.save(work / "identities.npy", np.concatenate(vectors))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--faces", required=True, help="folder of 256 px photos")
    parser.add_argument("--work", required=True, help="folder of rows.jsonl")
    parser.add_argument("--device", default="cpu")
    embed(parser.parse_args())


if __name__ == "__main__":
    main()
