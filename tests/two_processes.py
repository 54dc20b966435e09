"""Run by `accelerate launch` in test_processes.py: a toy training in one of two processes."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from trainings import short, start

from magicapture_core.models import load


def main() -> None:
    """Arguments: toy model folder, run folder."""
    models = load(Path(sys.argv[1]), device="cpu", dtype=torch.float32)
    for _ in start(models, short(batch_size=1), Path(sys.argv[2])):
        pass


if __name__ == "__main__":
    main()
