"""Make the presets' reference photos: six different adults who do not exist, in one style.

python -m tools.people.make_presets --generator GENERATOR --rows .training/mini/rows.jsonl [--candidates SHEET.png]

The people are held-out faces of tools/mini/measure.py's rows.jsonl (no training photo of the mini model), made again
at full size from their seeds. Needs PyMatting (`pip install pymatting`) beside the generator.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from tools.mini.variants import background, finish, light
from tools.people.generator import FaceGenerator
from tools.people.make_people import SIDE, write_jpeg
from tools.people.matting import cut_out

Row = dict[str, Any]


def frontal(row: Row) -> bool:
    left, right, nose = (np.array(point) for point in row["landmarks"][:3])
    apart = right[0] - left[0]
    return abs(nose[0] - (left[0] + right[0]) / 2) / apart < 0.12 and abs(left[1] - right[1]) / apart < 0.06


def adult(row: Row) -> bool:
    return 27 <= row["age"] < 75 and (row["masculine"] > 0.95 or row["masculine"] < 0.05)


@dataclass(frozen=True)
class Style:
    name: str
    suits: Callable[[Row], bool]
    """Which people are candidates."""
    behind: str | None
    lit: str | None
    finished: str | None
    chosen: tuple[str, ...] = ()
    """Files of the people, looked at and chosen."""


def _formal(row: Row) -> bool:
    return frontal(row) and row["expression"] != "smiling" and row["clothes"] == "dark"


STYLES = (
    Style(
        "passport",
        _formal,
        "white",
        "soft",
        None,
        ("04351.jpg", "00366.jpg", "00526.jpg", "06485.jpg", "01960.jpg", "07135.jpg"),
    ),
    Style(
        "profile",
        frontal,
        "light grey",
        "soft",
        None,
        ("05724.jpg", "05102.jpg", "05380.jpg", "04019.jpg", "05071.jpg", "07410.jpg"),
    ),
    Style(
        "mono-studio",
        lambda row: row["expression"] != "smiling",
        "black",
        "side",
        "black-and-white",
        ("06325.jpg", "05874.jpg", "01679.jpg", "01269.jpg", "06637.jpg", "02522.jpg"),
    ),
    Style(
        "golden-hour",
        lambda row: row["corner_std"] > 20,
        "outdoor",
        "warm",
        None,
        ("07293.jpg", "06007.jpg", "06409.jpg", "04547.jpg", "07643.jpg", "05156.jpg"),
    ),
    Style(
        "corporate",
        lambda row: frontal(row) and row["clothes"] == "dark",
        "blue",
        "soft",
        None,
        ("05281.jpg", "02614.jpg", "05432.jpg", "04874.jpg", "05279.jpg", "07561.jpg"),
    ),
    Style(
        "vintage-film",
        lambda _row: True,
        None,
        None,
        "vintage",
        ("05586.jpg", "06292.jpg", "00739.jpg", "04872.jpg", "07172.jpg", "06268.jpg"),
    ),
)


def regenerate(generator: FaceGenerator, row: Row) -> np.ndarray:
    """The face of a manifest row at full size, (512, 512, 3) uint8 RGB."""
    styles = generator.everywhere(generator.style(row["seed"], row["psi"]))
    if row["fine_seed"] is not None:
        styles[:, 10:] = generator.style(row["fine_seed"], 0.8)[:, None]
    return cv2.resize(generator.picture(styles), (SIDE, SIDE), interpolation=cv2.INTER_AREA)


def in_style(picture: np.ndarray, style: Style, seed: int) -> np.ndarray:
    """Background, light and finish of the style, (512, 512, 3) uint8 RGB."""
    from magicapture_core.faces import choose_analyser

    rng = np.random.default_rng(seed)
    analyser, _ = choose_analyser("bundled")
    changed, mask = cut_out(picture, analyser.foreground(picture)) if style.behind else (picture, None)
    changed = changed.astype(np.float32)
    mask = np.ones(picture.shape[:2], np.float32) if mask is None else mask
    if style.lit == "soft":  # the lamp lights the person, not the paper behind
        changed = 0.55 * changed + 0.45 * light(changed, style.lit, mask, rng)
    if style.behind:
        changed = changed * mask[..., None] + background(style.behind, SIDE, rng) * (1 - mask[..., None])
    if style.lit and style.lit != "soft":
        changed = light(changed, style.lit, mask, np.random.default_rng(1))
    if style.finished:
        changed = finish(changed, style.finished, rng)
    return np.clip(np.round(changed), 0, 255).astype(np.uint8)


def candidates(rows: list[Row], style: Style, count: int, taken: set[str]) -> list[Row]:
    found = [
        row
        for row in rows
        if row["held_out"] and adult(row) and style.suits(row) and row["file"] not in taken
    ]
    order = np.random.default_rng(len(style.name)).permutation(len(found))[:count]
    return [found[index] for index in order]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--generator", required=True, help="random_face/data of the unpacked PyPI wheel random-face"
    )
    parser.add_argument("--rows", required=True, help="rows.jsonl of tools/mini/measure.py")
    parser.add_argument("--candidates", help="write a sheet to choose from here, and nothing else")
    parser.add_argument("--out", default="presets")
    args = parser.parse_args()
    generator = FaceGenerator(Path(args.generator))
    rows: list[Row] = [json.loads(line) for line in Path(args.rows).read_text().splitlines()]
    by_file = {row["file"]: row for row in rows}
    sheet, taken = [], set[str]()
    for style in STYLES:
        if not args.candidates:
            for number, file in enumerate(style.chosen, 1):
                pixels = in_style(regenerate(generator, by_file[file]), style, by_file[file]["seed"])
                write_jpeg(Path(args.out) / style.name / f"{number}.jpg", pixels)
            continue
        line = []
        for row in candidates(rows, style, 10, taken):
            taken.add(row["file"])
            small = cv2.resize(in_style(regenerate(generator, row), style, row["seed"]), (190, 190))
            cv2.putText(small, row["file"][:-4], (4, 16), 0, 0.5, (255, 0, 0), 2)
            line.append(small)
        sheet.append(np.hstack(line))
    if sheet:
        cv2.imwrite(args.candidates, np.vstack(sheet)[:, :, ::-1])


if __name__ == "__main__":
    main()
