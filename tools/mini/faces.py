"""Faces of people who do not exist, straight from seeds: the first stage.

The first of them are the manifest's people (where there is one) without those held out, made again from their seeds;
the others are new. New ones come in pairs: two pictures of one person, who differ in pose, hair, light and background.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tools.mini.clock import RunClock
from tools.mini.measure import read_manifest, read_rgb
from tools.mini.settings import SIDE, Settings
from tools.mini.store import save_array, save_arrays, write_text

if TYPE_CHECKING:
    import torch

    from tools.people.generator import FaceGenerator

PEOPLE, POSES, FINES = 50_000_000, 51_000_000, 52_000_000
"""First seeds of new people, of their poses and hair, of their light and background."""
STRANGERS = 59_000_000
"""First seed of those held out where no manifest says who is."""
NONE = -1
"""Instead of a seed that is not used."""
FINE_FROM = 10
"""First of the generator's places that take another seed's light and background, here and in the manifest."""
FINE_PSI = 0.8
"""Of the manifest's."""
FEWEST = 12
"""Made even where the time is over: without any nothing else can run."""
FACES, COUNT, READY, DRAWN, HELD_OUT = (
    "faces.npy",
    "faces.count",
    "faces.ready",
    "drawn.npz",
    "heldout.npy",
)


@dataclass(frozen=True, eq=False)
class Drawn:
    """What decides each face, and what is known of it beforehand: arrays (n,), a row a face."""

    seed: np.ndarray
    psi: np.ndarray
    pose_seed: np.ndarray
    """Whose pose, hair and head shape; NONE: the person's own."""
    pose_psi: np.ndarray
    fine_seed: np.ndarray
    """Whose light, colour and background; NONE: the person's own."""
    fine_psi: np.ndarray
    fine_share: np.ndarray
    """How much of the other's light and background is taken, 0..1."""
    age: np.ndarray
    """By the manifest, in years; NaN where nobody has said."""
    masculine: np.ndarray
    """By the manifest, 0..1; NaN where nobody has said."""

    def __len__(self) -> int:
        return len(self.seed)

    def partners(self) -> np.ndarray:
        """(n,) number of the other picture of the same person, or the own one where there is none."""
        own = np.arange(len(self))
        same = self.seed == np.roll(self.seed, -1)  # pairs stand beside each other
        same[-1:] = False
        first = own[same]
        own[first], own[first + 1] = first + 1, first.copy()
        return own

    @classmethod
    def read(cls, path: Path) -> Drawn:
        with np.load(path) as arrays:
            return cls(**arrays)


def of_manifest(rows: Sequence[dict[str, Any]]) -> Drawn:
    """The manifest's faces as they were made."""
    count = len(rows)
    fine = np.array([NONE if row["fine_seed"] is None else row["fine_seed"] for row in rows], np.int64)
    return Drawn(
        seed=np.array([row["seed"] for row in rows], np.int64),
        psi=np.array([row["psi"] for row in rows], np.float32),
        pose_seed=np.full(count, NONE),
        pose_psi=np.zeros(count, np.float32),
        fine_seed=fine,
        fine_psi=np.full(count, FINE_PSI, np.float32),
        fine_share=np.ones(count, np.float32),
        age=np.array([row["age"] for row in rows], np.float32),
        masculine=np.array([row["masculine"] for row in rows], np.float32),
    )


def new_faces(count: int, pairs: bool, seed: int = 0) -> Drawn:
    """`count` new faces. In pairs people differ more from the mean face: real people lie further from it, too."""
    rng, number = np.random.default_rng((20261126, seed)), np.arange(count)
    person = number // 2 if pairs else number
    psi = np.repeat(rng.uniform(0.6, 1.1, count), 2)[:count] if pairs else rng.uniform(0.55, 0.9, count)
    other_light = np.full(count, True) if pairs else rng.random(count) < 0.5
    return Drawn(
        seed=PEOPLE + person,
        psi=psi.astype(np.float32),
        pose_seed=POSES + number if pairs else np.full(count, NONE),
        pose_psi=rng.uniform(0.5, 0.95, count).astype(np.float32),
        fine_seed=np.where(other_light, FINES + number, NONE),
        fine_psi=(rng.uniform(0.6, 1.0, count) if pairs else np.full(count, FINE_PSI)).astype(np.float32),
        # the skin's colour is among the fine places, so a part of the person's own is kept
        fine_share=np.full(count, 0.6 if pairs else 1.0, np.float32),
        age=np.full(count, np.nan, np.float32),
        masculine=np.full(count, np.nan, np.float32),
    )


def draw_all(settings: Settings) -> Drawn:
    """The manifest's people, but for those held out, and new ones."""
    sizes = settings.sizes
    rows = read_manifest(settings.faces / "manifest.jsonl", settings.faces) if settings.faces else []
    known = of_manifest([row for row in rows if not row["held_out"]][: sizes.measured])
    new = new_faces(sizes.faces - len(known), settings.pairs, settings.seed)
    return Drawn(
        **{name: np.concatenate([value, getattr(new, name)]) for name, value in asdict(known).items()}
    )


def styles_of(generator: FaceGenerator, drawn: Drawn, numbers: np.ndarray) -> torch.Tensor:
    """Styles (b, places, 512) of the faces with these numbers."""
    import torch

    from tools.people.generator import POSE

    own = generator.style(drawn.seed[numbers].tolist(), drawn.psi[numbers].tolist())
    styles = generator.everywhere(own)
    posed = numbers[drawn.pose_seed[numbers] != NONE]
    if len(posed):
        at = torch.from_numpy(np.flatnonzero(drawn.pose_seed[numbers] != NONE)).to(own.device)
        pose = generator.style(drawn.pose_seed[posed].tolist(), drawn.pose_psi[posed].tolist())
        styles[at, POSE] = pose[:, None]
    lit = numbers[drawn.fine_seed[numbers] != NONE]
    if len(lit):
        at = torch.from_numpy(np.flatnonzero(drawn.fine_seed[numbers] != NONE)).to(own.device)
        fine = generator.style(drawn.fine_seed[lit].tolist(), drawn.fine_psi[lit].tolist())
        share = torch.from_numpy(drawn.fine_share[lit])[:, None].to(own)
        styles[at, FINE_FROM:] = torch.lerp(own[at], fine, share)[:, None]
    return styles


def made(generator: FaceGenerator, styles: torch.Tensor) -> np.ndarray:
    """Styles -> pictures (b, 256, 256, 3) uint8, made small by area on the generator's device."""
    import torch
    from torch.nn import functional as F

    from tools.people.generator import to_bytes

    with torch.no_grad():
        return to_bytes(F.interpolate(generator.pictures(styles).float(), size=(SIDE, SIDE), mode="area"))


def open_generator(settings: Settings) -> FaceGenerator:
    import torch

    from tools.mini.stage import half
    from tools.people.generator import FaceGenerator

    device = torch.device(settings.device)
    return FaceGenerator(settings.generator, device, half(device))


def prepare(settings: Settings) -> Drawn:
    """Write drawn.npz and an empty faces.npy, unless they are there."""
    work = settings.work
    if not (work / DRAWN).exists():
        drawn = draw_all(settings)
        np.lib.format.open_memmap(work / FACES, mode="w+", dtype=np.uint8, shape=(len(drawn), SIDE, SIDE, 3))
        write_text(work / COUNT, "0")
        save_arrays(work / DRAWN, **asdict(drawn))
    return Drawn.read(work / DRAWN)


def make_faces(
    settings: Settings, clock: RunClock, generator: FaceGenerator, drawn: Drawn, until: int
) -> int:
    """Fill faces.npy on, up to face number `until` or the end of the stage's time. Returns how many there are."""
    faces = np.load(settings.work / FACES, mmap_mode="r+")
    done, batch = int((settings.work / COUNT).read_text()), settings.sizes.face_batch
    while done < until and (clock.left("faces") > 0 or done < FEWEST):
        numbers = np.arange(done, min(done + batch, until))
        faces[numbers] = made(generator, styles_of(generator, drawn, numbers))
        done = int(numbers[-1]) + 1
        if done // batch % 20 == 0 or done == until:
            faces.flush()
            write_text(settings.work / COUNT, str(done))
    faces.flush()
    write_text(settings.work / COUNT, str(done))
    clock.say(f"{done} faces")
    return done


def hold_out(settings: Settings, generator: FaceGenerator) -> None:
    """Write heldout.npy, (n, 256, 256, 3) uint8: faces of no training, for the autoencoder's test."""
    path, count = settings.work / HELD_OUT, settings.sizes.held_out
    if path.exists():
        return
    if settings.faces:
        rows = read_manifest(settings.faces / "manifest.jsonl", settings.faces)
        held = [read_rgb(settings.faces / row["file"]) for row in rows if row["held_out"]][:count]
        if not held:
            raise SystemExit(
                f"{settings.faces} has none of the photos that its manifest holds out. Copy it whole."
            )
        pictures = np.stack(held)
    else:
        seeds = range(STRANGERS, STRANGERS + count)
        chunks = [
            list(seeds[at : at + settings.sizes.face_batch])
            for at in range(0, count, settings.sizes.face_batch)
        ]
        styles = (generator.everywhere(generator.style(chunk, [0.7] * len(chunk))) for chunk in chunks)
        pictures = np.concatenate([made(generator, each) for each in styles])
    save_array(path, pictures)
