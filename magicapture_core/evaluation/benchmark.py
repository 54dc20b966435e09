"""A benchmark: photos of people and of styles, and what is known about the people."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
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

    def part(self, identities: str | None, styles: str | None) -> Benchmark:
        """Some of each: "3" is the first three in the order of benchmark.json (else of the alphabet), "p05,p08" are
        those two; None is all. Raises Problem where there are not so many, or none of that name."""
        return replace(
            self,
            identities=self._some("identities", self.identities, identities),
            styles=self._some("styles", self.styles, styles),
        )

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
    )


def _facts(folder: Path) -> dict[str, Any]:
    path = folder / FACTS
    if not path.is_file():
        return {}
    try:
        facts = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:
        raise Problem(f"{path} cannot be read ({error}). Correct it, or take it away.") from error
    unknown = set(facts) - {"about", "identities", "styles"} if isinstance(facts, dict) else {"no object"}
    if unknown:
        raise Problem(f"{path} has {', '.join(sorted(unknown))}; expected about, identities and styles.")
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
