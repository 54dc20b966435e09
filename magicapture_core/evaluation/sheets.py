"""Contact sheets: the photos, and below them each method's pictures, as small labelled tiles."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from magicapture_core.evaluation.cells import FIRST_SEED
from magicapture_core.evaluation.edits import COMPOSED
from magicapture_core.evaluation.table import Results, number
from magicapture_core.evaluation.tasks import Task
from magicapture_core.provenance import save_picture

TILE, LINE, GAP = 128, 20, 4
MOST = 8
"""Tiles in a row."""


def labelled_rows(rows: Iterable[tuple[str, Sequence[Image.Image]]], tile: int = TILE) -> Image.Image:
    """Rows of square tiles, each under its text, on white."""
    rows = [(text, list(pictures)) for text, pictures in rows]
    font = ImageFont.load_default(13)
    tiles = max(1, *(len(pictures) for _, pictures in rows)) * (tile + GAP) + GAP
    width = max(tiles, *(math.ceil(font.getlength(text)) + 2 * GAP for text, _ in rows))
    sheet = Image.new("RGB", (width, len(rows) * (tile + LINE + GAP) + GAP), "white")
    draw = ImageDraw.Draw(sheet)
    for n, (text, pictures) in enumerate(rows):
        top = n * (tile + LINE + GAP) + GAP
        draw.text((GAP, top + 1), text, fill=(40, 40, 48), font=font)
        for k, picture in enumerate(pictures):
            small = picture.convert("RGB").resize((tile, tile), Image.Resampling.LANCZOS)
            sheet.paste(small, (GAP + k * (tile + GAP), top + LINE))
    return sheet


def write_sheets(results: Results, out: Path) -> list[tuple[str, Path]]:
    """OUT/sheets/IDENTITY--STYLE.jpg for every pair that has a finished cell. Returns titles and files."""
    pairs = sorted({cell for cells in results.values.values() for cell in cells})
    written = []
    for identity, style in pairs:
        photos, references = results.benchmark.identities[identity], results.benchmark.styles[style]
        rows = [(f"{identity}: photos", _open(photos)), (f"{style}: references", _open(references))]
        for method in results.methods:
            values = results.values[method.name].get((identity, style))
            if values is not None:
                text = (
                    f"{method.title}   CSIM {number(values['csim_zero'], 2)}   style {number(values['style'], 2)}   "
                    f"with a face {number(values['faces'], 2)}"
                )
                folder = Task(identity, style, method.name).folder(out) / "pictures"
                rows.append((text, _open(sorted(folder.glob(f"{COMPOSED}-*.png"), key=_seed))))
        path = out / "sheets" / f"{identity}--{style}.jpg"
        save_picture(labelled_rows(rows), path, prompt=None, seed=FIRST_SEED, settings={})
        written.append((f"{identity} × {style}", path))
    return written


def _seed(path: Path) -> int:
    return int(path.stem.rpartition("-")[2] or FIRST_SEED)


def _open(paths: Sequence[Path]) -> list[Image.Image]:
    pictures = []
    for path in paths[:MOST]:
        with Image.open(path) as picture:
            pictures.append(picture.convert("RGB"))
    return pictures
