"""How the evaluation grid scales with Ray's workers on this machine.

    python benchmarks/scale_out.py [--workers 1 2] [--json]

Needs requirements-ray.txt and requirements-evaluate.txt. The same cells of the mini benchmark (a few training steps,
four pictures, judged) with each number of workers in turn; every worker has one thread. Workers load the model in cells
that are not counted.
"""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import tyro

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.measuring import ROOT, machine, show
from magicapture_core import choose_analyser
from magicapture_core.evaluation import runner
from magicapture_core.evaluation.benchmark import load_benchmark
from magicapture_core.evaluation.cells import judges_for
from magicapture_core.evaluation.tasks import Setup, Task

METHOD = "textual_inversion"


@dataclass
class Arguments:
    """Measure the evaluation with more and fewer workers."""

    workers: tuple[int, ...] = (1, 2)
    """Numbers of workers."""
    cells: int = 8
    """Cells that are counted."""
    rounds: int = 2
    """Each number of workers has its turn in each; what is given is their median."""
    json: bool = False
    """Print JSON instead of a table."""


def main(arguments: Arguments) -> dict[str, Any]:
    setup = _setup()
    found = load_benchmark("mini")
    pairs = [(person, style) for style in found.styles for person in found.identities]
    seconds: dict[int, list[float]] = {count: [] for count in arguments.workers}
    for _ in range(arguments.rounds):
        for count in arguments.workers:
            seconds[count].append(_grid(setup, pairs, count, arguments.cells))
    middle = {count: statistics.median(values) for count, values in seconds.items()}
    fewest = min(middle)
    return {
        "machine": machine(torch.device("cpu")),
        "cells": arguments.cells,
        "seconds_by_workers": {count: round(value, 1) for count, value in middle.items()},
        "speedup_by_workers": {count: round(middle[fewest] / value, 2) for count, value in middle.items()},
    }


def _setup() -> Setup:
    likeness = choose_analyser("bundled")[0].embedder().name
    judges = judges_for(likeness, "statistics")
    return Setup(
        benchmark="mini", model="mini", schedule="smoke", pictures=4, edited_pictures=0, other_people=0, held_out=0,
        steps=12, faces="bundled",
        likeness=likeness, encoder="statistics", judged_by=judges.names, seed=0, keep_runs=False,
    )  # fmt: skip


def _grid(setup: Setup, pairs: list[tuple[str, str]], workers: int, cells: int) -> float:
    """Seconds of the cells that are counted."""
    import ray

    tasks = [Task(person, style, METHOD) for person, style in pairs]
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    ray.init(
        num_cpus=workers,
        include_dashboard=False,
        log_to_driver=False,
        runtime_env={"env_vars": {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}},
    )
    try:
        with tempfile.TemporaryDirectory() as folder:
            # As many at once as there are workers, so that each has loaded what it needs.
            _all(runner.run(tasks[:workers], setup, Path(folder), ray="local"))
            started = time.monotonic()
            _all(runner.run(tasks[workers : workers + cells], setup, Path(folder), ray="local"))
            return time.monotonic() - started
    finally:
        ray.shutdown()


def _all(done: Any) -> None:
    for cell in done:
        if cell.problem is not None:
            raise SystemExit(cell.problem)


if __name__ == "__main__":
    chosen = tyro.cli(Arguments, description=__doc__)
    outcome = main(chosen)
    show(outcome, chosen.json)
