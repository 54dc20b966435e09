"""Whether a draft shows a lighter person than the photos do."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from magicapture_core.concepts import Concept, prepare_concept
from magicapture_core.evaluation.lightness import shows_lighter
from magicapture_core.faces import choose_analyser
from magicapture_core.photos import read_photo
from magicapture_core.presets import load_preset
from magicapture_core.ui.look_cards import LIGHTER, LookCard, first_draft, look_cards
from magicapture_core.ui.sample_people import sample_people

PEOPLE = {person.name: person.photos for person in sample_people()}


@pytest.fixture(scope="module")
def concepts() -> dict[str, Concept]:
    """Three photos of Alma, whose skin is dark, of Dana, whose skin is light, and of a look."""
    analyser, _ = choose_analyser("auto")
    photos = {name: PEOPLE[name][:3] for name in ("alma", "dana")}
    photos |= {name: load_preset(name).photos[:3] for name in ("passport",)}
    return {
        name: prepare_concept(
            [read_photo(path) for path in paths], "subject" if name in PEOPLE else "style",
            resolution=128, analyser=analyser, framing="aligned",
        )
        for name, paths in photos.items()
    }  # fmt: skip


@pytest.mark.parametrize(
    ("subject", "shown", "brightness", "lighter"),
    [
        ("alma", "dana", 1.0, True),
        ("alma", "alma", 1.0, False),
        ("dana", "dana", 1.0, False),
        ("dana", "alma", 1.0, False),
        (
            "alma",
            "dana",
            0.6,
            False,
        ),  # a lighter person, but no lighter than Alma's photos: nobody could see it
    ],
)
def test_only_a_face_that_is_lighter_than_the_photos_is_told(
    concepts: dict[str, Concept], subject: str, shown: str, brightness: float, lighter: bool
) -> None:
    analyser, _ = choose_analyser("auto")
    picture = Image.open(PEOPLE[shown][3]).convert("RGB").resize((256, 256))
    picture = picture.point(lambda value: round(value * brightness))
    assert shows_lighter(picture, concepts[subject], concepts["passport"], analyser) is lighter


def test_without_a_face_nothing_is_told(concepts: dict[str, Concept]) -> None:
    analyser, _ = choose_analyser("auto")
    grey = Image.fromarray(np.full((128, 128, 3), 200, np.uint8))
    assert shows_lighter(grey, concepts["alma"], concepts["passport"], analyser) is None


def test_the_card_and_the_first_draft_say_so() -> None:
    plain = LookCard("neon", "Neon", "Violet.", "a.jpg", True)
    assert LIGHTER not in look_cards([plain], [])
    assert look_cards([LookCard("neon", "Neon", "Violet.", "a.jpg", True, (), True)], []).count(LIGHTER) == 1
    assert "lighter than in your photos" in first_draft("a.jpg", "Neon", True)
    assert "lighter" not in first_draft("a.jpg", "Neon", False)
