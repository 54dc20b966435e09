"""The report on an evaluation's folder: table, contact sheets and a page, of every cell that is finished there."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from magicapture_core import __version__
from magicapture_core.config import TrainConfig
from magicapture_core.evaluation import cells, page, runner, sheets, table
from magicapture_core.evaluation.benchmark import Benchmark
from magicapture_core.evaluation.methods import METHODS, Method, differing
from magicapture_core.evaluation.tasks import Setup
from magicapture_core.files import atomic_file
from magicapture_core.problems import Problem
from magicapture_core.progress import duration


def write_report(setup: Setup, benchmark: Benchmark, methods: Sequence[Method], out: Path) -> Path:
    """Write results.parquet, table.csv, table.md, the contact sheets and the page. Returns the page's file.

    methods: every method of the evaluation (see `open_evaluation`), also those of earlier calls.
    Raises Problem where no cell is finished.
    """
    tasks = runner.plan(benchmark, methods)
    if not any(cells.is_done(task, setup, out) for task in tasks):
        raise Problem(f"No cell could be finished; {out / 'failed.json'} says why.")
    judges = cells.judges_for(setup.likeness, setup.encoder)
    results = table.collect(tasks, setup, benchmark, out, judges)
    facts = _facts(setup, results)
    paper = "stable-diffusion-v1-5" in setup.model and judges.as_in_the_paper
    table.write_parquet(results, out / "results.parquet")
    table.write_csv(results, out / "table.csv")
    text = table.markdown(results, [facts["in short"]], paper=paper)
    with atomic_file(out / "table.md") as path:
        path.write_text(text, encoding="utf-8")
    return page.write_page(results, facts, sheets.write_sheets(results, out), out, paper=paper)


def _facts(setup: Setup, results: table.Results) -> dict[str, str]:
    """What was run, in words."""
    models = cells.models_for(setup.model)
    made = cells.portrait_settings(models, setup)
    base = METHODS["magicapture"].config(setup.schedule, models, setup.seed)
    people, styles = len(results.benchmark.identities), len(results.benchmark.styles)
    model = Path(setup.model).name
    seconds = sum(row["seconds"] for pair in results.values.values() for row in pair.values())
    facts = {
        "in short": f"Benchmark {results.benchmark.name}: {people} people × {styles} styles × {len(results.methods)} "
        f"methods, {setup.pictures} pictures each. Model {model}, {setup.schedule} schedule, "
        f"{duration(seconds)} of training in all.",
        "model": model,
        "device": torch.cuda.get_device_name()
        if models.device.type == "cuda"
        else f"{models.device}, {platform.machine()}",
        "schedule": setup.schedule,
        "pictures": f"{made.steps} steps of {made.scheduler}, guidance {made.guidance_scale:g}, adapter scale "
        f"{made.adapter_scale:g} where a method says nothing else{_weaker(models.strength_with)}; "
        f"prompt “{made.prompt}”; "
        "the same seeds for every method",
        "versions": f"MagiCapture {__version__}, torch {torch.__version__}, Python {platform.python_version()}",
        "MagiCapture": _listed(differing(base, TrainConfig())) + " (over the paper's)",
    }
    for method in results.methods:
        if method.name != "magicapture":
            if not method.trains:
                facts[method.title] = method.about
                continue
            config = method.config(setup.schedule, models, setup.seed)
            drawn = {} if method.adapter_scale is None else {"adapter_scale": method.adapter_scale}
            if method.adapter_start:
                drawn["adapter_start"] = method.adapter_start
            facts[method.title] = _listed({**differing(config, base), **drawn}) + " (over MagiCapture's)"
    return facts


def _weaker(strength_with: Mapping[str, float]) -> str:
    """Words of a prompt that lessen the adapter scale, in words."""
    shares = (f"times {share:g} with “{word}” in the prompt" for word, share in strength_with.items())
    return "".join(f", {share}" for share in shares)


def _listed(settings: dict[str, object]) -> str:
    return ", ".join(f"{name} {value}" for name, value in settings.items())
