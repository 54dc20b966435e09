"""Reference values for the table: the scores that real photos reach."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from magicapture_core.evaluation import metrics
from magicapture_core.evaluation.benchmark import Benchmark
from magicapture_core.evaluation.judges import Judges
from magicapture_core.evaluation.scoring import People, see_photos
from magicapture_core.photos import read_photo


def bounds(benchmark: Benchmark, judges: Judges) -> dict[str, dict[str, float]]:
    """Scores of each photo against the others of its folder, and against photos of other folders."""

    def look(folders: Mapping[str, tuple[Path, ...]]) -> list[People]:
        return [see_photos((read_photo(path).pixels for path in paths), judges) for paths in folders.values()]

    people, styles = look(benchmark.identities), look(benchmark.styles)
    own = {
        "csim": _left_out([one.vectors for one in people], metrics.csim_mean),
        "csim_best": _left_out([one.vectors for one in people], metrics.csim_best),
        "csim_held_out": _left_out([one.vectors for one in people], metrics.csim_single),
        "style": _left_out([one.embeddings for one in styles], metrics.style_similarity),
        "face_colour": _left_out([one.colours for one in styles], metrics.colour_distance),
        "skin": _left_out([one.skins for one in people], metrics.colour_distance),
        "copying": _copying(people, styles, lambda n, m: n == m),
    }
    others = {
        "csim": _across([one.vectors for one in people], metrics.csim_mean),
        "csim_best": _across([one.vectors for one in people], metrics.csim_best),
        "csim_held_out": _across([one.vectors for one in people], metrics.csim_single),
        "drift": _across([one.vectors for one in people], metrics.csim_mean),
        "style": _across([one.embeddings for one in styles], metrics.style_similarity),
        "face_colour": _across([one.colours for one in styles], metrics.colour_distance),
        "skin": _across([one.skins for one in people], metrics.colour_distance),
        "copying": _copying(people, styles, lambda n, m: n != m),
    }
    return {"the photos themselves, each left out": own, "photos of other people, other styles": others}


def _copying(people: list[People], styles: list[People], counts: Callable[[int, int], bool]) -> float:
    """What a style's photos reach among those of a style and of a person: as many as a cell's pictures are held
    against."""
    return metrics.mean_of(
        [
            metrics.copying(photo, [*others, *people[n % len(people)].photos])
            for n, ours in enumerate(styles)
            for m, theirs in enumerate(styles)
            if counts(n, m)
            for photo in ours.photos
            if (others := [other for other in theirs.photos if other is not photo])
        ]
    )


def _left_out(folders: list[np.ndarray], measure: Any) -> float:
    return metrics.mean_of(
        [
            measure(vectors[n], np.delete(vectors, n, axis=0))
            for vectors in folders
            if len(vectors) > 1
            for n in range(len(vectors))
        ]
    )


def _across(folders: list[np.ndarray], measure: Any) -> float:
    return metrics.mean_of(
        [
            measure(vector, theirs)
            for n, ours in enumerate(folders)
            for m, theirs in enumerate(folders)
            if n != m and len(theirs)
            for vector in ours
        ]
    )
