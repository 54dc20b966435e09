"""What a visitor without a GPU waits for, on the mini model: drafts, the quick schedule, portraits.

python benchmarks/laptop.py            # on a CPU that has bfloat16 also --float32, as on one without
Commands are run as a user runs them, each in a process of its own; with all that they load and write. Linux only.
"""

from __future__ import annotations

import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import torch
import tyro

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.measuring import ROOT, machine, show
from tools.measured import measured


@dataclass
class Arguments:
    """Which person in which style."""

    person: str = "bruno"
    preset: str = "passport"
    float32: bool = False
    json: bool = False
    """Print JSON."""


def main(arguments: Arguments) -> dict[str, object]:
    """Seconds and gigabytes of each command; one and five drafts and portraits, so that loading can be told apart."""
    photos = ("--subject", str(ROOT / "assets/people" / arguments.person), "--preset", arguments.preset)
    outcome: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        commands = {
            "draft, one": ("draft", *photos, "--out", f"{folder}/draft1", "--count", "1"),
            "draft, five": ("draft", *photos, "--out", f"{folder}/draft5", "--count", "5"),
            "train, quick": ("train", *photos, "--model", "mini", "--out", f"{folder}/run"),
            "portrait, one": ("generate", f"{folder}/run", "--out", f"{folder}/portrait1", "--count", "1"),
            "portrait, five": ("generate", f"{folder}/run", "--out", f"{folder}/portrait5", "--count", "5"),
        }
        for name, command in commands.items():
            seconds, memory = measured(*command, float32=arguments.float32)
            outcome[f"{name}, s"], outcome[f"{name}, GB"] = round(seconds, 1), round(memory / 1e9, 2)
    for what in ("draft", "portrait"):
        outcome[f"{what}, each further one, s"] = round(
            (outcome[f"{what}, five, s"] - outcome[f"{what}, one, s"]) / 4, 2
        )
    return {**machine(torch.device("cpu")), **outcome}


if __name__ == "__main__":
    chosen = tyro.cli(Arguments, description=__doc__)
    show(main(chosen), chosen.json)
