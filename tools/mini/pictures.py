"""The training pictures: variants of the faces with their captions, made on all CPU cores.

Also the process that makes all data, from seeds to captions, beside the one that trains.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from tools.mini import captions, variants
from tools.mini.clock import RunClock
from tools.mini.faces import FACES, READY
from tools.mini.measure import cheek_tone, clothing, expression, hair
from tools.mini.settings import SIDE, Settings
from tools.mini.store import save_array, write_text

PICTURES, CAPTIONS, OWNERS, DONE, PICTURES_READY = (
    "pictures.npy",
    "captions.npy",
    "owners.npy",
    "pictures-done.npy",
    "pictures.ready",
)
TURNED = 0.5
"""Share of pictures that are turned, moved and scaled."""
SMILING, NEUTRAL = 0.5, 0.1
"""From which smile on, and up to which, the labeller's word is taken."""
LEAST = 20.0
"""Seconds that this stage gets however late it is."""
WORDS = 77
"""Tokens of a caption."""
TONES = (-30.0, 10.0, 28.0, 41.0, 55.0)
"""Between the groups of skin tones, in degrees of ITA: dark, brown, tan, intermediate, light, very light."""
OFTENEST = 4
"""How often one face may be used, where its group is small."""

_shared: dict[str, Any] = {}


def _open(work: Path) -> dict[str, Any]:
    """What a worker reads and writes."""
    if not _shared:
        with np.load(work / "labels.npz") as labels:
            _shared.update({name: labels[name] for name in labels if name not in ("people", "spoiled")})
        _shared["faces"] = np.load(work / FACES, mmap_mode="r")
        _shared["masks"] = np.load(work / "labels-masks.npy", mmap_mode="r")
        _shared["pictures"] = np.load(work / PICTURES, mmap_mode="r+")
        cv2.setNumThreads(1)
    return _shared


def row_of(labels: dict[str, Any], number: int, pixels: np.ndarray, mask: np.ndarray) -> dict[str, Any]:
    """What variants.py wants to know of a face; mask (h, w) 0..1."""
    row: dict[str, Any] = {
        name: labels[name][number].tolist() for name in ("landmarks", "box", "age", "masculine")
    }
    row["hair"], row["clothes"] = hair(pixels, mask, row), clothing(pixels, mask)
    row["expression"] = expression(labels["smile"][number], labels["jaw"][number], SMILING, NEUTRAL)
    return row


def picture_of(
    pixels: np.ndarray, mask: np.ndarray, row: dict[str, Any], turn: bool, rng: np.random.Generator
) -> tuple[np.ndarray, dict[str, str]]:
    """One variant (256, 256, 3) uint8 and what captions may say of it; mask (256, 256) uint8."""
    scale = None
    if turn and rng.random() < TURNED:
        pixels, mask, row, scale = variants.turned(pixels, mask, row, rng)
    attributes = variants.attributes_of(row, mask, rng)
    if scale is not None:
        attributes.pop("framing", None)  # it is framed already
    picture = variants.variant(pixels, mask, row, attributes, rng, framed=scale is not None)
    if scale is not None and (framing := variants.framing_of(scale)):
        attributes["framing"] = framing
    return picture, variants.words_of(attributes)


def _variants_of(task: tuple[Settings, int, int, float]) -> tuple[int, list[list[str]] | None]:
    """Make the pictures of a face and return their captions; None if the time is over.

    task: settings, the face's place among those used, its number among all, the deadline.
    """
    settings, place, number, deadline = task
    if time.time() > deadline:
        return place, None
    shared, sizes = _open(settings.work), settings.sizes
    pixels = np.ascontiguousarray(shared["faces"][number])
    mask = cv2.resize(shared["masks"][number], (SIDE, SIDE), interpolation=cv2.INTER_CUBIC)
    row = row_of(shared, number, pixels, mask.astype(np.float32) / 255)
    beside, texts = captions.BESIDE_MARK if settings.nouns else captions.SELDOM_BESIDE_MARK, []
    for copy in range(sizes.pictures_per_face):
        rng = np.random.default_rng((settings.seed, number, place, copy))  # a face may have several places
        picture, words = picture_of(pixels, mask, row, settings.turned, rng)
        shared["pictures"][place * sizes.pictures_per_face + copy] = picture
        texts.append([captions.caption(words, rng, beside) for _ in range(sizes.captions)])
    return place, texts


def balanced(numbers: np.ndarray, tones: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """At most `count` of the faces `numbers` (n,), in random order, so that groups of skin tones are alike in size.

    The generator seldom draws dark skin, and a model that seldom sees it makes everybody light. tones: (n,) degrees of
    ITA. A face of a small group stands in up to OFTENEST times; what a group cannot give, the others do.
    """
    group_of = np.digitize(tones, TONES)
    stocks = []
    for group in np.unique(group_of):
        members = numbers[group_of == group]
        stocks.append(np.concatenate([rng.permutation(members) for _ in range(OFTENEST)]))
    chosen, left = [], min(count, len(numbers))
    for place, stock in enumerate(sorted(stocks, key=len)):
        share = min(len(stock), left // (len(stocks) - place))
        chosen.append(stock[:share])
        left -= share
    return rng.permutation(np.concatenate(chosen))


def prepare(settings: Settings) -> np.ndarray:
    """Empty arrays for the pictures, unless they are there; returns owners.npy, (faces,) number of each used face.

    In random order, so that wherever the time cuts it off, all kinds of faces are among them alike.
    """
    work, sizes = settings.work, settings.sizes
    if not (work / OWNERS).exists():
        with np.load(work / "labels.npz") as labels:
            usable, landmarks = np.flatnonzero(labels["usable"]), labels["landmarks"]
        faces = np.load(work / FACES, mmap_mode="r")
        tones = np.array([cheek_tone(faces[number], landmarks[number]) for number in usable])
        owners = balanced(usable, tones, sizes.faces_with_pictures, np.random.default_rng(settings.seed))
        count = len(owners) * sizes.pictures_per_face
        shapes = {PICTURES: (np.uint8, (count, SIDE, SIDE, 3)), CAPTIONS: (np.int16, (count, sizes.captions, WORDS)),
                  DONE: (bool, (len(owners),))}  # fmt: skip
        for name, (kind, shape) in shapes.items():
            np.lib.format.open_memmap(work / name, mode="w+", dtype=kind, shape=shape)
        save_array(work / OWNERS, owners)
    return np.load(work / OWNERS)


def make_pictures(settings: Settings, clock: RunClock) -> None:
    """Fill pictures.npy and captions.npy (token ids) until all are made or the stage's time is over."""
    from transformers import CLIPTokenizer

    from tools.mini import measuring

    work, sizes = settings.work, settings.sizes
    owners = prepare(settings)
    ids, done = np.load(work / CAPTIONS, mmap_mode="r+"), np.load(work / DONE, mmap_mode="r+")
    tokenizer = CLIPTokenizer.from_pretrained(settings.tokenizer)
    deadline = max(clock.deadline("pictures"), time.time() + LEAST)
    tasks = [(settings, int(place), int(owners[place]), deadline) for place in np.flatnonzero(~done)]
    with measuring.pool(settings) as pool:
        for place, texts in pool.imap_unordered(_variants_of, tasks, chunksize=8):
            if texts is None:
                continue
            flat = [text for each in texts for text in each]
            tokens = tokenizer(flat, padding="max_length", truncation=True, return_tensors="np").input_ids
            first = place * sizes.pictures_per_face
            ids[first : first + len(texts)] = tokens.reshape(len(texts), sizes.captions, -1)
            done[place] = True
    ids.flush()
    done.flush()
    write_text(work / PICTURES_READY, str(int(done.sum()) * sizes.pictures_per_face))
    clock.say(f"{done.sum() * sizes.pictures_per_face} pictures of {done.sum()} faces")


def make_data(settings: Settings, clock: RunClock) -> None:
    """Faces, measurements, labels, pictures; each goes on from what lies in the work folder."""
    from tools.mini import faces, labels, stage
    from tools.mini.measuring import Measuring

    work = settings.work
    if (work / PICTURES_READY).exists():
        return
    drawn = faces.prepare(settings)
    measured = min(settings.sizes.measured, len(drawn))
    if (work / READY).exists():
        measuring = Measuring(settings, clock, min(measured, int((work / READY).read_text())))
    else:
        generator = faces.open_generator(settings)
        faces.hold_out(settings, generator)
        measuring = Measuring(settings, clock, faces.make_faces(settings, clock, generator, drawn, measured))
        write_text(work / READY, str(faces.make_faces(settings, clock, generator, drawn, len(drawn))))
        del generator
        stage.free_memory()
    measuring.finish()
    labels.make_labels(settings, clock, drawn, int((work / READY).read_text()))
    make_pictures(settings, clock)
