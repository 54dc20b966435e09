"""Metrics of pictures, as functions of arrays. Axes: n pictures, m photos, dim of an embedding."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

THUMBNAIL = 32
"""Side in pixels at which pictures are compared for copying: layout and light, not noise."""


def csim_mean(generated: np.ndarray, photos: np.ndarray) -> float:
    """CSIM (paper, 4.1): cosine of a face (dim,) with the mean of the source photos' faces (m, dim). -1 to 1."""
    return cosine(generated, unit(photos).mean(axis=0))


def csim_best(generated: np.ndarray, photos: np.ndarray) -> float:
    """The highest cosine of a face (dim,) with any one of the source photos' faces (m, dim). -1 to 1."""
    return float((unit(photos) @ unit(generated)).max())


def style_similarity(generated: np.ndarray, references: np.ndarray) -> float:
    """Style (paper, 4.1): mean cosine of an image embedding (dim,) with the references' (m, dim), faces masked out
    in all of them. -1 to 1."""
    return float((unit(references) @ unit(generated)).mean())


def csim_single(generated: np.ndarray, photos: np.ndarray) -> float:
    """Mean cosine of a face (dim,) with each of several faces (m, dim). -1 to 1. It does not grow with their number, so
    one photo that was not trained on can be compared with."""
    return float((unit(photos) @ unit(generated)).mean())


def face_lab(pixels: np.ndarray, keep: np.ndarray) -> np.ndarray:
    """(3,) mean L* (0 to 100), a* and b* (about -100 to 100) of the faces of a picture (CIELAB, D65).

    pixels: (h, w, 3) uint8 RGB; keep: (h, w) bool, False in at least one face.
    """
    import cv2

    lab = cv2.cvtColor(np.ascontiguousarray(pixels[~keep])[None].astype(np.float32) / 255, cv2.COLOR_RGB2LAB)
    return np.asarray(lab[0].mean(axis=0))


def colour_distance(generated: np.ndarray, references: np.ndarray) -> float:
    """Distance of a face's colour (c,) from the mean of the references' faces (m, c): 0 and up; 2 can be seen.

    With a* and b*, against the style's faces: whether the style has reached the face, which Style leaves out (people
    differ more in lightness than styles do). With L*, a* and b*, against the subject's photos: whether the skin keeps
    its colour.
    """
    return float(np.linalg.norm(generated - references.mean(axis=0)))


def diversity(embeddings: np.ndarray) -> float:
    """Mean pairwise cosine distance of pictures (n, dim) of one cell: 0 where all are the same; NaN below two."""
    if len(embeddings) < 2:
        return float("nan")
    cosines = unit(embeddings) @ unit(embeddings).T
    return float(1 - cosines[~np.eye(len(cosines), dtype=bool)].mean())


def copying(picture: np.ndarray, photos: Sequence[np.ndarray]) -> float:
    """Likeness of a picture to the nearest training photo or its mirror image; 1 is a copy.

    All (h, w, 3) uint8, any sizes. Correlation of their grey values at 32×32 pixels, so -1 to 1, whatever the
    brightness and contrast. Needs no network; what two unrelated portraits reach is shown beside it in the tables.
    """
    own = _thumbnail(picture)
    both = (view for photo in photos for view in (photo, photo[:, ::-1]))
    return max(float(own @ _thumbnail(view)) for view in both)


def left_out(vectors: np.ndarray, measure: Callable[[np.ndarray, np.ndarray], float]) -> list[float]:
    """A measure of each of several photos (m, dim) against the others; nothing where there is but one."""
    if len(vectors) < 2:
        return []
    return [measure(vector, np.delete(vectors, n, axis=0)) for n, vector in enumerate(vectors)]


def unit(vectors: np.ndarray) -> np.ndarray:
    """(…, dim) scaled to length 1 along the last axis; zeros stay zeros."""
    length = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return vectors / np.where(length == 0, 1, length)


def cosine(one: np.ndarray, other: np.ndarray) -> float:
    """Cosine of two vectors (dim,)."""
    return float(unit(one) @ unit(other))


def _thumbnail(pixels: np.ndarray) -> np.ndarray:
    """(h, w, 3) uint8 → (32·32,) of mean 0 and length 1."""
    import cv2

    grey = cv2.cvtColor(np.ascontiguousarray(pixels), cv2.COLOR_RGB2GRAY).astype(np.float32)
    small = cv2.resize(grey, (THUMBNAIL, THUMBNAIL), interpolation=cv2.INTER_AREA).ravel()
    return unit(small - small.mean())


# --- intervals ------------------------------------------------------------------------------------

Cell = tuple[str, str]
"""Identity and style."""


@dataclass(frozen=True)
class Estimate:
    """A mean over cells, with the interval that 95 of 100 resampled benchmarks fall into."""

    mean: float
    low: float
    """NaN, as `high`, where there is one person or one style only: no interval can be computed."""
    high: float
    cells: int
    """How many cells have a value. With few identities or styles the interval is itself a rough one."""

    @property
    def known(self) -> bool:
        """Whether there is an interval."""
        return bool(np.isfinite(self.low))


def estimate(values: Mapping[Cell, float], *, draws: int = 2000, seed: int = 0) -> Estimate:
    """Bootstrap over identities and styles: both are drawn anew with replacement, and a cell counts as often as
    both were drawn (a crossed, or pigeonhole, bootstrap; Owen 2007). Cells that are NaN are left out.

    It is wider than one over pictures, and rightly so: the question is how another choice of people and styles
    would come out. No interval with a single person or style; NaN all through where no cell has a value.
    """
    cells = {cell: value for cell, value in values.items() if np.isfinite(value)}
    if not cells:
        return Estimate(float("nan"), float("nan"), float("nan"), 0)
    identities = sorted({identity for identity, _ in cells})
    styles = sorted({style for _, style in cells})
    table = np.full((len(identities), len(styles)), np.nan)
    for (identity, style), value in cells.items():
        table[identities.index(identity), styles.index(style)] = value
    low = high = float("nan")
    if min(table.shape) > 1:
        low, high = np.quantile(_resampled(table, np.random.default_rng(seed), draws), [0.025, 0.975])
    return Estimate(float(np.nanmean(table)), float(low), float(high), len(cells))


def difference(ours: Mapping[Cell, float], theirs: Mapping[Cell, float]) -> Estimate:
    """Mean of ours minus theirs over the cells that both have, with its interval: the cells are paired."""
    return estimate({cell: ours[cell] - theirs[cell] for cell in ours if cell in theirs})


def _resampled(table: np.ndarray, rng: np.random.Generator, draws: int) -> np.ndarray:
    """(identities, styles) → (draws,) weighted means; a draw that holds no value at all is left out."""
    rows, columns = table.shape
    known, filled = np.isfinite(table), np.nan_to_num(table)
    by_identity = rng.multinomial(rows, np.full(rows, 1 / rows), size=draws).astype(float)
    by_style = rng.multinomial(columns, np.full(columns, 1 / columns), size=draws).astype(float)
    total = np.einsum("di,ij,dj->d", by_identity, filled, by_style)
    weight = np.einsum("di,ij,dj->d", by_identity, known.astype(float), by_style)
    return total[weight > 0] / weight[weight > 0]


def mean_of(values: Sequence[float | None]) -> float:
    """Mean of the values that are neither None nor NaN; NaN if there are none."""
    here = [value for value in values if value is not None and np.isfinite(value)]
    return float(np.mean(here)) if here else float("nan")
