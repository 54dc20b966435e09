"""What a GPU takes for the paper's schedule, and all around it, in at most four minutes of it.

    python benchmarks/full_size.py                                  # on a GPU: Stable Diffusion 1.5's size at 512 px
    python benchmarks/full_size.py --compare compiled=0 compiled=1  # two settings of the kernels in turns
    python benchmarks/full_size.py --model small                    # anywhere, to try it; no memory without a GPU

Prints after each part, so that a run that is cut off has told what it found until then. Time: steps of both phases, and
what 1200 and 1500 of them take. "small card": planned for, and limited to, so many GB. Agreement: relative differences
of the loss terms on the same items. Portraits: ours over a plain StableDiffusionPipeline with the same adapter.
"""

from __future__ import annotations

import functools
import json
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
import tyro

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks import gpu_parts
from benchmarks.gpu_parts import Bench
from benchmarks.measuring import ROOT, concept, load_model, machine
from magicapture_core import choose_analyser

PARTS = ("standard", "small card", "looking", "portraits", "plain loop", "profile", "agreement")


@dataclass
class Arguments:
    """Measure a training by the paper's schedule, and what goes with it."""

    model: Literal["sd15-random", "mini", "small"] = "sd15-random"
    """small: as Stable Diffusion 1.5, with few channels and small pictures."""
    parts: tuple[str, ...] = PARTS
    """Which of them, in this order."""
    compare: tuple[str, str] | None = None
    """Two settings of MAGICAPTURE_KERNELS; nothing else is measured then."""
    steps: int = 8
    """Steps of each phase that are measured, after three more."""
    pictures: int = 4
    drawing_steps: int = 30
    rounds: int = 3
    """Rounds of what takes turns."""
    card_gb: float = 7.5
    """Of the small card."""
    seconds: float = 200.0
    """After these no further part begins, so that all of it takes less than four minutes of a device."""
    out: Path | None = None
    """A JSON file that is written anew after each part."""


@dataclass
class Teller:
    """Says what was found as soon as it is."""

    out: Path | None
    limit: float
    started: float = field(default_factory=time.monotonic)
    results: dict[str, Any] = field(default_factory=dict)

    def part(self, name: str, measure: Callable[[], dict[str, Any]]) -> None:
        """Measure, and tell. What fails is told, too, and the other parts go on."""
        began = time.monotonic()
        if began - self.started > self.limit:
            self.tell(name, {"left out": f"{self.limit:g} seconds were over"})
            return
        try:
            found = measure()
        except Exception as error:  # noqa: BLE001 - of any kind: a GPU is lent for minutes, and the rest is wanted
            traceback.print_exc()
            found = {"failed": f"{type(error).__name__}: {error}"[:400]}
        self.tell(name, {**found, "part_seconds": round(time.monotonic() - began, 1)})
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def tell(self, name: str, found: dict[str, Any]) -> None:
        """Print and keep."""
        self.results[name] = found
        print(f"[{time.monotonic() - self.started:6.1f} s] {name}", flush=True)
        for what, value in found.items():
            print(f"    {what}: {value}", flush=True)
        if self.out is not None:
            self.out.write_text(json.dumps(self.results, indent=1) + "\n", encoding="utf-8")


def main(arguments: Arguments) -> dict[str, Any]:
    if arguments.model == "sd15-random" and not torch.cuda.is_available():
        raise SystemExit(
            "Stable Diffusion 1.5's size takes hours on a CPU. Use a GPU, or --model small to try this."
        )
    unknown = set(arguments.parts) - set(PARTS)
    if unknown:
        raise SystemExit(
            f"There is no part {', '.join(sorted(unknown))}; expected some of {', '.join(PARTS)}."
        )
    teller = Teller(arguments.out, arguments.seconds)
    models = load_model(arguments.model)
    analyser, _ = choose_analyser("bundled")
    concepts = {
        "subject": concept("subject", ROOT / "assets" / "people" / "alma", models.resolution, analyser),
        "style": concept("style", ROOT / "presets" / "passport", models.resolution, analyser),
    }
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(arguments.model, models, concepts, analyser, Path(folder), arguments.steps,
                      arguments.pictures, arguments.drawing_steps, arguments.rounds)  # fmt: skip
        teller.tell("machine", {**machine(models.device), "model": arguments.model,
                                "resolution": models.resolution, "dtype": str(models.dtype),
                                "kernels": str(models.kernels)})  # fmt: skip
        measures: dict[str, Callable[[], dict[str, Any]]] = {
            "standard": functools.partial(gpu_parts.training, bench, "standard"),
            "small card": functools.partial(gpu_parts.small_card, bench, arguments.card_gb),
            "looking": functools.partial(gpu_parts.looking, bench),
            "portraits": functools.partial(gpu_parts.portraits, bench),
            "plain loop": functools.partial(gpu_parts.plain, bench),
            "profile": functools.partial(gpu_parts.profiled, bench),
            "agreement": functools.partial(gpu_parts.agreement, bench),
        }
        if arguments.compare is not None:
            one, other = arguments.compare
            teller.part("compare", functools.partial(gpu_parts.compared, bench, one, other))
        else:
            for name in arguments.parts:
                teller.part(name, measures[name])
    return teller.results


if __name__ == "__main__":
    found = main(tyro.cli(Arguments, description=__doc__))
    failed = [name for name, part in found.items() if "failed" in part]
    sys.exit(f"failed: {', '.join(failed)}" if failed else 0)
