"""A benchmark: photos of people and of styles, and what is known about the people."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from magicapture_core.photos import list_photos
from magicapture_core.problems import Problem
from magicapture_core.weights import ASSETS

MINI = "mini"
FACTS = "benchmark.json"


@dataclass(frozen=True)
class Benchmark:
    """FOLDER/identities/NAME/ and FOLDER/styles/NAME/ hold photos; FOLDER/benchmark.json says what they are."""

    name: str
    folder: Path
    identities: Mapping[str, tuple[Path, ...]]
    styles: Mapping[str, tuple[Path, ...]]
    groups: Mapping[str, Mapping[str, str]]
    """Identity → kind of group ("skin_tone", …) → which; empty where nobody said."""
    about: str = ""
    """What the photos are and under which terms, in a sentence or two."""
    neutral: frozenset[str] = frozenset()
    """Styles that leave the colour of skin as it is."""
    parts: Mapping[str, Mapping[str, Sequence[str]]] = field(default_factory=dict)
    """Name of a part ("chosen", "reported") → "identities" and "styles" → names."""

    def part(
        self, identities: str | None = None, styles: str | None = None, part: str | None = None
    ) -> Benchmark:
        """Some of each: "3" is the first three in the order of benchmark.json (else of the alphabet), "p05,p08" are
        those two; None is all, of a part that benchmark.json names or of everything. Raises Problem where there are not
        so many, or none of that name."""
        if part is None:
            return replace(
                self,
                identities=self._some("identities", self.identities, identities),
                styles=self._some("styles", self.styles, styles),
            )
        if part not in self.parts:
            known = ", ".join(self.parts) or "none"
            raise Problem(f"{self.name} has no part {part!r}. Its parts: {known}.")
        names = {what: ",".join(self.parts[part][what]) for what in ("identities", "styles")}
        return self.part(names["identities"], names["styles"]).part(identities, styles)

    def training_photos(self, identity: str, held_out: int) -> tuple[Path, ...]:
        """A person's photos without the last `held_out` ones. Raises Problem where fewer than 2 are left."""
        photos = self.identities[identity]
        if len(photos) - held_out < 2:
            raise Problem(
                f"{self.folder / 'identities' / identity} has {len(photos)} photos; with {held_out} held out, at least "
                f"{held_out + 2} are needed. Add photos, or choose a smaller --held-out (0: train on all)."
            )
        return photos[: len(photos) - held_out]

    def _some(
        self, what: str, there: Mapping[str, tuple[Path, ...]], wanted: str | None
    ) -> dict[str, tuple[Path, ...]]:
        if wanted is None:
            return dict(there)
        if wanted.lstrip("-").isdecimal() and wanted not in there:
            if not 1 <= int(wanted) <= len(there):
                raise Problem(
                    f"--{what} must be 1 to {len(there)}, as many as {self.name} has; got {wanted}."
                )
            return dict(list(there.items())[: int(wanted)])
        names = [name.strip() for name in wanted.split(",")]
        unknown = [name for name in names if name not in there]
        if unknown:
            raise Problem(
                f"{self.name} has no {what} {', '.join(map(repr, unknown))}. It has {', '.join(there)}."
            )
        return {name: there[name] for name in names}


def load_benchmark(name: str) -> Benchmark:
    """ "mini", which comes with MagiCapture, or a folder. Raises Problem where it is none."""
    folder = ASSETS / "benchmark" if name == MINI else Path(name).expanduser()
    facts = _facts(folder)
    groups = facts.get("identities", {})
    identities = _photos(folder / "identities", list(groups))
    styles = _photos(folder / "styles", list(facts.get("styles", {})))
    return Benchmark(
        MINI if name == MINI else folder.resolve().name,
        folder,
        identities,
        styles,
        groups,
        facts.get("about", ""),
        frozenset(name for name, style in facts.get("styles", {}).items() if style.get("neutral")),
        facts.get("parts", {}),
    )


def _facts(folder: Path) -> dict[str, Any]:
    path = folder / FACTS
    if not path.is_file():
        return {}
    try:
        facts = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:
        raise Problem(f"{path} cannot be read ({error}). Correct it, or take it away.") from error
    known = {"about", "identities", "styles", "parts"}
    unknown = set(facts) - known if isinstance(facts, dict) else {"no object"}
    if unknown:
        raise Problem(
            f"{path} has {', '.join(sorted(unknown))}; expected about, identities, styles and parts."
        )
    return dict(facts)


def _photos(folder: Path, order: list[str]) -> dict[str, tuple[Path, ...]]:
    """Photos by folder name; those named in `order` first."""
    if not folder.is_dir():
        raise Problem(
            f'{folder} is not there. A benchmark is "mini" or a folder with identities/NAME/ and styles/NAME/, '
            "each with 4 to 6 photos."
        )
    names = sorted(path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    absent = sorted(set(order) - set(names))
    if absent:
        raise Problem(f"{folder} lacks {', '.join(absent)}, which {FACTS} names. Correct one of the two.")
    ordered = [*order, *(name for name in names if name not in order)]
    found = {name: tuple(list_photos(folder / name)) for name in ordered}
    empty = [name for name, photos in found.items() if len(photos) < 2]
    if not found or empty:
        raise Problem(
            f"{folder} needs folders with at least 2 photos each (4 to 6 are meant); "
            f"got {', '.join(empty) if empty else 'no folder'}."
        )
    return found
