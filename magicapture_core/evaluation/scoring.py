"""The scores of one picture: against the subject's photos, the style's photos, and what was asked for."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from magicapture_core.evaluation import metrics
from magicapture_core.evaluation.edits import EDITS, text_similarity
from magicapture_core.evaluation.judges import Judges, Seen


@dataclass(frozen=True, eq=False)
class People:
    """What the scoring networks find in a folder of photos."""

    photos: tuple[np.ndarray, ...]
    vectors: np.ndarray
    """(m, dim) embeddings of the faces that were found."""
    embeddings: np.ndarray
    """(n, dim) style vectors of all photos, without their faces."""
    skins: np.ndarray
    """(m, 3) mean CIELAB colours of the faces that were found."""

    @property
    def colours(self) -> np.ndarray:
        """(m, 2) the same colours without lightness: a* and b*."""
        return self.skins[:, 1:]


def see_photos(photos: Iterable[np.ndarray], judges: Judges) -> People:
    """Find and measure the faces in photos ((h, w, 3) uint8 RGB each)."""
    seen = [judges.faces.look(photo) for photo in photos]
    vectors = [one.vector for one in seen if one.vector is not None]
    return People(
        tuple(one.pixels for one in seen),
        np.stack(vectors) if vectors else np.zeros((0, 1), np.float32),
        np.stack([judges.images.embed(one.pixels, one.keep) for one in seen]),
        np.reshape([metrics.face_lab(one.pixels, one.keep) for one in seen if not one.keep.all()], (-1, 3)),
    )


def score_picture(
    seen: Seen,
    person: People,
    style: People,
    judges: Judges,
    *,
    held_out: People | None = None,
    neutral: bool = False,
) -> dict[str, Any]:
    """The scores of one picture; None where something cannot be measured (no face, no held-out photo).

    person: the photos that were trained on. held_out: photos of the same person that were not. neutral: the style
    leaves the colour of skin as it is, so that it can be compared with the person's photos.
    """
    vector = seen.vector if len(person.vectors) else None
    skin = None if seen.keep.all() else metrics.face_lab(seen.pixels, seen.keep)
    unseen = None
    if vector is not None and held_out is not None and len(held_out.vectors):
        unseen = metrics.csim_single(vector, held_out.vectors)
    return {
        "face": seen.face is not None,
        "one_face": seen.faces == 1,
        "csim_mean": None if vector is None else metrics.csim_mean(vector, person.vectors),
        "csim_best": None if vector is None else metrics.csim_best(vector, person.vectors),
        "csim_held_out": unseen,
        "style_score": metrics.style_similarity(
            judges.images.embed(seen.pixels, seen.keep), style.embeddings
        ),
        "face_colour": None
        if skin is None or not len(style.skins)
        else metrics.colour_distance(skin[1:], style.colours),
        "skin": None
        if skin is None or not neutral or not len(person.skins)
        else metrics.colour_distance(skin, person.skins),
        "copying": metrics.copying(seen.pixels, [*person.photos, *style.photos]),
        "aesthetic": judges.aesthetic.score(seen.pixels) if judges.aesthetic is not None else None,
    }


def score_edits(kind: str, seen: Seen, judges: Judges) -> dict[str, Any]:
    """Whether the picture of an edited prompt shows the edit; for every other picture, which edits it shows unasked."""
    if kind not in EDITS:
        return {"shows": {name: edit.shows(seen) for name, edit in EDITS.items()}}
    edit = EDITS[kind]
    scores: dict[str, Any] = {"shows": {kind: edit.shows(seen)}}
    text = text_similarity(judges.images, seen.pixels, edit.words)
    return scores if text is None else {**scores, "text": text}


def attention_at_the_end(rows: list[dict[str, Any]]) -> dict[str, float]:
    """Attention of each token for the composed prompt at the end of training: share outside its region, and mean."""
    found: dict[str, float] = {}
    for row in rows:
        if row["task"] == "composed":
            token = row["token"].strip("<>")
            found |= {f"attention_{token}": row["outside"], f"mean_{token}": row["mean"]}
    return found
