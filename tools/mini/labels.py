"""What is known of every face: mask, points, box, age, gender, expression, and what a face recognition sees in it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from magicapture_core.faces import FaceEmbedder, align
from magicapture_core.faces.sface import load_sface
from tools.mini import stage
from tools.mini.clock import RunClock
from tools.mini.faces import FACES, Drawn
from tools.mini.labeller import CHUNK, Labeller, label, small, taught
from tools.mini.measuring import AGE, BOX, JAW, MASCULINE, MASK_SIDE, MEASURED, NUMBERS, POINTS, SMILE
from tools.mini.settings import Settings
from tools.mini.store import save_array, save_arrays

LABELS, MASKS = "labels.npz", "labels-masks.npy"
YOUNGEST = 23.0
"""Years: no pictures are made of faces that look younger. Says nothing where no manifest gave ages to learn from."""
ALIKE = 0.35
"""Cosine of face embeddings from which on two faces of one seed count as one person's."""


@dataclass(frozen=True, eq=False)
class Labels:
    """Arrays with a row for each face."""

    landmarks: np.ndarray
    """(n, 5, 2) pixels."""
    box: np.ndarray
    """(n, 4) xyxy in pixels, from the hairline to the chin."""
    age: np.ndarray
    """(n,) years; NaN where nobody can tell."""
    masculine: np.ndarray
    """(n,) 0..1; NaN where nobody can tell."""
    smile: np.ndarray
    jaw: np.ndarray
    usable: np.ndarray
    """(n,) whether pictures may be made of it."""
    people: np.ndarray
    """(n, 128) face embeddings of unit length."""
    spoiled: np.ndarray
    """(n, 128) of the other picture of the same person, where there is one, as it looks in a bad photo."""

    @classmethod
    def read(cls, path: Path) -> Labels:
        with np.load(path) as arrays:
            return cls(**arrays)


def to_tensor(faces: np.ndarray, device: torch.device) -> Tensor:
    """(b, h, w, 3) uint8 -> (b, 3, h, w) float32 in [0, 1]."""
    return torch.from_numpy(np.array(faces)).to(device).permute(0, 3, 1, 2).float().div(255)


def spoil(crops: Tensor, draws: torch.Generator) -> Tensor:
    """Aligned crops (b, 3, h, w) in [0, 1] as a bad photo has them: small, of another light and colour, the same size.

    One picture size for the whole batch, between a quarter of the crop's and all of it.
    """
    count, device, side = len(crops), crops.device, crops.shape[-1]
    coarse = side // 4 + int(torch.randint(side - side // 4, (), generator=draws, device=device))
    rough = F.interpolate(crops, size=(coarse, coarse), mode="area")
    rough = F.interpolate(rough, size=(side, side), mode="bilinear")
    gain = 0.6 + 0.8 * torch.rand(count, 1, 1, 1, generator=draws, device=device)
    tint = 1 + 0.3 * (torch.rand(count, 3, 1, 1, generator=draws, device=device) - 0.5)
    lift = 0.1 * torch.randn(count, 1, 1, 1, generator=draws, device=device)
    return (rough * gain * tint + lift).clamp(0, 1)


@torch.no_grad()
def embed(
    embedder: FaceEmbedder,
    faces: np.ndarray,
    landmarks: np.ndarray,
    which: np.ndarray,
    seed: int | None = None,
) -> np.ndarray:
    """Face embeddings (n, 128) of the faces numbered `which`; of spoiled copies, their points moved, with a seed."""
    device, found = next(embedder.parameters()).device, []
    for at in range(0, len(which), CHUNK):
        numbers = which[at : at + CHUNK]
        points = torch.from_numpy(landmarks[numbers]).to(device)
        pictures = to_tensor(faces[numbers], device)
        if seed is None:
            crops = align(pictures, points, embedder.size)
        else:
            draws = stage.draws(device, seed, at)
            points = points + torch.randn(points.shape, generator=draws, device=device)
            crops = spoil(align(pictures, points, embedder.size), draws)
        found.append(embedder(crops).cpu().numpy())
    return np.concatenate(found)


def label_all(
    labeller: Labeller, faces: np.ndarray, drawn: Drawn, measured: dict[str, np.ndarray], device: torch.device
) -> tuple[np.ndarray, np.ndarray]:
    """The 18 numbers (n, 18) and masks (n, 128, 128) uint8 of all faces: as measured, else as the labeller says."""
    numbers = np.empty((len(faces), NUMBERS), np.float32)
    masks = np.empty((len(faces), MASK_SIDE, MASK_SIDE), np.uint8)
    for at in range(0, len(faces), CHUNK):
        some = slice(at, at + CHUNK)
        soft, told = label(labeller, small(faces[some], device))
        numbers[some], masks[some] = told.cpu().numpy(), (soft * 255).round().byte().cpu().numpy()
    known = drawn.age[: len(faces)], drawn.masculine[: len(faces)]
    for place, values in zip((AGE, MASCULINE), known, strict=True):
        untaught = np.isnan(values).all()
        numbers[:, place] = np.nan if untaught else np.where(np.isnan(values), numbers[:, place], values)
    first = measured["numbers"]
    numbers[: len(first)] = np.where(np.isnan(first), numbers[: len(first)], first)
    seen = np.flatnonzero(~np.isnan(first[:, 0]))
    masks[seen] = measured["masks"][seen]
    return numbers, masks


def partners(drawn: Drawn, people: np.ndarray) -> np.ndarray:
    """(n,) the other picture of each person; the own one where there is none, or where it does not look alike."""
    own = np.arange(len(people))
    other = drawn.partners()[: len(people)]
    other = np.where(other < len(people), other, own)  # the last one's other picture may not have been made
    return np.where((people * people[other]).sum(1) >= ALIKE, other, own)


def make_labels(settings: Settings, clock: RunClock, drawn: Drawn, count: int) -> None:
    """Write labels.npz and the masks of the first `count` faces, unless they are there."""
    path, device = settings.work / LABELS, torch.device(settings.device)
    if path.exists():
        return
    faces = np.load(settings.work / FACES, mmap_mode="r")[:count]
    with np.load(settings.work / MEASURED) as arrays:
        measured = dict(arrays)
    numbers, masks = label_all(taught(settings, clock, drawn), faces, drawn, measured, device)
    landmarks = numbers[:, POINTS].reshape(-1, 5, 2)
    embedder = load_sface().to(device)
    people = embed(embedder, faces, landmarks, np.arange(count))
    other = partners(drawn, people) if settings.pairs else np.arange(count)
    spoiled = embed(embedder, faces, landmarks, other, seed=settings.seed)
    usable = ~(numbers[:, AGE] < YOUNGEST)
    unseen = measured["looked"] & np.isnan(measured["numbers"][:, 0])
    usable[: len(unseen)] &= ~unseen
    save_array(settings.work / MASKS, masks)
    labels = Labels(
        landmarks, numbers[:, BOX], numbers[:, AGE], numbers[:, MASCULINE], numbers[:, SMILE], numbers[:, JAW],
        usable, people, spoiled,
    )  # fmt: skip
    save_arrays(path, **asdict(labels))
    same = (other != np.arange(count)).mean()
    clock.say(
        f"labels: {usable.mean():.0%} of {count} faces may be used, {same:.0%} have another picture that is alike; "
        f"cosine of a face and what its word is made of {(people * spoiled).sum(1).mean():.2f}"
    )
