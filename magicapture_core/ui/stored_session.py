"""What is stored of one visitor: their photos, trainings, portraits and drafts."""

from __future__ import annotations

import hashlib
import secrets
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

Role = Literal["subject", "style"]


@dataclass
class StoredPhoto:
    """One photo of a session and what is known about it."""

    id: str
    name: str
    """Unique within its role."""
    file: str
    """Name in photos/."""
    thumb: str
    """Shown picture."""
    width: int
    height: int
    level: str = "accept"
    reasons: list[str] = field(default_factory=list)
    left_out: bool = False
    """It could be used, but is not unless somebody says so: see Verdict.left_out."""
    kept: bool = False
    """Somebody said so."""
    mask: str | None = None
    """Name in masks/ of the user's own mask of the face; None: automatic."""
    views: dict[str, str] = field(default_factory=dict)
    """Shown pictures of it as training sees it: "overlay", "mask", "photo"; and what they were "made from"."""
    digest: str = ""
    """Of the file; empty until somebody needed it."""

    @property
    def used(self) -> bool:
        """Whether it is learned from."""
        return self.level != "refuse" and (self.kept or not self.left_out)


@dataclass
class StoredRun:
    """One training of a session."""

    id: str
    title: str
    model: str
    fingerprint: str
    """Of the photos, masks and style it was started with."""
    schedule: str
    settings: dict[str, Any]
    """TrainConfig as plain values."""
    started: float
    preset: str | None = None
    step: int = 0
    total: int = 0
    choice: dict[str, Any] | None = None
    """What a comparison recommends (checkpoint, step, scale, likeness, style, shown picture), and all its rows."""
    finished: bool = False
    """Whether it came to its own end, after all steps or before."""
    adapter_scale: float | None = None
    """The strength that was adopted from it; None: the model's own suggestion."""


@dataclass
class StoredPortrait:
    """One generated picture."""

    id: str
    run: str
    picture: str
    """Shown picture."""
    prompt: str
    seed: int
    identity: float | None
    settings: dict[str, Any]
    warnings: list[str]
    nsfw: bool = False
    batch: int = 0
    """Counts the times that somebody asked for portraits: those of the last time are new."""
    favourite: bool = False


@dataclass
class StoredDraft:
    """One picture made before any training."""

    picture: str
    """Shown picture."""
    seed: int
    identity: float | None
    """Cosine to the person's photos by face recognition; None without a face."""


@dataclass
class Session:
    """Everything of one visitor. Change it within `Sessions.changing`."""

    folder: Path
    shown: Path
    consent: bool = False
    kind: Literal["person", "object"] = "person"
    words: str = ""
    """What the person is called in prompts, as in TrainConfig.subject_words; empty: nobody said."""
    photos: dict[str, list[StoredPhoto]] = field(default_factory=lambda: {"subject": [], "style": []})
    person: str | None = None
    """The sample person whose photos these are; None: the visitor's own."""
    preset: str | None = None
    """Chosen style preset; None: the visitor's own style photos."""
    model: str | None = None
    runs: list[StoredRun] = field(default_factory=list)
    run: str | None = None
    """The run that portraits are made with."""
    portraits: list[StoredPortrait] = field(default_factory=list)
    removed: list[StoredPortrait] = field(default_factory=list)
    """Deleted a moment ago: they can be brought back until SessionPortraits forgets them."""
    finished: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Portrait -> what finishing made of it: shown files, faces, notes."""
    archive: str | None = None
    """Zip of the newest portraits."""
    archive_run: str | None = None
    """The run that made them."""
    drafts: list[StoredDraft] = field(default_factory=list)
    drafts_of: str | None = None
    """A hash of what they were made of."""
    brush: list[str] = field(default_factory=list)
    """Shown pictures of the photo whose mask was corrected last."""

    @property
    def id(self) -> str:
        """Its name; the key cannot be found from it."""
        return self.folder.name

    def usable(self, role: Role) -> list[StoredPhoto]:
        """Photos that are learned from."""
        return [photo for photo in self.photos[role] if photo.used]

    def chosen_run(self) -> StoredRun | None:
        """The run that portraits are made with."""
        return next((run for run in self.runs if run.id == self.run), None)

    def run_folder(self, run: StoredRun) -> Path:
        """Where a run is stored."""
        return self.folder / "runs" / run.id

    def fingerprint(self) -> str:
        """A hash of everything that a training would learn from."""
        parts = [self.kind, self.preset or ""]
        for role in ("subject", "style"):
            if role == "style" and self.preset:
                continue
            parts += [f"{role}:{photo.id}:{photo.mask}" for photo in self.usable(role)]  # type: ignore[arg-type]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]

    def new_shown(self, suffix: str) -> Path:
        """A path for a picture to be shown, with a name that cannot be guessed."""
        self.shown.mkdir(parents=True, exist_ok=True)
        return self.shown / f"{secrets.token_hex(12)}{suffix}"


def session_from(folder: Path, shown: Path, values: dict[str, Any]) -> Session:
    """The session that was stored as these values. Raises what dataclasses raise for values of another version."""
    stored = {
        "photos": {
            role: [StoredPhoto(**photo) for photo in photos] for role, photos in values["photos"].items()
        },
        "runs": [StoredRun(**run) for run in values["runs"]],
        "portraits": [StoredPortrait(**portrait) for portrait in values["portraits"]],
        "removed": [StoredPortrait(**portrait) for portrait in values.get("removed", ())],
        "drafts": [StoredDraft(**draft) for draft in values.get("drafts", ())],
    }
    return Session(folder, shown, **{**values, **stored})
