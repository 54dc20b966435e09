"""The report as one HTML file: the table, notes, plots and pictures. It loads nothing from the network."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from magicapture_core.evaluation.metrics import Estimate
from magicapture_core.evaluation.table import PAIRED, Column, Results, number
from magicapture_core.files import atomic_file

TEMPLATE = Path(__file__).with_name("page.html")
SHEETS_INSIDE = 24
"""Contact sheets within the page; the others lie beside it. At some 150 KB each the page still opens at once."""
COLOURS = (
    "#2f4b9b",
    "#c2410c",
    "#15803d",
    "#a21caf",
    "#0e7490",
    "#b45309",
    "#be123c",
    "#4d7c0f",
    "#6d28d9",
    "#334155",
)


def write_page(
    results: Results, facts: Mapping[str, str], sheets: Sequence[tuple[str, Path]], out: Path, *, paper: bool
) -> Path:
    """OUT/report.html. facts: what was run, for people. `paper`: show the paper's rows beside ours."""
    from jinja2 import Environment

    columns = results.columns()
    template = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True).from_string(
        TEMPLATE.read_text(encoding="utf-8")
    )
    path = out / "report.html"
    text = template.render(
        facts=facts,
        columns=columns,
        rows=[_row(results, method.name, method.title, method.about, columns) for method in results.methods],
        bounds=[
            (title, [number(found.get(c.name), c.digits) for c in columns])
            for title, found in results.bounds.items()
        ],
        paper=[m for m in results.methods if paper and m.paper_row is not None],
        paper_cells={m.name: _paper_cells(m.paper_row, columns) for m in results.methods if m.paper_row},
        judges=results.judges,
        missing=results.missing,
        scatter=scatter(results),
        colours=_colours(results),
        differences=_differences(results, columns),
        edits=results.edits,
        unasked=results.unasked,
        methods=results.methods,
        groups=[
            (kind.replace("_", " "), group_bars(results, groups))
            for kind, groups in results.by_group("csim_zero").items()
        ],
        sheets=[(title, _inline(file)) for title, file in sheets[:SHEETS_INSIDE]],
        more=[(title, file.relative_to(out).as_posix()) for title, file in sheets[SHEETS_INSIDE:]],
        about=results.benchmark.about,
        number=number,
    )
    with atomic_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return path


def _colours(results: Results) -> dict[str, str]:
    return {method.name: COLOURS[n % len(COLOURS)] for n, method in enumerate(results.methods)}


def _row(results: Results, name: str, title: str, about: str, columns: Sequence[Column]) -> dict[str, Any]:
    cells = []
    for column in columns:
        found = results.estimate(name, column.name)
        interval = _interval(found, column.digits) if column.digits else ""
        cells.append((number(found.mean, column.digits), interval))
    return {"name": name, "title": title, "about": about, "cells": cells, "count": len(results.values[name])}


def _paper_cells(row: tuple[float, float, float], columns: Sequence[Column]) -> list[str]:
    published = dict(zip(("csim", "style", "aesthetic"), row, strict=True))
    return [number(published.get(column.name), column.digits) for column in columns]


def _differences(results: Results, columns: Sequence[Column]) -> dict[str, Any]:
    """Column titles, and per other method MagiCapture's lead with whether the interval leaves out 0."""
    named = [column for column in columns if column.name in PAIRED]
    others = [m for m in results.methods if m.name != "magicapture" and "magicapture" in results.values]
    rows = [(m.title, [_lead(results.behind(m.name, c.name), c) for c in named]) for m in others]
    return {"titles": [column.title for column in named], "rows": rows}


def _lead(found: Estimate, column: Column) -> tuple[str, str, str]:
    """Signed number, interval and class: ahead, behind or unclear."""
    if not np.isfinite(found.mean):
        return "–", "", "unclear"
    higher = "ahead" if found.low > 0 else "behind" if found.high < 0 else "unclear"
    kind = {"ahead": "behind", "behind": "ahead"}.get(higher, higher) if column.lower_is_better else higher
    return f"{found.mean:+.{column.digits}f}", _interval(found, column.digits, "+"), kind


def _interval(found: Estimate, digits: int, sign: str = "") -> str:
    return f"{found.low:{sign}.{digits}f} – {found.high:{sign}.{digits}f}" if found.known else ""


def _ends(found: Estimate) -> tuple[float, float]:
    """The two ends of an interval's line; the same point twice if there is no interval."""
    return (found.low, found.high) if found.known else (found.mean, found.mean)


def _inline(path: Path) -> str:
    return "data:image/jpeg;base64," + base64.b64encode(path.read_bytes()).decode("ascii")


# --- plots ----------------------------------------------------------------------------------------


def scatter(results: Results) -> dict[str, Any]:
    """Likeness against style, a point with its interval per method: coordinates in a 640×400 drawing."""
    points = []
    for method in results.methods:
        style, csim = results.estimate(method.name, "style"), results.estimate(method.name, "csim_zero")
        if np.isfinite(style.mean) and np.isfinite(csim.mean):
            points.append((method, style, csim))
    if not points:
        return {"points": []}
    x_axis = _Axis([value for _, style, _ in points for value in _ends(style)], 64, 620)
    y_axis = _Axis([value for _, _, csim in points for value in _ends(csim)], 350, 16)
    colours = _colours(results)
    return {
        "points": [
            {
                "title": method.title, "number": n, "colour": colours[method.name],
                "x": x_axis(style.mean), "y": y_axis(csim.mean),
                "left": x_axis(_ends(style)[0]), "right": x_axis(_ends(style)[1]),
                "top": y_axis(_ends(csim)[1]), "bottom": y_axis(_ends(csim)[0]),
            }
            for n, (method, style, csim) in enumerate(points, 1)
        ],
        "x_ticks": x_axis.ticks(),
        "y_ticks": y_axis.ticks(),
    }  # fmt: skip


class _Axis:
    """A linear scale from values to coordinates, with round tick values."""

    def __init__(self, values: Sequence[float], start: float, end: float) -> None:
        low, high = min(values), max(values)
        spread = max(high - low, 0.02)
        self.low, self.high = low - 0.08 * spread, high + 0.08 * spread
        self.start, self.end = start, end

    def __call__(self, value: float) -> float:
        share = (value - self.low) / (self.high - self.low)
        return round(self.start + share * (self.end - self.start), 1)

    def ticks(self) -> list[tuple[float, str]]:
        """About five round values: (coordinate, text)."""
        rough = (self.high - self.low) / 5
        step = min((1, 2, 5, 10), key=lambda s: abs(s - rough / 10 ** np.floor(np.log10(rough))))
        step *= 10 ** np.floor(np.log10(rough))
        first = np.ceil(self.low / step) * step
        digits = max(0, int(np.ceil(-np.log10(step))))
        values = np.round(np.arange(first, self.high, step), digits) + 0.0  # or zero is written as -0.0
        return [(self(value), f"{value:.{digits}f}") for value in values]


def group_bars(results: Results, groups: Mapping[str, Mapping[str, Estimate]]) -> list[dict[str, Any]]:
    """Per group of people a bar for each method, in percent of the highest."""
    means = [
        found.mean for by_method in groups.values() for found in by_method.values() if np.isfinite(found.mean)
    ]
    highest = max([*means, 1e-9])
    colours = _colours(results)
    return [
        {
            "group": group,
            "bars": [
                {
                    "title": method.title, "colour": colours[method.name],
                    "width": max(0.0, round(100 * found.mean / highest, 1)) if np.isfinite(found.mean) else 0.0,
                    "text": number(found.mean, 3),
                    "interval": _interval(found, 3),
                }
                for method in results.methods
                for found in (by_method[method.name],)
            ],
        }
        for group, by_method in groups.items()
    ]  # fmt: skip
