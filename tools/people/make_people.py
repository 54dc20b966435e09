"""Make the sample subjects: six photos of each of four adults who do not exist.

python -m tools.people.make_people --generator GENERATOR [--candidates SHEET.png] [--out assets/people]

No face that a network of this project was trained on: the mini model's seeds begin at 0, 20 000 000 and 30 000 000, the
benchmark's at 40 000 000, the upscaler's at 62 000 000. Needs PyMatting.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from tools.mark import mark
from tools.mini.variants import background, light
from tools.people.generator import FaceGenerator
from tools.people.matting import cut_out

SIDE, QUALITY = 512, 88
SEEDS = 60_000_000
OTHERS = 61_000_000
"""Of the draws that change a person's pose, hair, light and background."""
SAME_PERSON = 0.5
"""Least SFace cosine to the person's first photo."""


@dataclass(frozen=True)
class Person:
    name: str
    seed: int
    """Identity: SEEDS + seed."""
    psi: float
    kept: float
    """Share of the person's own style in the fine layers, which hold the tone of the skin, too."""
    chosen: tuple[tuple[int, str | None, str | None], ...]
    """(candidate, background or None for its own, light or None): the photos, looked at and chosen."""


PEOPLE = (
    Person("alma", 707, 0.85, 0.6, (
        (11, None, None), (1, None, None), (27, "outdoor", None), (23, "light blue", None), (24, None, "warm"),
        (21, None, None),
    )),
    Person("bruno", 159, 0.85, 0.7, (
        (19, None, None), (12, "grey", None), (17, None, None), (9, "outdoor", None), (11, "beige", None),
        (18, None, "warm"),
    )),
    Person("conrad", 148, 0.8, 0.6, (
        (21, None, None), (7, "outdoor", None), (15, None, None), (22, "light blue", None), (19, "beige", None),
        (20, None, "warm"),
    )),
    Person("dana", 236, 0.8, 0.5, (
        (27, None, None), (4, "outdoor", None), (9, None, None), (25, "beige", None), (22, None, None),
        (2, None, "warm"),
    )),
)  # fmt: skip


def candidate(generator: FaceGenerator, person: Person, index: int) -> np.ndarray:
    """Photo `index` of a person, (512, 512, 3) uint8 RGB: identity kept, everything else of other draws."""
    identity = generator.style(SEEDS + person.seed, person.psi)
    if index == 0:
        styles = generator.everywhere(identity)
    else:
        base = OTHERS + 100 * person.seed + index
        styles = generator.everywhere(identity)
        styles[:, 0] = generator.style(base, 0.75)
        other = generator.style(base + 500_000, 0.75)
        styles[:, 10:] = (person.kept * identity + (1 - person.kept) * other)[:, None]
    return cv2.resize(generator.picture(styles), (SIDE, SIDE), interpolation=cv2.INTER_AREA)


def photograph(picture: np.ndarray, behind: str | None, lit: str | None, seed: int) -> np.ndarray:
    """Replace the background and change the light of a candidate, (512, 512, 3) uint8 RGB."""
    from magicapture_core.faces import choose_analyser

    if not behind and not lit:
        return picture
    rng = np.random.default_rng(seed)
    analyser, _ = choose_analyser("bundled")
    person, matte = cut_out(picture, analyser.foreground(picture))
    changed = picture.astype(np.float32)
    if behind:
        changed = person * matte[..., None] + background(behind, SIDE, rng) * (1 - matte[..., None])
    if lit:
        changed = light(changed, lit, matte, rng)
    return np.clip(np.round(changed), 0, 255).astype(np.uint8)


def write_jpeg(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(
        str(path), pixels[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, QUALITY, cv2.IMWRITE_JPEG_OPTIMIZE, 1]
    )
    mark(path)


def embedding(pixels: np.ndarray) -> np.ndarray | None:
    """SFace embedding (128,) of the only face, None where there is not exactly one."""
    from magicapture_core.faces import choose_analyser, embed_face

    analyser, _ = choose_analyser("bundled")
    faces = analyser.detect(pixels)
    return embed_face(analyser, pixels, faces[0]) if len(faces) == 1 else None


def sheet_of(generator: FaceGenerator, people: tuple[Person, ...], count: int) -> np.ndarray:
    """A row per person with the candidates' numbers and cosines to the first, for choosing by eye."""
    rows = []
    for person in people:
        first, row = None, []
        for index in range(count):
            pixels = candidate(generator, person, index)
            found = embedding(pixels)
            first = found if first is None else first
            cosine = float(found @ first) if found is not None and first is not None else -1.0
            small = cv2.resize(pixels, (150, 150), interpolation=cv2.INTER_AREA)
            cv2.putText(small, f"{index} {cosine:.2f}", (4, 16), 0, 0.55, (255, 0, 0), 2)
            row.append(small)
        rows.append(np.hstack(row))
    return np.vstack(rows)


def write_people(generator: FaceGenerator, out: Path) -> None:
    for person in PEOPLE:
        embeddings = []
        for number, (index, behind, lit) in enumerate(person.chosen, 1):
            pixels = photograph(candidate(generator, person, index), behind, lit, 100 * person.seed + index)
            write_jpeg(out / person.name / f"{number}.jpg", pixels)
            found = embedding(pixels)
            if found is None:
                raise SystemExit(f"{person.name}, photo {number}: expected exactly one face")
            embeddings.append(found)
        mean = np.mean(embeddings, axis=0)
        cosines = np.stack(embeddings) @ (mean / np.linalg.norm(mean))
        print(f"{person.name}: SFace cosine to their mean {np.round(cosines, 2)}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--generator", required=True, help="random_face/data of the unpacked PyPI wheel random-face"
    )
    parser.add_argument("--candidates", help="write a sheet to choose from here, and nothing else")
    parser.add_argument("--out", default="assets/people")
    args = parser.parse_args()
    generator = FaceGenerator(Path(args.generator))
    if args.candidates:
        cv2.imwrite(args.candidates, sheet_of(generator, PEOPLE, 28)[:, :, ::-1])
        return
    write_people(generator, Path(args.out))


if __name__ == "__main__":
    main()
