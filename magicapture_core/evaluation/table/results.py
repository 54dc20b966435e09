"""Results per cell, per method with intervals, and per group of people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from magicapture_core.evaluation import metrics
from magicapture_core.evaluation.benchmark import Benchmark
from magicapture_core.evaluation.cells import finished_cell
from magicapture_core.evaluation.edits import ANYONE, COMPOSED, EDITS
from magicapture_core.evaluation.judges import Judges
from magicapture_core.evaluation.methods import Method, in_order
from magicapture_core.evaluation.metrics import Cell, Estimate
from magicapture_core.evaluation.table.bounds import bounds
from magicapture_core.evaluation.tasks import Setup, Task


@dataclass(frozen=True)
class Column:
    """One number of the table."""

    name: str
    title: str
    about: str
    digits: int = 3

    @property
    def lower_is_better(self) -> bool:
        """Whether lower values are better: the title then ends in ↓."""
        return self.title.endswith("↓")


COLUMNS: tuple[Column, ...] = (
    Column(
        "csim",
        "CSIM ↑",
        "cosine of the face with the mean of the source photos' faces; pictures with a face only",
    ),
    Column("csim_zero", "CSIM, no face 0 ↑", "the same with 0 for pictures without a face"),
    Column(
        "csim_best", "CSIM, best photo ↑", "cosine with the nearest source photo; pictures with a face only"
    ),
    Column(
        "csim_held_out",
        "CSIM, held-out photo ↑",
        "cosine with a photo of the person that was not trained on; pictures with a face only",
    ),
    Column(
        "copy_paste",
        "Copy-paste ↓",
        "cosine with the nearest training photo minus the cosine with the held-out photo",
    ),
    Column("faces", "with a face ↑", "share of pictures in which a face was detected", 2),
    Column("one_face", "one face ↑", "share of pictures with exactly one face", 2),
    Column("style", "Style ↑", "mean cosine with the style's references, faces masked out"),
    Column(
        "face_colour",
        "Face colour ↓",
        "distance of the face's colour from the references' faces, in a*b*; a schedule with lambda_colour trains "
        "MagiCapture on it, and no method without the composed prompt",
        1,
    ),
    Column(
        "skin",
        "Skin ↓",
        "distance of the face's colour from the person's photos, in L*a*b*; only in styles that leave skin as it is; a "
        "schedule with lambda_lightness trains MagiCapture on the lightness in it",
        1,
    ),
    Column(
        "drift",
        "Drift ↓",
        "cosine of the faces of “a photo of a person” with the person's: others must stay others",
    ),
    Column("aesthetic", "Aesthetic ↑", "LAION's predictor, about 1 to 10", 2),
    Column(
        "edits",
        "edits shown ↑",
        "share of edited prompts' pictures that show the edit, by a simple measurement",
        2,
    ),
    Column("text", "edits in words ↑", "CLIP's cosine of an edited prompt's pictures with the edit's words"),
    Column("diversity", "Diversity ↑", "mean pairwise distance of a cell's pictures, whole picture"),
    Column(
        "copying",
        "Copying ↓",
        "correlation of 32-pixel grey pictures with the nearest training photo; 1 is a copy",
    ),
    Column(
        "attention_subject",
        "[V1] outside ↓",
        "share of [V1]'s attention outside the face, composed prompt on the first style photo",
        2,
    ),
    Column("attention_style", "[V2] outside ↓", "share of [V2]'s attention inside that face", 2),
    Column("mean_subject", "[V1] attention", "mean attention to [V1] over all places of that photo"),
    Column("mean_style", "[V2] attention", "mean attention to [V2] over all places of that photo"),
    Column("seconds", "training s", "seconds of training per cell, on this machine", 0),
)
PAIRED = ("csim", "csim_zero", "csim_held_out", "style", "face_colour", "drift")
"""Columns whose difference to MagiCapture is shown, with the interval of paired cells."""


def cell_values(cell: Mapping[str, Any]) -> dict[str, float]:
    """Column → mean over the cell's pictures; NaN where it was not measured."""
    plain = [row for row in cell["pictures"] if row["kind"] == COMPOSED]
    edited = [row for row in cell["pictures"] if row["kind"] in EDITS]
    anyone = [row for row in cell["pictures"] if row["kind"] == ANYONE]
    csim = [row["csim_mean"] for row in plain]
    return {
        "csim": metrics.mean_of(csim),
        "csim_zero": metrics.mean_of([value or 0.0 for value in csim]),
        "csim_best": metrics.mean_of([row["csim_best"] for row in plain]),
        "csim_held_out": metrics.mean_of([row["csim_held_out"] for row in plain]),
        "copy_paste": metrics.mean_of(
            [row["csim_best"] - row["csim_held_out"] for row in plain if row["csim_held_out"] is not None]
        ),
        "faces": metrics.mean_of([float(row["face"]) for row in plain]),
        "one_face": metrics.mean_of([float(row["one_face"]) for row in plain]),
        "style": metrics.mean_of([row["style_score"] for row in plain]),
        "face_colour": metrics.mean_of([row["face_colour"] for row in plain]),
        "skin": metrics.mean_of([row["skin"] for row in plain]),
        "drift": metrics.mean_of([row["csim_mean"] for row in anyone]),
        "aesthetic": metrics.mean_of([row["aesthetic"] for row in plain]),
        "edits": metrics.mean_of([float(row["shows"][row["kind"]]) for row in edited]),
        "text": metrics.mean_of([row.get("text") for row in edited]),
        "diversity": cell["diversity"],
        "copying": metrics.mean_of([row["copying"] for row in plain]),
        "attention_subject": cell.get("attention_subject", float("nan")),
        "attention_style": cell.get("attention_style", float("nan")),
        "mean_subject": cell.get("mean_subject", float("nan")),
        "mean_style": cell.get("mean_style", float("nan")),
        "seconds": cell["seconds"],
    }


@dataclass(frozen=True)
class Results:
    """Everything that tables, sheets and pages show."""

    benchmark: Benchmark
    methods: tuple[Method, ...]
    values: Mapping[str, Mapping[Cell, Mapping[str, float]]]
    """Method → cell → column → value."""
    rows: tuple[Mapping[str, Any], ...]
    """A row per picture, as in results.parquet."""
    unasked: Mapping[str, float]
    """Edit → share of all composed pictures that show it without being asked for."""
    edits: Mapping[str, Mapping[str, float]]
    """Method → edit → share of its pictures that show it."""
    bounds: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    """Reference values from photos of the people and styles that have cells: title → column → value."""
    judges: Mapping[str, str] = field(default_factory=dict)
    missing: int = 0
    """Cells that are not finished."""

    def estimate(self, method: str, column: str) -> Estimate:
        """Mean and interval over all cells of a method."""
        return metrics.estimate({cell: row[column] for cell, row in self.values[method].items()})

    def behind(self, method: str, column: str) -> Estimate:
        """MagiCapture minus the method, over the cells of both."""
        ours = {cell: row[column] for cell, row in self.values.get("magicapture", {}).items()}
        return metrics.difference(ours, {cell: row[column] for cell, row in self.values[method].items()})

    def columns(self) -> list[Column]:
        """The columns that have a value somewhere."""
        return [
            column
            for column in COLUMNS
            if any(np.isfinite(row[column.name]) for cells in self.values.values() for row in cells.values())
        ]

    def by_group(self, column: str) -> dict[str, dict[str, dict[str, Estimate]]]:
        """Kind of group → group → method → mean over its people's cells."""
        table: dict[str, dict[str, dict[str, Estimate]]] = {}
        kinds = {kind for facts in self.benchmark.groups.values() for kind in facts}
        for kind in sorted(kinds):
            groups = {
                self.benchmark.groups[name][kind]
                for name in self.benchmark.identities
                if kind in self.benchmark.groups.get(name, {})
            }
            for group in sorted(groups):
                people = {
                    name
                    for name in self.benchmark.identities
                    if self.benchmark.groups.get(name, {}).get(kind) == group
                }
                table.setdefault(kind, {})[group] = {
                    method: metrics.estimate(
                        {cell: row[column] for cell, row in cells.items() if cell[0] in people}
                    )
                    for method, cells in self.values.items()
                }
        return table


def collect(tasks: Sequence[Task], setup: Setup, benchmark: Benchmark, out: Path, judges: Judges) -> Results:
    """Read every finished cell of `tasks`."""
    values: dict[str, dict[Cell, dict[str, float]]] = {}
    rows: list[dict[str, Any]] = []
    missing, notes = 0, judges.notes()
    for task in tasks:
        cell = finished_cell(task, setup, out)
        if cell is None:
            missing += 1
            continue
        notes = cell["judges"]
        values.setdefault(task.method, {})[task.identity, task.style] = cell_values(cell)
        rows += [
            {**row, **_cell_facts(cell), **benchmark.groups.get(task.identity, {})}
            for row in cell["pictures"]
        ]
    plain = [row for row in rows if row["kind"] == COMPOSED]
    asked = [name for name in EDITS if any(row["kind"] == name for row in rows)]
    return Results(
        benchmark=benchmark,
        methods=tuple(in_order(values)),
        values=values,
        rows=tuple(rows),
        unasked={name: metrics.mean_of([float(row["shows"][name]) for row in plain]) for name in asked},
        edits={
            method: {
                name: metrics.mean_of(
                    [
                        float(row["shows"][name])
                        for row in rows
                        if row["method"] == method and row["kind"] == name
                    ]
                )
                for name in asked
            }
            for method in values
        },
        bounds=bounds(
            benchmark, judges, list(dict.fromkeys(cell for cells in values.values() for cell in cells))
        ),
        judges=notes,
        missing=missing,
    )


def _cell_facts(cell: Mapping[str, Any]) -> dict[str, Any]:
    names = ("seconds", "steps", "likeness", "diversity", "attention_subject", "attention_style")
    return {f"cell_{name}": cell.get(name) for name in names}
