"""What belongs to one visitor, on disk: found again by a key that only their browser knows.

RUNS/sessions/<id>/session.json, photos/, masks/, runs/    never served
RUNS/shown/<id>/<random name>                               what the page shows, by names nobody can guess

<id> is a hash of the key: pictures' addresses contain the id, so sharing one does not give the key away.
"""

from __future__ import annotations

import dataclasses
import hashlib
import re
import secrets
import shutil
import threading
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from magicapture_core import languages
from magicapture_core.files import atomic_file
from magicapture_core.languages import N_, _
from magicapture_core.problems import Problem
from magicapture_core.ui.limits import Limits
from magicapture_core.ui.stored_session import Session, session_from

KEY = re.compile(r"[0-9a-f]{48}")
UPLOAD = re.compile(r"[0-9a-f]{64}")
"""gradio names an upload's folder by its content."""
UPLOAD_SECONDS = 600
SHOWN = re.compile(r"[0-9a-f]{32}")
"""A session's id."""
LOST = N_(
    "This page's session is no longer here: it was deleted, or it is too old. Reload the page to begin anew."
)


class Sessions:
    """All sessions under one folder."""

    def __init__(self, root: Path, keep_days: float = 7.0, limits: Limits | None = None) -> None:
        self.root = root
        self.keep_days = keep_days
        self.limits = limits or Limits()
        self._locks: dict[str, threading.RLock] = {}
        self._lock = threading.Lock()
        for name in ("sessions", "shown"):
            (root / name).mkdir(parents=True, exist_ok=True)
        (root / "sessions").chmod(0o700)

    @property
    def shown(self) -> Path:
        """Folder of everything that is served."""
        return self.root / "shown"

    def secret(self) -> str:
        """What the browser's copy of the key is encrypted with: the same at every start."""
        path = self.root / "browser-secret"
        if not path.exists():
            with atomic_file(path) as fresh:
                fresh.write_text(secrets.token_hex(16), encoding="utf-8")
        return path.read_text(encoding="utf-8")

    def open(self, key: object) -> tuple[str, Session]:
        """The session of a key; a new one, with a new key, if there is none or it cannot be read."""
        if isinstance(key, str) and self._exists(key):
            try:
                session = self.find(key)
            except Problem:
                return self.create()
            (session.folder / "session.json").touch()
            return key, session
        return self.create()

    def create(self) -> tuple[str, Session]:
        """A new, empty session and its key."""
        key = secrets.token_hex(24)
        session = Session(*self._folders(key))
        session.folder.mkdir(parents=True)
        session.folder.chmod(0o700)
        self._write(session)
        return key, session

    def find(self, key: object) -> Session:
        """The session of a key. Raises Problem if there is none."""
        self.check(key)
        folder, shown = self._folders(str(key))
        try:
            values = languages.loads((folder / "session.json").read_text(encoding="utf-8"))
            return session_from(folder, shown, values)
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise Problem(_(LOST)) from error

    def changing(self, key: object) -> Changing:
        """`with sessions.changing(key) as session:` reads, locks, and writes it at the end."""
        self.check(key)
        return Changing(self, str(key))

    def delete(self, key: object) -> None:
        """Remove everything of a session from the disk."""
        if not isinstance(key, str) or not KEY.fullmatch(key):
            raise Problem(_(LOST))
        with self.lock(_id(key)):  # or whoever is drawing pictures of it would bring shown/ back
            for folder in self._folders(key):
                shutil.rmtree(folder, ignore_errors=True)

    def upload(self, file: str) -> Path:
        """The path of a file that a visitor just sent. Raises Problem for any other: what is taken in is removed, and
        a picture's address is no secret once somebody shared it."""
        path = Path(file)
        sent = UPLOAD.fullmatch(path.parent.name) and path.parent.parent.resolve() == self.shown.resolve()
        if not sent or path.is_symlink() or not path.is_file():
            raise Problem(_("A file did not arrive as an upload. Send it again."))
        return path

    def forget_uploads(self, files: Iterable[str]) -> None:
        """Remove what a visitor sent, taken in or refused; no other file."""
        for file in files:
            with suppress(Problem, OSError, ValueError):
                self.upload(file).unlink()

    def check_room(self, session: Session) -> None:
        """Raises Problem if a session holds as much as it may."""
        self.limits.check_disk(session.folder, session.shown)

    def check(self, key: object) -> str:
        """The id of the session that has this key, readable or not. Raises Problem if there is none."""
        if not isinstance(key, str) or not self._exists(key):
            raise Problem(_(LOST))
        return _id(key)

    def owner(self, key: str) -> str:
        """The session's id."""
        return _id(key)

    def lock(self, owner: str) -> threading.RLock:
        """The lock of a session: only one thread at a time changes it."""
        with self._lock:
            return self._locks.setdefault(owner, threading.RLock())

    def begin_anew(self) -> None:
        """In a forked process, where whoever held a lock does not live on."""
        self._locks, self._lock = {}, threading.Lock()

    def _write(self, session: Session) -> None:
        values = dataclasses.asdict(session)
        del values["folder"], values["shown"]
        with atomic_file(session.folder / "session.json") as path:
            path.write_text(languages.dumps(values), encoding="utf-8")

    def _exists(self, key: str) -> bool:
        return bool(KEY.fullmatch(key)) and (self._folders(key)[0] / "session.json").is_file()

    def _folders(self, key: str) -> tuple[Path, Path]:
        return self.root / "sessions" / _id(key), self.shown / _id(key)

    def sweep(self) -> list[str]:
        """Remove what nobody has opened for `keep_days`, and uploads that no step has taken in.

        Returns the ids of the sessions that went.
        """
        now, gone = time.time(), []
        for folder in (self.root / "sessions").iterdir():
            file = folder / "session.json"
            age = now - (file if file.exists() else folder).stat().st_mtime
            if age > self.keep_days * 86400:
                shutil.rmtree(folder, ignore_errors=True)
                shutil.rmtree(self.shown / folder.name, ignore_errors=True)
                gone.append(folder.name)
                with self._lock:
                    self._locks.pop(folder.name, None)
        for folder in self.shown.iterdir():
            upload = UPLOAD.fullmatch(folder.name) and now - folder.stat().st_mtime > UPLOAD_SECONDS
            # What was being drawn while its session was deleted.
            orphan = SHOWN.fullmatch(folder.name) and not (self.root / "sessions" / folder.name).exists()
            if upload or orphan:
                shutil.rmtree(folder, ignore_errors=True)
        return gone


class Changing:
    """A context manager: the session is locked while it is changed, and written at the end."""

    def __init__(self, sessions: Sessions, key: str) -> None:
        self._sessions, self._key = sessions, key
        self._lock = sessions.lock(sessions.owner(key))

    def __enter__(self) -> Session:
        self._lock.acquire()
        try:
            self._session = self._sessions.find(self._key)
        except BaseException:
            self._lock.release()
            raise
        return self._session

    def __exit__(self, kind: object, *_: object) -> None:
        try:
            # Deleted meanwhile: writing would bring it back.
            if kind is None and self._session.folder.exists():
                self._sessions._write(self._session)
        finally:
            self._lock.release()


def _id(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()[:32]
