"""What is stored of one visitor: their photos, trainings, portraits and drafts."""

from __future__ import annotations

import hashlib
import secrets
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

Role = Literal["subject", "style"]
OWN = "own"
"""The look that the visitor's own style photos show; every other one is a preset's name."""
UNSEEN = "unseen"
"""Level of a photo that nobody has looked at yet."""


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
    unticked: bool = False
    """Somebody said that it is not to be used, though it could be."""
    look: str = OWN
    """Of a style photo: the look that it shows."""
    mask: str | None = None
    """Name in masks/ of the user's own mask of the face; None: automatic."""
    views: dict[str, str] = field(default_factory=dict)
    """Shown pictures of it as training sees it: "overlay", "mask", "photo"; and what they were "made from"."""
    digest: str = ""
    """Of the file; empty until somebody needed it."""

    @property
    def used(self) -> bool:
        """Whether it is learned from."""
        wanted = not self.unticked and (self.kept or not self.left_out)
        return wanted and self.level not in ("refuse", UNSEEN)


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
    """The ready-made look; None: the visitor's own style photos."""
    then: list[str] = field(default_factory=list)
    """Looks that are learned after it, one after the other."""
    step: int = 0
    total: int = 0
    choice: dict[str, Any] | None = None
    """What a comparison recommends (checkpoint, step, scale, likeness, style, shown picture), and all its rows."""
    finished: bool = False
    """Whether it came to its own end, after all steps or before."""
    adapter_scale: float | None = None
    """The strength that was adopted from it; None: the model's own suggestion."""
    exported: dict[str, str] = field(default_factory=dict)
    """Format of another program -> the shown folder of its files."""

    @property
    def look(self) -> str:
        """What it learns as the style."""
        return self.preset or OWN


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
    look: str = OWN
    made_of: str = ""
    """A hash of the photos and words that it was made of."""
    lighter: bool = False
    """Whether the face is clearly lighter than in the photos: see evaluation.lightness."""


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
    looks: list[str] = field(default_factory=list)
    """Ticked looks, in the order in which they were ticked: names of presets, or OWN."""
    model: str | None = None
    runs: list[StoredRun] = field(default_factory=list)
    run: str | None = None
    """The run that portraits are made with."""
    looked_at: bool = False
    """Whether somebody is at the step “Portraits” with that run: no training that begins or ends takes it from them."""
    trained: str | None = None
    """The run that waits to be chosen meanwhile, until they go to the step “Learn”."""
    portraits: list[StoredPortrait] = field(default_factory=list)
    removed: list[StoredPortrait] = field(default_factory=list)
    """Deleted a moment ago: they can be brought back until SessionPortraits forgets them."""
    finished: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Portrait -> what finishing made of it: shown files, faces, notes."""
    sheets: dict[str, list[str]] = field(default_factory=dict)
    """Portrait -> its newest passport-style photo and sheets, as shown files."""
    archive: str | None = None
    """Zip of the newest portraits."""
    archive_run: str | None = None
    """The run that made them."""
    drafts: list[StoredDraft] = field(default_factory=list)
    brush: list[str] = field(default_factory=list)
    """Shown pictures of the photo whose mask was corrected last."""

    @property
    def id(self) -> str:
        """Its name; the key cannot be found from it."""
        return self.folder.name

    @property
    def look(self) -> str:
        """The look that was ticked first."""
        return self.looks[0] if self.looks else OWN

    @property
    def preset(self) -> str | None:
        """The same, where it is a ready-made one; None: the visitor's own style photos."""
        return None if self.look == OWN else self.look

    @property
    def allowed(self) -> bool:
        """Whether the photos of the person may be used: a sample person's always."""
        return self.consent or self.person is not None

    def photos_of(self, role: Role, look: str | None = None) -> list[StoredPhoto]:
        """Photos of a role; of the style: those of one look, by default of the one that was ticked first."""
        if role == "subject":
            return self.photos[role]
        return [photo for photo in self.photos[role] if photo.look == (look or self.look)]

    def usable(self, role: Role, look: str | None = None) -> list[StoredPhoto]:
        """Photos that are learned from. look: as for `photos_of`."""
        return [photo for photo in self.photos_of(role, look) if photo.used]

    def chosen_run(self) -> StoredRun | None:
        """The run that portraits are made with."""
        return next((run for run in self.runs if run.id == self.run), None)

    def choose_trained(self, run_id: str) -> None:
        """A training began, or has saved something: make portraits with it, unless those of another are looked at."""
        if self.looked_at and self.run != run_id:
            self.trained = run_id
        else:
            self.run = run_id

    def run_folder(self, run: StoredRun) -> Path:
        """Where a run is stored."""
        return self.folder / "runs" / run.id

    def fingerprint(self, look: str | None = None) -> str:
        """A hash of everything that a training of a look would learn from. look: as for `photos_of`."""
        look = look or self.look
        ready = "" if look == OWN else look
        parts = [self.kind, ready, *(f"subject:{photo.id}:{photo.mask}" for photo in self.usable("subject"))]
        for photo in self.usable("style", look):
            if not ready or photo.mask:  # a ready-made look is the same wherever nobody corrected a mask
                parts.append(f"style:{'' if ready else photo.id}:{photo.mask}")
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]

    def new_shown(self, suffix: str) -> Path:
        """A path for a picture to be shown, with a name that cannot be guessed."""
        self.shown.mkdir(parents=True, exist_ok=True)
        return self.shown / f"{secrets.token_hex(12)}{suffix}"


def session_from(folder: Path, shown: Path, values: dict[str, Any]) -> Session:
    """The session that was stored as these values. Raises what dataclasses raise for values of another version."""
    if "looks" not in values:
        values = _with_looks(values)
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


def _with_looks(values: dict[str, Any]) -> dict[str, Any]:
    """What release 0.2 stored: one preset for all style photos. Its drafts are made anew."""
    look = values["preset"] or OWN
    kept = {name: value for name, value in values.items() if name not in ("preset", "drafts", "drafts_of")}
    style = [{**photo, "look": look} for photo in values["photos"]["style"]]
    photos = {**values["photos"], "style": style}
    return {**kept, "photos": photos, "looks": [look] if style else []}
