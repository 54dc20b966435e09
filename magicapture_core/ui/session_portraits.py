"""The portraits that a session keeps: pictures, heat maps, a zip of them all."""

from __future__ import annotations

import hashlib
import json
import re
import secrets
import shutil
import zipfile
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from magicapture_core.problems import Problem
from magicapture_core.ui.sessions import Sessions
from magicapture_core.ui.stored_session import Session, StoredPortrait, StoredRun

if TYPE_CHECKING:
    from magicapture_core.generation import Portrait

KEPT_PORTRAITS = 96
FINISHED_FILES = ("file", "after", "before")
"""What finishing leaves of a portrait, by its names in Session.finished."""
EARLIEST = (1980, 1, 1, 0, 0, 0)
"""The first moment that a zip can name."""


class SessionPortraits:
    """Store portraits, make their heat maps visible, pack them into a zip."""

    def __init__(self, sessions: Sessions) -> None:
        self.sessions = sessions

    def of(self, session: Session, portrait_id: str | None) -> StoredPortrait:
        """The session's portrait of that id. Raises Problem if it has none."""
        found = next((portrait for portrait in session.portraits if portrait.id == portrait_id), None)
        if found is None:
            raise Problem("Choose one of your portraits first.")
        return found

    def keep(self, key: str, run: StoredRun, portrait: Portrait) -> StoredPortrait:
        """Store a portrait with its heat maps. The oldest goes where there are too many."""
        with self.sessions.changing(key) as session:
            path = session.new_shown(".png")
            portrait.save(path)
            stored = StoredPortrait(
                id=secrets.token_hex(8),
                run=run.id,
                picture=str(path),
                prompt=portrait.prompt,
                seed=portrait.seed,
                identity=None if portrait.identity is None else round(float(portrait.identity), 4),
                settings=portrait.settings,
                warnings=list(portrait.warnings),
                nsfw=portrait.nsfw,
            )
            if portrait.attention:
                _keep_maps(session, stored.id, portrait.attention)
            session.portraits.append(stored)
            for old in session.portraits[:-KEPT_PORTRAITS]:
                drop_portrait(session, old)
        return stored

    def pack(self, key: str, run: StoredRun) -> None:
        """Make a zip of the run's portraits, best first, with the settings of each."""
        with self.sessions.changing(key) as session:
            forget_archive(session)
            # In a folder that nobody can guess, for the file's own name is what it is called once it is downloaded.
            path = session.new_shown("") / f"{_file_name(run.title)}-portraits.zip"
            path.parent.mkdir()
            with zipfile.ZipFile(path, "w") as archive:
                facts, newest = [], EARLIEST
                for number, portrait in enumerate(best_first(of_run(session, run)), start=1):
                    name = f"portrait-{number:02d}-seed-{portrait.seed}.png"
                    # A clock that was wrong, or a backup, dates files where a zip knows no years.
                    entry = zipfile.ZipInfo.from_file(portrait.picture, name, strict_timestamps=False)
                    archive.writestr(entry, Path(portrait.picture).read_bytes())
                    newest = max(newest, entry.date_time)
                    facts.append({
                        "file": name, "prompt": portrait.prompt, "seed": portrait.seed,
                        "likeness": portrait.identity, "settings": portrait.settings,
                    })  # fmt: skip
                archive.writestr(zipfile.ZipInfo("portraits.json", newest), json.dumps(facts, indent=2))
            session.archive, session.archive_run = str(path), run.id

    def words(self, session: Session, portrait_id: str) -> list[str]:
        """Words of a portrait whose heat maps were kept."""
        return list(_maps(session, portrait_id))

    def heat(self, key: str, portrait_id: str, word: str) -> Path:
        """A shown picture: the portrait, coloured by the heat map of `word`."""
        from magicapture_core.heat import heat_overlay
        from magicapture_core.provenance import save_picture

        session = self.sessions.find(key)
        portrait = next((portrait for portrait in session.portraits if portrait.id == portrait_id), None)
        heat = _maps(session, portrait_id).get(word)
        if portrait is None or heat is None:
            raise Problem("There is no heat map of this word. Choose another one.")
        with Image.open(portrait.picture) as image:
            pixels = heat_overlay(np.asarray(image.convert("RGB")), heat.astype(np.float32))
        path = _heat_path(session, portrait, word)
        save_picture(
            Image.fromarray(pixels),
            path,
            prompt=portrait.prompt,
            seed=portrait.seed,
            settings=portrait.settings,
        )
        return path


def _maps_path(session: Session, portrait_id: str) -> Path:
    return session.folder / "attention" / f"{portrait_id}.safetensors"


def _keep_maps(session: Session, portrait_id: str, maps: dict[str, np.ndarray]) -> None:
    """Store heat maps by word, numbered to keep their order. numpy's archive takes no long word and no "file"."""
    path = _maps_path(session, portrait_id)
    path.parent.mkdir(exist_ok=True)
    numbered = enumerate(maps.items())
    save_file({f"{number:02} {word}": heat.astype(np.float16) for number, (word, heat) in numbered}, path)


def _maps(session: Session, portrait_id: str) -> dict[str, np.ndarray]:
    """Where each word of a portrait looked; empty where nothing was kept."""
    path = _maps_path(session, portrait_id)
    if not re.fullmatch(r"[0-9a-f]{16}", portrait_id) or not path.is_file():
        return {}
    with suppress(SafetensorError):  # the server was killed while it wrote
        return {name.partition(" ")[2]: heat for name, heat in sorted(load_file(path).items())}
    return {}


def _heat_path(session: Session, portrait: StoredPortrait, word: str) -> Path:
    name = hashlib.sha256(f"{session.id} {portrait.id} {word}".encode()).hexdigest()[:24]
    return Path(portrait.picture).with_name(f"{name}.jpg")


def forget_pictures(paths: Iterable[str | Path]) -> None:
    """Remove shown files."""
    for path in paths:
        Path(path).unlink(missing_ok=True)


def forget_archive(session: Session) -> None:
    """Remove the zip of the newest portraits. The caller has the session locked."""
    if session.archive:
        path = Path(session.archive)
        path.unlink(missing_ok=True)
        if path.parent != session.shown:
            shutil.rmtree(path.parent, ignore_errors=True)
    session.archive = session.archive_run = None


def _file_name(title: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")


def drop_portrait(session: Session, portrait: StoredPortrait) -> None:
    """Remove a portrait and everything that was made of it. The caller has the session locked."""
    forget_pictures(_heat_path(session, portrait, word) for word in _maps(session, portrait.id))
    finished = session.finished.pop(portrait.id, {})
    forget_pictures(finished[name] for name in FINISHED_FILES if name in finished)
    forget_pictures([portrait.picture, _maps_path(session, portrait.id)])
    session.portraits.remove(portrait)


def of_run(session: Session, run: StoredRun | None) -> list[StoredPortrait]:
    """A run's portraits."""
    return [portrait for portrait in session.portraits if run is not None and portrait.run == run.id]


def best_first(portraits: Sequence[StoredPortrait]) -> list[StoredPortrait]:
    """Sorted: highest likeness first, then those without a score, then those hidden by the safety checker."""
    return sorted(portraits, key=lambda p: (p.nsfw, p.identity is None, -(p.identity or 0.0)))
