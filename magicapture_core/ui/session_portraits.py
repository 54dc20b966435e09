"""The portraits that a session keeps: pictures, heat maps, a zip of them all."""

from __future__ import annotations

import hashlib
import json
import re
import secrets
import shutil
import threading
import zipfile
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from magicapture_core.files import atomic_file
from magicapture_core.languages import ENGLISH, N_, _, again, speaking
from magicapture_core.problems import Problem
from magicapture_core.ui.sessions import Sessions
from magicapture_core.ui.stored_session import Session, StoredPortrait, StoredRun

if TYPE_CHECKING:
    from magicapture_core.generation import Portrait

KEPT_PORTRAITS = 96
UNDO_SECONDS = 30.0
"""For so long what was deleted can be brought back; then its files are removed."""
ORDERS = {"new": N_("New"), "likeness": N_("Likeness"), "favourites": N_("Favourites")}
"""What can be shown first, by `in_order`, and its title."""
FINISHED_FILES = ("file", "after", "before")
"""What finishing leaves of a portrait, by its names in Session.finished."""
EARLIEST = (1980, 1, 1, 0, 0, 0)
"""The first moment that a zip can name."""


class SessionPortraits:
    """Store portraits, make their heat maps visible, pack them into a zip."""

    def __init__(self, sessions: Sessions) -> None:
        self.sessions = sessions
        self._timers: dict[str, threading.Timer] = {}
        """Deleted portrait's id → what forgets it."""

    def of(self, session: Session, portrait_id: str | None) -> StoredPortrait:
        """The session's portrait of that id. Raises Problem if it has none."""
        found = next((portrait for portrait in session.portraits if portrait.id == portrait_id), None)
        if found is None:
            raise Problem(_("Choose one of your portraits first."))
        return found

    def keep(self, key: str, run: StoredRun, portrait: Portrait, batch: int = 0) -> StoredPortrait:
        """Store a portrait with its heat maps. The oldest goes where there are too many. See StoredPortrait.batch."""
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
                batch=batch,
            )
            if portrait.attention:
                _keep_maps(session, stored.id, portrait.attention)
            session.portraits.append(stored)
            usual = [each for each in session.portraits if not each.favourite] or session.portraits
            too_many = max(0, len(session.portraits) - KEPT_PORTRAITS)  # below 0 it would count from the end
            for old in usual[:too_many]:
                drop_portrait(session, old)
        return stored

    def like(self, key: str, portrait_id: str) -> Session:
        """Make a portrait a favourite; a favourite is none any more."""
        with self.sessions.changing(key) as session:
            portrait = self.of(session, portrait_id)
            portrait.favourite = not portrait.favourite
        return session

    def remove(self, key: str, portrait_id: str) -> Session:
        """Delete a portrait. It can be restored for UNDO_SECONDS, unless another one is deleted meanwhile."""
        self.forget_removed(key)
        with self.sessions.changing(key) as session:
            portrait = self.of(session, portrait_id)
            session.portraits.remove(portrait)
            session.removed.append(portrait)
            run = next((run for run in session.runs if run.id == portrait.run), None)
        timer = threading.Timer(UNDO_SECONDS, self._forget_later, (key, portrait_id))
        timer.daemon = True
        self._timers[portrait_id] = timer
        timer.start()
        return self._packed(key, run)

    def restore(self, key: str, portrait_id: str) -> Session:
        """Bring a deleted portrait back. Raises Problem if it is gone for good."""
        with self.sessions.changing(key) as session:
            found = next((portrait for portrait in session.removed if portrait.id == portrait_id), None)
            if found is None:
                raise Problem(_("This portrait is deleted for good."))
            session.removed.remove(found)
            session.portraits.append(found)
            self._stop_timer(portrait_id)  # deleted once more, it has its whole time again
            run = next((run for run in session.runs if run.id == found.run), None)
        return self._packed(key, run)

    def forget_removed(self, key: str, portrait_id: str | None = None) -> None:
        """Remove the files of what was deleted. portrait_id: of this one only."""
        with self.sessions.changing(key) as session:
            for portrait in list(session.removed):
                if portrait_id in (None, portrait.id):
                    session.portraits.append(portrait)  # where drop_portrait looks for it
                    session.removed.remove(portrait)
                    drop_portrait(session, portrait)
                    self._stop_timer(portrait.id)

    def _stop_timer(self, portrait_id: str) -> None:
        timer = self._timers.pop(portrait_id, None)
        if timer is not None:  # none is left where the server was started anew
            timer.cancel()

    def _forget_later(self, key: str, portrait_id: str) -> None:
        with suppress(Problem):  # the session was deleted meanwhile
            self.forget_removed(key, portrait_id)

    def _packed(self, key: str, run: StoredRun | None) -> Session:
        """The session after a portrait came or went: so does the zip."""
        if run is not None:
            self.pack(key, run)
        return self.sessions.find(key)

    def pack(self, key: str, run: StoredRun) -> None:
        """Make a zip of the run's portraits, best first, with the settings of each."""
        with self.sessions.changing(key) as session:
            forget_archive(session)
            if not of_run(session, run):
                return
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

    def finished_archive(self, session: Session) -> Path | None:
        """A shown zip of all finished portraits, made when they change; None for fewer than two."""
        with self.sessions.lock(session.id):  # or a portrait may go, or be finished anew, while it is read
            return self._finished_archive(session)

    def _finished_archive(self, session: Session) -> Path | None:
        here = {portrait.id for portrait in session.portraits}
        found = [each["file"] for name, each in session.finished.items() if name in here]
        files = sorted(file for file in found if Path(file).exists())  # the session was read before
        if len(files) < 2:
            return None
        name = hashlib.sha256(f"{session.id} {files}".encode()).hexdigest()[:24]
        path = session.shown / name / "finished-portraits.zip"
        if not path.exists():
            _forget_finished_archive(session)
            path.parent.mkdir(parents=True, exist_ok=True)
            with atomic_file(path) as fresh, zipfile.ZipFile(fresh, "w") as archive:
                for number, file in enumerate(files, start=1):
                    entry = zipfile.ZipInfo.from_file(
                        file, f"finished-{number:02d}.png", strict_timestamps=False
                    )
                    archive.writestr(entry, Path(file).read_bytes())
        return path

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
            raise Problem(_("There is no heat map of this word. Choose another one."))
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


def _forget_finished_archive(session: Session) -> None:
    for old in session.shown.glob("*/finished-portraits.zip"):
        shutil.rmtree(old.parent, ignore_errors=True)


def _file_name(title: str) -> str:
    """In English, as all names of files: a title in other letters would leave nothing."""
    with speaking(ENGLISH):
        english = again(title)
    return re.sub(r"[^a-z0-9]+", "-", english.lower()).strip("-") or "magicapture"


def drop_portrait(session: Session, portrait: StoredPortrait) -> None:
    """Remove a portrait and everything that was made of it. The caller has the session locked."""
    forget_pictures(_heat_path(session, portrait, word) for word in _maps(session, portrait.id))
    finished = session.finished.pop(portrait.id, {})
    if finished:
        _forget_finished_archive(session)
    forget_pictures(finished[name] for name in FINISHED_FILES if name in finished)
    forget_pictures(session.sheets.pop(portrait.id, ()))
    forget_pictures([portrait.picture, _maps_path(session, portrait.id)])
    session.portraits.remove(portrait)


def of_run(session: Session, run: StoredRun | None) -> list[StoredPortrait]:
    """A run's portraits."""
    return [portrait for portrait in session.portraits if run is not None and portrait.run == run.id]


def best_first(portraits: Sequence[StoredPortrait]) -> list[StoredPortrait]:
    """Sorted: highest likeness first, then those without a score, then those hidden by the safety checker."""
    return sorted(portraits, key=lambda p: (p.nsfw, p.identity is None, -(p.identity or 0.0)))


def in_order(portraits: Sequence[StoredPortrait], order: str | None) -> list[StoredPortrait]:
    """As ORDERS names it: the newest batch first; the likeliest; favourites before others. Then by likeness."""
    found = best_first(portraits)
    if order == "likeness":
        return found
    if order == "favourites":
        return sorted(found, key=lambda p: not p.favourite)
    return sorted(found, key=lambda p: -p.batch)
