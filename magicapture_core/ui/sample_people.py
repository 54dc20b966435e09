"""The sample people that come with the project."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from magicapture_core.photos import list_photos
from magicapture_core.problems import PhotoProblem
from magicapture_core.weights import ASSETS

PEOPLE = ASSETS / "people"


@dataclass(frozen=True)
class Person:
    """A sample person that comes with the project."""

    name: str
    title: str
    photos: tuple[Path, ...]
    words: str = ""
    """What they are called in prompts."""


def sample_people() -> list[Person]:
    """Sample people, if there are any."""
    people = []
    for folder in sorted(PEOPLE.glob("*/")):
        try:
            photos = tuple(list_photos(folder))
        except PhotoProblem:
            continue
        title = folder.name.replace("_", " ").replace("-", " ").title()
        file = folder / "person.json"
        facts = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
        people.append(
            Person(folder.name, str(facts.get("title", title)), photos, str(facts.get("words", "")))
        )
    return people
