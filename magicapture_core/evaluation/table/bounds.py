"""Reference values for the table: the scores that real photos reach."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from magicapture_core.evaluation import metrics
from magicapture_core.evaluation.benchmark import Benchmark
from magicapture_core.evaluation.judges import Judges
from magicapture_core.evaluation.metrics import Cell
from magicapture_core.evaluation.scoring import People, see_photos
from magicapture_core.photos import read_photo

Folders = Mapping[str, People]
"""By name of the person or style."""
Part = Callable[[People], np.ndarray]
"""What is compared of a folder's photos."""


def bounds(benchmark: Benchmark, judges: Judges, pairs: Sequence[Cell]) -> dict[str, dict[str, float]]:
    """Scores of each photo against the others of its folder, and against photos of other folders.

    pairs: (person, style) that have cells. A folder counts as often as it is in one, as it does in the means of the
    methods; photos of others are those of the other people, and styles, in `pairs`.
    """

    def look(photos: Mapping[str, tuple[Path, ...]], names: Iterable[str]) -> Folders:
        return {
            name: see_photos((read_photo(path).pixels for path in photos[name]), judges)
            for name in dict.fromkeys(names)
        }

    persons, kinds = [person for person, _ in pairs], [style for _, style in pairs]
    bare = [person for person, style in pairs if style in benchmark.neutral]  # `skin` is measured there alone
    people, styles = look(benchmark.identities, persons), look(benchmark.styles, kinds)
    compared: dict[str, tuple[Folders, list[str], Part, Any]] = {
        "csim": (people, persons, _vectors, metrics.csim_mean),
        "csim_best": (people, persons, _vectors, metrics.csim_best),
        "csim_held_out": (people, persons, _vectors, metrics.csim_single),
        "style": (styles, kinds, lambda one: one.embeddings, metrics.style_similarity),
        "face_colour": (styles, kinds, lambda one: one.colours, metrics.colour_distance),
        "skin": (people, bare, lambda one: one.skins, metrics.colour_distance),
    }
    own = {name: _left_out(*what) for name, what in compared.items()}
    others = {name: _across(*what) for name, what in compared.items()}
    own["copying"] = _copying(people, styles, pairs, own=True)
    others["copying"] = _copying(people, styles, pairs, own=False)
    others["drift"] = others["csim"]
    return {"the photos themselves, each left out": own, "photos of other people, other styles": others}


def _vectors(one: People) -> np.ndarray:
    return one.vectors


def _copying(people: Folders, styles: Folders, pairs: Sequence[Cell], *, own: bool) -> float:
    """What photos of the style (or of others) reach among those of a style and of a person: as many as a cell's
    pictures are held against."""
    return metrics.mean_of(
        [
            metrics.copying(photo, [*others, *people[person].photos])
            for person, style in pairs
            for name, ours in styles.items()
            if (name == style) is own
            for photo in ours.photos
            if (others := [other for other in styles[style].photos if other is not photo])
        ]
    )


def _left_out(folders: Folders, names: Sequence[str], part: Part, measure: Any) -> float:
    return metrics.mean_of(
        [value for name in names for value in metrics.left_out(part(folders[name]), measure)]
    )


def _across(folders: Folders, names: Sequence[str], part: Part, measure: Any) -> float:
    return metrics.mean_of(
        [
            measure(vector, theirs)
            for name in names
            if len(theirs := part(folders[name]))
            for other, ours in folders.items()
            if other != name
            for vector in part(ours)
        ]
    )
