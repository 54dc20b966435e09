"""Make the mini benchmark: photos of ten adults and in ten styles, all of people who do not exist.

python -m tools.people.make_benchmark --generator GENERATOR [--scout 120 | --candidates] [--sheet SHEET.jpg]
                                      [--out assets/benchmark]

--scout draws faces to choose the ten adults from, --candidates the photos to choose from; what was chosen by eye stands
below. Seeds from 40 000 000 on: the mini model's start at 0, 20 000 000 and 30 000 000, the sample people's at
60 000 000, the upscaler's at 62 000 000. Needs PyMatting, as tools/people/README.md says.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from tools.mark import mark
from tools.mini.variants import background, discs, finish, light, vertical
from tools.people.generator import FaceGenerator

SIDE, QUALITY = 256, 90
SEEDS = 40_000_000
OTHERS = 41_000_000
"""Of the draws that change an identity's pose, light and background."""


def small(picture: np.ndarray) -> np.ndarray:
    return cv2.resize(picture, (SIDE, SIDE), interpolation=cv2.INTER_AREA)


def cheek_tone(pixels: np.ndarray) -> float:
    """Individual typology angle of the cheeks in degrees: above 41 light, below 10 dark. NaN without a face.

    ITA = atan((L* - 50) / b*). It depends on the light, so that the groups below were set by eye with its help.
    """
    from magicapture_core.faces import choose_analyser

    faces = choose_analyser("bundled")[0].detect(pixels)
    if not faces:
        return math.nan
    left, right, nose, mouth, other = faces[0].landmarks
    reach = max(2, int(np.linalg.norm(right - left) * 0.12))
    tones = []
    for eye, corner in ((left, mouth), (right, other)):
        x, y = ((eye + corner) / 2 + 0.15 * (eye - nose)).astype(int)
        tones.append(pixels[max(y - reach, 0) : y + reach, max(x - reach, 0) : x + reach].reshape(-1, 3))
    lab = cv2.cvtColor(
        np.float32(np.median(np.concatenate(tones), axis=0)).reshape(1, 1, 3) / 255, cv2.COLOR_RGB2LAB
    )
    return math.degrees(math.atan2(float(lab[0, 0, 0]) - 50, float(lab[0, 0, 2])))


def scout(generator: FaceGenerator, first: int, count: int) -> np.ndarray:
    """Faces of the seeds SEEDS + first … with their number and cheek tone, (rows, columns, 3) uint8."""
    tiles = []
    for number in range(first, first + count):
        face = small(generator.picture(generator.everywhere(generator.style(SEEDS + number, 0.85))))
        tile = cv2.resize(face, (128, 128), interpolation=cv2.INTER_AREA)
        cv2.putText(tile, f"{number} {cheek_tone(face):.0f}", (3, 14), 0, 0.45, (255, 0, 0), 1, cv2.LINE_AA)
        tiles.append(tile)
        print(number, flush=True)
    return grid(tiles, 12)


def grid(tiles: list[np.ndarray], columns: int) -> np.ndarray:
    """Tiles of one size in rows, the last row filled with white."""
    blank = np.full_like(tiles[0], 255)
    tiles = tiles + [blank] * (-len(tiles) % columns)
    return np.vstack([np.hstack(tiles[start : start + columns]) for start in range(0, len(tiles), columns)])


# --- identities -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Person:
    """Groups are what the photos look like to us: nobody is depicted, so there is nothing else to ask."""

    name: str
    seed: int
    """SEEDS + seed."""
    skin_tone: str
    gender: str
    age: str
    chosen: tuple[tuple[int, str | None, str | None], ...]
    """(candidate, background or None for its own, light or None): the photos, looked at and chosen."""


PEOPLE = (
    Person("p01", 157, "light", "woman", "older", (
        (0, None, None), (2, None, None), (4, "beige", None), (6, None, None), (7, "light blue", "soft"),
        (9, None, "warm"),
    )),
    Person("p02", 10, "dark", "man", "young", (
        (0, None, None), (1, None, None), (3, "grey", None), (5, None, None), (8, "outdoor", None), (9, None, None),
    )),
    Person("p03", 165, "medium", "woman", "young", (
        (0, None, None), (2, None, None), (3, None, None), (5, "light grey", "soft"), (6, "outdoor", None),
        (9, None, "warm"),
    )),
    Person("p04", 126, "light", "man", "middle-aged", (
        (0, None, None), (2, None, None), (4, "blue", None), (5, None, None), (8, None, None),
        (9, "light grey", "soft"),
    )),
    Person("p05", 127, "dark", "woman", "middle-aged", (
        (0, None, None), (3, None, None), (6, "beige", None), (7, None, None), (8, None, None), (10, "outdoor", None),
    )),
    Person("p06", 55, "light", "man", "middle-aged", (
        (0, None, None), (1, "beige", None), (2, None, None), (4, None, None), (8, None, None),
        (9, "light blue", "soft"),
    )),
    Person("p07", 134, "light", "woman", "young", (
        (0, None, None), (1, None, None), (2, None, None), (3, "outdoor", None), (5, None, None),
        (8, "light grey", "soft"),
    )),
    Person("p08", 76, "medium", "man", "older", (
        (0, None, None), (2, None, None), (3, "grey", None), (4, None, None), (9, "light blue", None),
        (10, None, "warm"),
    )),
    Person("p09", 37, "medium", "woman", "middle-aged", (
        (0, None, None), (1, "light grey", "soft"), (2, None, None), (4, None, None), (5, None, None),
        (10, "beige", None),
    )),
    Person("p10", 95, "light", "man", "older", (
        (0, None, None), (1, None, None), (2, None, None), (4, "beige", None), (7, "outdoor", None), (8, None, "warm"),
    )),
)  # fmt: skip


def candidate(generator: FaceGenerator, person: Person, index: int) -> np.ndarray:
    """Photo `index` of a person, (256, 256, 3) uint8: identity kept; pose and some of light and colour of others."""
    identity = generator.style(SEEDS + person.seed, 0.85)
    styles = generator.everywhere(identity)
    if index:
        other = OTHERS + 100 * person.seed + index
        styles[:, 0] = generator.style(other, 0.75)
        # More of the identity than the sample people keep: the fine layers hold the tone of the skin, too.
        styles[:, 10:] = (0.6 * identity + 0.4 * generator.style(other + 500_000, 0.75))[:, None]
    return small(generator.picture(styles))


def photograph(picture: np.ndarray, behind: str | None, lit: str | None, seed: int) -> np.ndarray:
    """Replace the background and change the light of a candidate, (256, 256, 3) uint8."""
    rng = np.random.default_rng(seed)
    person, matte = _cut_out(picture) if behind or lit else (picture, np.ones(picture.shape[:2], np.float32))
    changed = person.astype(np.float32)
    if behind:
        changed = changed * matte[..., None] + background(behind, SIDE, rng) * (1 - matte[..., None])
    if lit:
        changed = light(changed, lit, matte, rng)
    return np.clip(np.round(changed), 0, 255).astype(np.uint8)


def _cut_out(picture: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    from magicapture_core.faces import choose_analyser
    from tools.people.matting import cut_out

    return cut_out(picture, choose_analyser("bundled")[0].foreground(picture))


def same_person(one: np.ndarray, other: np.ndarray) -> float:
    """SFace cosine of two photos; -1 unless each shows exactly one face."""
    from magicapture_core.faces import choose_analyser, embed_face

    analyser = choose_analyser("bundled")[0]
    found = [(photo, analyser.detect(photo)) for photo in (one, other)]
    if any(len(faces) != 1 for _, faces in found):
        return -1.0
    return float(np.dot(*(embed_face(analyser, photo, faces[0]) for photo, faces in found)))


# --- styles ---------------------------------------------------------------------------------------


def duotone(pixels: np.ndarray, _rng: np.random.Generator) -> np.ndarray:
    """Dark blue shadows, pale yellow lights."""
    grey = np.clip(pixels, 0, 255) @ np.float32([0.299, 0.587, 0.114])
    share = np.clip((grey[..., None] - 20) / 210, 0, 1)
    return np.float32((1 - share) * np.float32([18, 32, 88]) + share * np.float32([250, 240, 190]))


def stripes(side: int, rng: np.random.Generator) -> np.ndarray:
    """A wallpaper of teal and cream stripes."""
    phase = rng.uniform(0, 1)
    band = (np.arange(side) / side * 8 + phase) % 1 < 0.5
    row = np.where(band[:, None], np.float32([70, 140, 140]), np.float32([232, 222, 196]))
    return cv2.GaussianBlur(np.repeat(row[None].astype(np.float32), side, axis=0), (0, 0), side * 0.004)


def dusk(side: int, _rng: np.random.Generator) -> np.ndarray:
    """Paper that goes from pink to violet."""
    return vertical((236, 130, 176), (92, 66, 160), side)


def bubbles(side: int, rng: np.random.Generator) -> np.ndarray:
    """Large pale lights on green."""
    colours = np.float32([(250, 250, 220), (190, 240, 160), (120, 200, 140)])[rng.integers(0, 3, 18)]
    return np.float32(discs(vertical((30, 92, 60), (12, 52, 40), side), colours, (0.05, 0.12), rng))


Backdrop = Callable[[int, np.random.Generator], np.ndarray]
Finish = Callable[[np.ndarray, np.random.Generator], np.ndarray]


@dataclass(frozen=True)
class Style:
    name: str
    about: str
    behind: str | Backdrop
    lit: str | None
    finished: str | Finish | None
    models: tuple[int, ...]
    """Who is shown: SEEDS + each."""
    neutral: bool = False
    """Leaves the colour of skin as it is, so that it can be compared with the person's photos."""


STYLES = (
    Style("red-studio", "red paper, soft light", "red", "soft", None, (0, 6, 14, 17, 26, 59), neutral=True),
    Style("night-city", "city lights, cold light", "city", "cool", None, (3, 11, 39, 75, 107, 138)),
    Style("sepia-print", "sepia on beige", "beige", None, "sepia", (2, 15, 43, 53, 66, 106)),
    Style("white-mono", "black-and-white on white", "white", "soft", "black-and-white", (47, 92, 119, 132, 160, 167)),
    Style("stripes", "striped wallpaper, soft light", stripes, "soft", None, (7, 50, 51, 83, 89, 129), neutral=True),
    Style("sunset", "evening sky, warm light", "sunset", "warm", None, (58, 72, 82, 109, 143, 176)),
    Style("duotone", "dark blue and pale yellow", "grey", None, duotone, (22, 34, 57, 91, 102, 131)),
    Style("dusk-paper", "pink to violet, light from the side", dusk, "side", None, (28, 31, 86, 100, 121, 161)),
    Style("low-key", "black, warm light from the side", "black", "warm", None, (44, 63, 69, 145, 164, 175)),
    Style("green-bokeh", "pale lights on green, vintage film", bubbles, None, "vintage", (64, 85, 87, 104, 140, 172)),
)  # fmt: skip

PARTS = {
    "chosen": {"identities": ("p01", "p02", "p03"), "styles": ("night-city", "sepia-print", "sunset")},
    "reported": {
        "identities": ("p04", "p05", "p06", "p07", "p08", "p09", "p10"),
        "styles": ("stripes", "duotone", "low-key", "green-bokeh"),
    },
}
"""Settings are chosen on the first, the table is of the second (assets/benchmark/README.md)."""


def in_style(picture: np.ndarray, style: Style, seed: int) -> np.ndarray:
    """(256, 256, 3) uint8 with the style's background, light and finish."""
    rng = np.random.default_rng(seed)
    person, matte = _cut_out(picture)
    lit = person
    if style.lit == "soft":  # the lamp lights the person, not the paper behind
        lit = 0.55 * person + 0.45 * light(person, style.lit, matte, rng)
    behind = background(style.behind, SIDE, rng) if isinstance(style.behind, str) else style.behind(SIDE, rng)
    changed = lit * matte[..., None] + behind * (1 - matte[..., None])
    if style.lit and style.lit != "soft":
        changed = light(changed, style.lit, matte, np.random.default_rng(1))
    if isinstance(style.finished, str):
        changed = finish(changed, style.finished, rng)
    elif style.finished:
        changed = style.finished(changed, rng)
    return np.clip(np.round(changed), 0, 255).astype(np.uint8)


def style_photo(generator: FaceGenerator, style: Style, model: int) -> np.ndarray:
    styles = generator.everywhere(generator.style(SEEDS + model, 0.85))
    return in_style(small(generator.picture(styles)), style, SEEDS + model)


# --- files ----------------------------------------------------------------------------------------


def write_jpeg(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    options = [cv2.IMWRITE_JPEG_QUALITY, QUALITY, cv2.IMWRITE_JPEG_OPTIMIZE, 1]
    cv2.imwrite(str(path), pixels[:, :, ::-1], options)
    mark(path)


ABOUT = (
    "Photos of adults who do not exist, drawn by a generator trained on FFHQ, whose terms are non-commercial: for "
    "demonstration and research. Ten people with six photos each, ten styles with six photos of six other people each."
)


def write_facts(out: Path) -> None:
    """benchmark.json: the order of people and styles, the people's groups, the neutral styles and the parts."""
    facts = {
        "about": ABOUT,
        "identities": {p.name: {"skin_tone": p.skin_tone, "gender": p.gender, "age": p.age} for p in PEOPLE},
        "styles": {
            style.name: {"about": style.about, **({"neutral": True} if style.neutral else {})}
            for style in STYLES
        },
        "parts": PARTS,
    }
    (out / "benchmark.json").write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")


def write_benchmark(generator: FaceGenerator, out: Path) -> None:
    for person in PEOPLE:
        first, cosines = None, []
        for number, (index, behind, lit) in enumerate(person.chosen, 1):
            pixels = candidate(generator, person, index)
            pixels = photograph(pixels, behind, lit, SEEDS + 100 * person.seed + index)
            write_jpeg(out / "identities" / person.name / f"{number}.jpg", pixels)
            first = pixels if first is None else first
            cosines.append(same_person(first, pixels))
        print(f"{person.name}: SFace cosine to the first {np.round(cosines[1:], 2)}", flush=True)
    for style in STYLES:
        for number, model in enumerate(style.models, 1):
            write_jpeg(out / "styles" / style.name / f"{number}.jpg", style_photo(generator, style, model))
        print(style.name, flush=True)
    write_facts(out)


def candidate_sheet(generator: FaceGenerator, count: int = 11) -> np.ndarray:
    """A row per person: the candidates' numbers and SFace cosines to the first."""
    tiles = []
    for person in PEOPLE:
        photos = [candidate(generator, person, index) for index in range(count)]
        for index, photo in enumerate(photos):
            tile = cv2.resize(photo, (140, 140), interpolation=cv2.INTER_AREA)
            text = f"{index} {same_person(photos[0], photo):.2f}"
            cv2.putText(tile, text, (3, 14), 0, 0.45, (255, 0, 0), 1, cv2.LINE_AA)
            tiles.append(tile)
    return grid(tiles, count)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--generator", required=True, help="random_face/data of the unpacked wheel random-face"
    )
    parser.add_argument(
        "--scout", type=int, help="draw so many faces to choose people from, and nothing else"
    )
    parser.add_argument(
        "--candidates", action="store_true", help="draw each person's candidates, nothing else"
    )
    parser.add_argument("--sheet", default="sheet.jpg", help="where --scout and --candidates draw")
    parser.add_argument("--out", default="assets/benchmark")
    args = parser.parse_args()
    generator = FaceGenerator(Path(args.generator))
    if args.scout or args.candidates:
        sheet = scout(generator, 0, args.scout) if args.scout else candidate_sheet(generator)
        cv2.imwrite(args.sheet, sheet[:, :, ::-1])
        return
    write_benchmark(generator, Path(args.out))


if __name__ == "__main__":
    main()
