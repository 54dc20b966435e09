"""Make the presets' reference photos: six different adults who do not exist, in one style.

python -m tools.people.make_presets --generator GENERATOR --rows .training/mini/rows/rows.jsonl [--candidates SHEET.png]
                                    [--only NAME …]

The people of the first six are held-out faces of tools/mini/measure.py's rows.jsonl, made again at full size from their
seeds: UNet and text encoder of the mini model never saw them, but the VAE of the shipped weights was trained on them,
too (tools/mini/README.md). Those of the others have seeds from 66 000 000 on, which no training in this project uses.
Without --rows only those can be made, by --only. Needs PyMatting (`pip install pymatting`) beside the generator.
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

from tools.mark import mark
from tools.mini.variants import background, discs, finish, light, vertical
from tools.people.generator import FaceGenerator
from tools.people.make_people import SIDE, write_jpeg
from tools.people.matting import cut_out

Row = dict[str, Any]
SEEDS = 66_000_000
MOST_BYTES = 26_000
"""Of a reference photo by seed: the looks together stay small."""


def frontal(row: Row) -> bool:
    left, right, nose = (np.array(point) for point in row["landmarks"][:3])
    apart = right[0] - left[0]
    return abs(nose[0] - (left[0] + right[0]) / 2) / apart < 0.12 and abs(left[1] - right[1]) / apart < 0.06


def adult(row: Row) -> bool:
    return 27 <= row["age"] < 75 and (row["masculine"] > 0.95 or row["masculine"] < 0.05)


Backdrop = Callable[[int, np.random.Generator], np.ndarray]
Finish = Callable[[np.ndarray, np.random.Generator], np.ndarray]


@dataclass(frozen=True)
class Style:
    name: str
    suits: Callable[[Row], bool]
    """Which people are candidates."""
    behind: str | Backdrop | None
    lit: str | None
    finished: str | Finish | None
    chosen: tuple[str, ...] = ()
    """Files of the people, looked at and chosen."""
    seeds: tuple[int, ...] = ()
    """More people, or all of them: SEEDS + each."""


def pastel(side: int, rng: np.random.Generator) -> np.ndarray:
    """Paper from pale pink to apricot."""
    return vertical((246, 190, 205), (255, 216, 178), side) + np.float32(rng.normal(0, 3, 3))


def neon(side: int, rng: np.random.Generator) -> np.ndarray:
    """A dark violet room with magenta and blue lights out of focus."""
    bright = np.float32([(255, 60, 190), (200, 70, 255), (70, 120, 255), (90, 220, 255)])
    room = vertical((58, 18, 92), (24, 14, 62), side)
    return np.float32(discs(room, bright[rng.integers(0, 4, 14)], (0.03, 0.09), rng))


def neon_light(pixels: np.ndarray, _rng: np.random.Generator) -> np.ndarray:
    """Magenta light from the left, blue from the right."""
    across = np.linspace(0, 1, pixels.shape[1], dtype=np.float32)[None, :, None]
    tint = np.float32([1.12, 0.66, 1.06]) * (1 - across) + np.float32([0.64, 0.78, 1.3]) * across
    return np.float32(pixels * tint + np.float32([16, 0, 26]))


def two_inks(pixels: np.ndarray, _rng: np.random.Generator) -> np.ndarray:
    """Printed with two inks: plum where it is dark, apricot where it is light."""
    grey = np.clip(pixels, 0, 255) @ np.float32([0.299, 0.587, 0.114])
    share = np.clip((grey[..., None] - 24) / 200, 0, 1)
    return np.float32((1 - share) * np.float32([66, 12, 84]) + share * np.float32([255, 206, 150]))


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
        ("07293.jpg", "06007.jpg", "06409.jpg", "04547.jpg", "07643.jpg"),
        (136,),
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
    Style("night-city", frontal, "city", "cool", None, seeds=(96, 42, 148, 79, 23, 104)),
    Style("sunset", frontal, "sunset", "warm", None, seeds=(68, 147, 88, 71, 2, 101)),
    Style("magazine-red", frontal, "red", "soft", None, seeds=(10, 29, 15, 115, 1, 24)),
    Style("old-photograph", frontal, "beige", None, "sepia", seeds=(63, 61, 86, 73, 132, 39)),
    Style("bright-mono", frontal, "white", "soft", "black-and-white", seeds=(84, 92, 47, 113, 37, 25)),
    Style("candlelight", frontal, "black", "warm", None, seeds=(145, 100, 50, 46, 121, 130)),
    Style("two-inks", frontal, "grey", None, two_inks, seeds=(50, 21, 114, 137, 51, 119)),
    Style("pastel", frontal, pastel, "soft", None, seeds=(78, 80, 110, 129, 3, 69)),
    Style("neon", frontal, neon, None, neon_light, seeds=(136, 64, 13, 76, 117, 54)),
    Style("winter", frontal, "light blue", "cool", None, seeds=(74, 89, 129, 65, 17, 5)),
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
        wall = style.behind(SIDE, rng) if callable(style.behind) else background(style.behind, SIDE, rng)
        changed = changed * mask[..., None] + wall * (1 - mask[..., None])
    if style.lit and style.lit != "soft":
        changed = light(changed, style.lit, mask, np.random.default_rng(1))
    if style.finished:
        changed = (
            style.finished(changed, rng) if callable(style.finished) else finish(changed, style.finished, rng)
        )
    return np.clip(np.round(changed), 0, 255).astype(np.uint8)


def by_seed(generator: FaceGenerator, number: int) -> np.ndarray:
    """(512, 512, 3) uint8 RGB."""
    styles = generator.everywhere(generator.style(SEEDS + number, 0.85))
    return cv2.resize(generator.picture(styles), (SIDE, SIDE), interpolation=cv2.INTER_AREA)


def write_small(path: Path, pixels: np.ndarray) -> None:
    """The best JPEG of at most MOST_BYTES."""
    path.parent.mkdir(parents=True, exist_ok=True)
    for quality in range(90, 50, -2):
        cv2.imwrite(
            str(path), pixels[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality, cv2.IMWRITE_JPEG_OPTIMIZE, 1]
        )
        if path.stat().st_size <= MOST_BYTES:
            break
    mark(path)


def candidates(rows: list[Row], style: Style, count: int, taken: set[str]) -> list[Row]:
    found = [
        row
        for row in rows
        if row["held_out"] and adult(row) and style.suits(row) and row["file"] not in taken
    ]
    order = np.random.default_rng(len(style.name)).permutation(len(found))[:count]
    return [found[index] for index in order]


def write(generator: FaceGenerator, style: Style, by_file: dict[str, Row], out: Path) -> None:
    for number, file in enumerate(style.chosen, 1):
        if by_file:
            pixels = in_style(regenerate(generator, by_file[file]), style, by_file[file]["seed"])
            write_jpeg(out / style.name / f"{number}.jpg", pixels)
    for number, seed in enumerate(style.seeds, len(style.chosen) + 1):
        pixels = in_style(by_seed(generator, seed), style, SEEDS + seed)
        write_small(out / style.name / f"{number}.jpg", pixels)


def sheet_of(generator: FaceGenerator, rows: list[Row]) -> np.ndarray:
    """A row of ten numbered candidates for each style of held-out faces."""
    sheet, taken = [], set[str]()
    for style in (style for style in STYLES if style.chosen):
        line = []
        for row in candidates(rows, style, 10, taken):
            taken.add(row["file"])
            small = cv2.resize(in_style(regenerate(generator, row), style, row["seed"]), (190, 190))
            cv2.putText(small, row["file"][:-4], (4, 16), 0, 0.5, (255, 0, 0), 2)
            line.append(small)
        sheet.append(np.hstack(line))
    return np.vstack(sheet)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--generator", required=True, help="random_face/data of the unpacked PyPI wheel random-face"
    )
    parser.add_argument(
        "--rows", help="rows.jsonl of tools/mini/measure.py; without it, only people by seed are made"
    )
    parser.add_argument("--candidates", help="write a sheet to choose from here, and nothing else")
    parser.add_argument(
        "--only", nargs="+", choices=[style.name for style in STYLES], help="these; default: all"
    )
    parser.add_argument("--out", default="presets")
    args = parser.parse_args()
    wanted = [style for style in STYLES if not args.only or style.name in args.only]
    if not args.rows and (args.candidates or not all(style.seeds for style in wanted)):
        raise SystemExit(
            "--rows is needed: these presets show held-out faces of rows.jsonl. With --only, others can be made."
        )
    generator = FaceGenerator(Path(args.generator))
    lines = Path(args.rows).read_text().splitlines() if args.rows else []
    rows: list[Row] = [json.loads(line) for line in lines]
    if args.candidates:
        cv2.imwrite(args.candidates, sheet_of(generator, rows)[:, :, ::-1])
        return
    for style in wanted:
        write(generator, style, {row["file"]: row for row in rows}, Path(args.out))


if __name__ == "__main__":
    main()
