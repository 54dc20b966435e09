"""The results as files: results.parquet, table.csv and table.md."""

from __future__ import annotations

import csv
import importlib.util
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from magicapture_core.evaluation.metrics import Estimate
from magicapture_core.evaluation.table.results import PAIRED, Results
from magicapture_core.files import atomic_file
from magicapture_core.problems import MissingFiles


def check_parquet() -> None:
    """Raise Problem if pyarrow is not installed. Called before the work, not after it."""
    if importlib.util.find_spec("pyarrow") is None:
        raise MissingFiles(
            "An evaluation writes results.parquet, which needs pyarrow. Install it: "
            "pip install -r requirements-evaluate.txt."
        )


def write_parquet(results: Results, path: Path) -> None:
    """A row per picture."""
    import pyarrow
    import pyarrow.parquet

    names = dict.fromkeys(name for row in results.rows for name in row)  # pyarrow asks the first row alone
    rows = [
        {**dict.fromkeys(names), **row, "shows": [name for name, shown in row["shows"].items() if shown]}
        for row in results.rows
    ]
    with atomic_file(path) as temporary:
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), temporary)


def shown(estimate: Estimate, digits: int) -> str:
    """0.412 [0.380, 0.450]; without the interval where there is none; a dash where nothing was measured."""
    if not np.isfinite(estimate.mean):
        return "–"
    if digits == 0 or not estimate.known:
        return number(estimate.mean, digits)
    return f"{estimate.mean:.{digits}f} [{estimate.low:.{digits}f}, {estimate.high:.{digits}f}]"


def number(value: float | None, digits: int) -> str:
    """A bare number, or a dash."""
    return "–" if value is None or not np.isfinite(value) else f"{value:.{digits}f}"


def write_csv(results: Results, path: Path) -> None:
    """A row per method; mean, low and high of every column."""
    with atomic_file(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        parts = ("", "_low", "_high")
        writer.writerow(["method", "cells", *(c.name + part for c in results.columns() for part in parts)])
        for method in results.methods:
            numbers: list[str] = []
            for column in results.columns():
                found = results.estimate(method.name, column.name)
                numbers += [f"{value:.6g}" for value in (found.mean, found.low, found.high)]
            writer.writerow([method.name, len(results.values[method.name]), *numbers])


def markdown(results: Results, facts: Sequence[str], *, paper: bool) -> str:
    """The table and what must be known to read it. `paper`: whether the paper's rows may stand beside ours."""
    columns = results.columns()
    parts = ["# Evaluation", "", *facts, ""]
    if results.missing:
        cells = ", ".join(f"{m.title} {len(results.values[m.name])}" for m in results.methods)
        parts += [
            f"**{results.missing} cells are not finished**; the table is of the others: {cells} cells.",
            "",
        ]
    head = ["method", *(column.title for column in columns)]
    body = [
        [m.title, *(shown(results.estimate(m.name, c.name), c.digits) for c in columns)]
        for m in results.methods
    ]
    for title, found in results.bounds.items():
        body.append([f"*{title}*", *(number(found.get(c.name), c.digits) for c in columns)])
    if paper:
        for method in results.methods:
            if method.paper_row is not None:
                published = dict(zip(("csim", "style", "aesthetic"), method.paper_row, strict=True))
                body.append(
                    [f"paper: {method.title}", *(number(published.get(c.name), c.digits) for c in columns)]
                )
    parts += [_markdown_table(head, body), ""]
    parts += [
        "Means over cells [95 % of resampled identities and styles]. "
        + " · ".join(f"**{column.title}**: {column.about}" for column in columns),
        "",
        *(f"- **{what}**: {who}" for what, who in results.judges.items()),
    ]
    if "magicapture" in results.values and len(results.methods) > 1:
        others = [method for method in results.methods if method.name != "magicapture"]
        named = [column for column in columns if column.name in PAIRED]
        rows = [[m.title, *(shown(results.behind(m.name, c.name), c.digits) for c in named)] for m in others]
        parts += ["", "## MagiCapture minus each method, paired by cell", "",
                  _markdown_table(["method", *(column.title for column in named)], rows)]  # fmt: skip
    if results.unasked:
        rows = [
            [m.title, *(number(results.edits[m.name].get(e), 2) for e in results.unasked)]
            for m in results.methods
        ]
        rows.append(["*nobody asked*", *(number(value, 2) for value in results.unasked.values())])
        parts += ["", "## Edited prompts: share of pictures that show the edit", "",
                  _markdown_table(["method", *results.unasked], rows)]  # fmt: skip
    for kind, groups in results.by_group("csim_zero").items():
        rows = [
            [
                f"{group} ({_people(results, kind, group)})",
                *(shown(by_method[m.name], 3) for m in results.methods),
            ]
            for group, by_method in groups.items()
        ]
        parts += ["", f"## CSIM (no face 0) by {kind.replace('_', ' ')}", "",
                  _markdown_table(["group (people)", *(m.title for m in results.methods)], rows)]  # fmt: skip
    return "\n".join(parts) + "\n"


def _people(results: Results, kind: str, group: str) -> int:
    """Of those who have a finished cell: the numbers are of them alone."""
    measured = {person for cells in results.values.values() for person, _ in cells}
    return sum(results.benchmark.groups.get(person, {}).get(kind) == group for person in measured)


def _markdown_table(head: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *body]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
