"""Kill -9 a training at random moments, resume it, and compare the end with a run that nobody disturbed.

    python benchmarks/kills.py [--kills 30] [--seed 0]

The mini model, both phases, a checkpoint after every step, so that many kills fall into its writing. A run is killed
and resumed until it ends; then the next run begins, until there were enough kills. Exit code 1 if any end differs.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import tyro
from safetensors.torch import load_file

ROOT = Path(__file__).resolve().parent.parent
STEPS = (4, 5)
"""Of the two phases."""
LONGEST_WAIT = 2.5
"""Seconds of training after which a kill comes at the latest."""


@dataclass
class Arguments:
    """Kill, resume, compare."""

    kills: int = 30
    """How many in all."""
    seed: int = 0
    """Of the moments."""


def main(arguments: Arguments) -> int:
    chance = random.Random(arguments.seed)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        assert _start(folder / "whole").wait() == 0
        expected = _end(folder / "whole")
        killed_in: Counter[str] = Counter()
        runs = different = 0
        while killed_in.total() < arguments.kills:
            run = folder / f"run-{runs}"
            killed_in += _until_it_ends(run, chance, arguments.kills - killed_in.total())
            runs += 1
            same = _end(run) == expected
            different += not same
            print(
                f"run {runs}: {killed_in.total()} kills so far, {'the same end' if same else 'A DIFFERENT END'}",
                flush=True,
            )
    where = ", ".join(f"{count} {place}" for place, count in sorted(killed_in.items()))
    print(f"{killed_in.total()} kills ({where}) in {runs} runs; {different} ended differently.")
    return 1 if different else 0


def _until_it_ends(run: Path, chance: random.Random, most: int) -> Counter[str]:
    """Kill and resume one run until it is finished; where the kills fell."""
    killed_in: Counter[str] = Counter()
    while True:
        process = _start(run, resume=(run / "config.json").exists())
        if killed_in.total() < most:
            before = _rows(run)
            while process.poll() is None and _rows(run) <= before:
                time.sleep(0.01)
            time.sleep(chance.uniform(0, LONGEST_WAIT))
            if process.poll() is None:
                process.kill()
                process.wait()
                killed_in[_place(run)] += 1
                continue
        if process.wait() != 0:
            raise SystemExit(f"A resumed run failed: {process.stderr.read().decode()}")  # type: ignore[union-attr]
        return killed_in


def _start(run: Path, *, resume: bool = False) -> subprocess.Popen[bytes]:
    command = [
        sys.executable, "-m", "magicapture_core", "train", "--subject", str(ROOT / "assets" / "people" / "alma"),
        "--preset", "passport", "--model", "mini", "--out", str(run), "--ti-steps", str(STEPS[0]),
        "--lora-steps", str(STEPS[1]), "--checkpoint-every", "1", "--sample-every", "0", "--attention-every", "3",
    ]  # fmt: skip
    return subprocess.Popen(
        [*command, *(["--resume"] if resume else [])],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )


def _rows(run: Path) -> int:
    try:
        return (run / "losses.jsonl").read_bytes().count(b"\n")
    except OSError:
        return 0


def _place(run: Path) -> str:
    """Where a kill fell, from what it left."""
    if any("tmp" in path.name or path.name.startswith(".") for path in run.iterdir()):
        return "while a checkpoint was written"
    return "in phase 1" if _rows(run) <= STEPS[0] else "in phase 2"


def _end(run: Path) -> dict[str, object]:
    """Everything that two equal runs share: every learned number, bit for bit, and the losses without their times.

    Not the files' bytes: safetensors writes the entries of a header in any order.
    """
    rows = [json.loads(line) for line in (run / "losses.jsonl").read_text(encoding="utf-8").splitlines()]
    for row in rows:
        row.pop("seconds")
    learned = {
        f"{path.name} {name}": (tensor.dtype, tuple(tensor.shape), tensor.numpy().tobytes())
        for path in sorted((run / "adapter").glob("*.safetensors"))
        for name, tensor in sorted(load_file(path).items())
    }
    assert any("lora" in name for name in learned)
    return {"losses": rows, **learned}


if __name__ == "__main__":
    raise SystemExit(main(tyro.cli(Arguments, description=__doc__)))
