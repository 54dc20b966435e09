"""A session's photos: add, judge, remove. Does not know gradio, and touches no other session."""

from __future__ import annotations

import secrets
import shutil
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from magicapture_core.config import check_noun
from magicapture_core.languages import _, again
from magicapture_core.photos import Photo, read_photo
from magicapture_core.problems import Problem
from magicapture_core.ui.looks import Looks, digest_of
from magicapture_core.ui.mask_files import drop_brush_pictures, drop_mask
from magicapture_core.ui.sample_people import sample_people
from magicapture_core.ui.sessions import Sessions
from magicapture_core.ui.stored_session import OWN, UNSEEN, Role, Session, StoredPhoto

if TYPE_CHECKING:
    from magicapture_core.concepts import Look
    from magicapture_core.faces import FaceAnalyser
    from magicapture_core.ui.server_models import ModelFacts

THUMB_SIDE = 480


class SessionPhotos:
    """Add photos, judge them, remove them."""

    def __init__(self, sessions: Sessions, facts: Callable[[Session], ModelFacts]) -> None:
        self.sessions = sessions
        self.facts = facts
        self.looks = Looks()
        self.face_networks = threading.Semaphore(2)
        """Held while face networks work: more at once would only be slower for everybody."""

    def analyser(self) -> tuple[FaceAnalyser, str]:
        """Whose networks look at faces, and why."""
        from magicapture_core.faces import choose_analyser

        return choose_analyser("auto")

    def begin_anew(self) -> None:
        """In a forked process, where whoever held the semaphore does not live on."""
        self.face_networks = threading.Semaphore(2)

    def consent(self, key: str, given: bool) -> Session:
        """Note whether the visitor may use these photos."""
        with self.sessions.changing(key) as session:
            session.consent = given
        return session

    def set_kind(self, key: str, kind: str) -> Session:
        """A person or an object."""
        if kind not in ("person", "object"):
            raise Problem(f'The subject must be "person" or "object", got {kind!r}.')
        with self.sessions.changing(key) as session:
            session.kind = kind  # type: ignore[assignment]
            for role in ("subject", "style"):
                for photo in session.photos[role]:
                    drop_mask(session, photo)
                self.judge(session, role)  # type: ignore[arg-type]
        return session

    def call(self, key: str, words: str) -> Session:
        """What the person is called in prompts, as in TrainConfig.subject_words; empty: nobody says."""
        if words:
            check_noun(words)
        with self.sessions.changing(key) as session:
            session.words = words
        return session

    def add(self, key: str, role: Role, files: Sequence[tuple[Path, str]]) -> tuple[Session, list[str]]:
        """Add photo files, (path, name as the visitor knows it). Returns what could not be added, in words."""
        *_, last = self.adding(key, role, files)
        return last

    def adding(
        self, key: str, role: Role, files: Sequence[tuple[Path, str]]
    ) -> Iterator[tuple[Session, list[str]]]:
        """As `add`: the session after each photo is stored, and again after it is judged; what could not be added."""
        with self.sessions.changing(key) as session:
            if role == "subject" and not session.consent:
                raise Problem(_("Before adding photos, tick the box that says you may use them."))
            if role == "style" and OWN not in session.looks:
                session.looks.append(OWN)
            if role == "subject" and session.person is not None:
                self._drop_all(session, "subject")
                session.person, session.words = None, ""
        refused: list[str] = []
        for path, name in files:
            with self.sessions.changing(key) as session:
                most = self.sessions.limits.photos
                if len(session.photos_of(role, OWN)) >= most:
                    refused.append(_(
                        "{name} and those after it: {most} photos are the most. Remove some.", name=name, most=most
                    ))  # fmt: skip
                    break
                try:
                    self.sessions.check_room(session)
                    self._store(session, role, path, name)
                except Problem as problem:
                    refused.append(str(problem))
            yield session, refused
        for session in self.looking(key, role):
            yield session, refused

    def looking(self, key: str, role: Role) -> Iterator[Session]:
        """Look at the photos that nobody has looked at yet: the session after each of them, and once more when none is
        left, for others may have looked at some of them meanwhile."""
        photo: StoredPhoto | None
        while True:
            with self.sessions.changing(key) as session:
                photo = next((photo for photo in session.photos[role] if photo.level == UNSEEN), None)
                if photo is not None:
                    photo.level = "accept"  # until it is judged, in a moment
                    self.judge(session, role)
            yield session
            if photo is None:
                return

    def look_at_all(self, key: str) -> None:
        """Look at every photo that nobody has looked at yet."""
        for role in ("subject", "style"):
            deque(self.looking(key, role), maxlen=0)  # type: ignore[arg-type]

    def take(self, key: str, role: Role, uploads: Sequence[str]) -> tuple[Session, list[str]]:
        """As `add`, with files that the visitor sent; they do not stay where they arrived."""
        *_, last = self.taking(key, role, uploads)
        return last

    def taking(self, key: str, role: Role, uploads: Sequence[str]) -> Iterator[tuple[Session, list[str]]]:
        """As `take`, one after another; see `adding`."""
        try:
            paths = [self.sessions.upload(file) for file in uploads]
            yield from self.adding(key, role, [(path, path.name) for path in paths])
        finally:
            self.sessions.forget_uploads(uploads)

    def use_person(self, key: str, name: str) -> Session:
        """Take a sample person's photos instead of what is there."""
        self.place_person(key, name)
        *_, session = self.looking(key, "subject")
        return session

    def place_person(self, key: str, name: str) -> Session:
        """As `use_person`; nobody looks at the photos yet."""
        person = next((person for person in sample_people() if person.name == name), None)
        if person is None:
            raise Problem(_("There is no sample person “{name}”.", name=name))
        with self.sessions.changing(key) as session:
            session.kind, session.words, session.person = "person", person.words, name
            self._drop_all(session, "subject")
            for path in person.photos:
                self._store(session, "subject", path, path.name)
        return session

    def another_person(self, key: str) -> Session:
        """Remove all photos of the person; what was learned from them stays."""
        with self.sessions.changing(key) as session:
            self._drop_all(session, "subject")
            session.words, session.person = "", None
        return session

    def use_preset(self, key: str, name: str) -> Session:
        """Tick a ready-made look and no other."""
        return self._choose(key, name, alone=True)

    def toggle_look(self, key: str, name: str) -> Session:
        """Tick a look, or take its tick away. name: of a preset, or OWN."""
        return self._choose(key, name, alone=False)

    def own_style(self, key: str) -> Session:
        """Tick the visitor's own style photos and no other look."""
        return self._choose(key, OWN, alone=True)

    def _choose(self, key: str, name: str, *, alone: bool) -> Session:
        from magicapture_core.presets import load_preset

        preset = None if name == OWN else load_preset(name)
        with self.sessions.changing(key) as session:
            if name in session.looks and not alone:
                session.looks.remove(name)
                return session
            session.looks = [name] if alone else [*session.looks, name]
            if preset is not None and not session.photos_of("style", name):
                for path in preset.photos:
                    # Chosen by people who looked: there is nothing to judge.
                    self._store(session, "style", path, path.name, look=name)
        return session

    def remove(self, key: str, role: Role, photo_id: str) -> Session:
        """Delete one photo; the others are compared anew."""
        with self.sessions.changing(key) as session:
            for photo in [photo for photo in session.photos[role] if photo.id == photo_id]:
                self._drop(session, role, photo)
            if role == "subject" and not session.photos["subject"]:
                session.words = ""  # whoever comes next may be somebody else
            self.judge(session, role)
        return session

    def use_anyway(self, key: str, role: Role, photo_id: str, wanted: bool = True) -> Session:
        """Use a photo, also one that would be left out; or (not wanted) do not use it."""
        with self.sessions.changing(key) as session:
            for photo in session.photos[role]:
                if photo.id == photo_id:
                    photo.kept, photo.unticked = wanted, not wanted
        return session

    def _store(self, session: Session, role: Role, path: Path, name: str, look: str = OWN) -> None:
        photo = read_photo(path, name, self.sessions.limits.megapixels)
        taken = {other.name for other in session.photos_of(role, look)}
        stem, suffix, number = Path(name).stem[:60] or "photo", Path(name).suffix, 2
        name = f"{stem}{suffix}"
        while name in taken:
            name, number = f"{stem}-{number}{suffix}", number + 1
        photo_id = secrets.token_hex(8)
        folder = session.folder / "photos"
        folder.mkdir(exist_ok=True)
        shutil.copyfile(path, folder / photo_id)
        thumb = session.new_shown(".webp")
        picture = Image.fromarray(photo.pixels)
        picture.thumbnail((THUMB_SIDE, THUMB_SIDE))
        picture.save(thumb, quality=85)
        height, width = photo.pixels.shape[:2]
        level = UNSEEN if look == OWN else "accept"
        session.photos[role].append(
            StoredPhoto(photo_id, name, photo_id, str(thumb), width, height, level, look=look)
        )

    def _drop_all(self, session: Session, role: Role) -> None:
        for photo in list(session.photos[role]):
            self._drop(session, role, photo)

    def _drop(self, session: Session, role: Role, photo: StoredPhoto) -> None:
        session.photos[role].remove(photo)
        self.looks.forget(session.id, photo.digest)
        (session.folder / "photos" / photo.file).unlink(missing_ok=True)
        drop_mask(session, photo)
        drop_brush_pictures(session)
        Path(photo.thumb).unlink(missing_ok=True)

    def read(self, session: Session, photo: StoredPhoto) -> Photo:
        """A stored photo's pixels."""
        return read_photo(session.folder / "photos" / photo.file, photo.name)

    def judge(self, session: Session, role: Role) -> None:
        """Give every photo of a role that was looked at its verdict. The caller has the session locked."""
        from magicapture_core.concepts import compare

        stored = [photo for photo in session.photos_of(role, OWN) if photo.level != UNSEEN]
        verdicts = compare([self._look(session, role, photo) for photo in stored])
        for photo, verdict in zip(stored, verdicts, strict=True):
            photo.level = verdict.level
            # Kept looks were described in the language of whoever was there then.
            photo.reasons = [again(reason.text) for reason in verdict.reasons]
            photo.left_out = verdict.left_out

    def _look(self, session: Session, role: Role, stored: StoredPhoto) -> Look:
        """What is seen in a photo by itself."""
        from magicapture_core.concepts import look_at

        stored.digest = stored.digest or digest_of(session.folder / "photos" / stored.file)
        analyser, resolution, kind = self.analyser()[0], self.facts(session).resolution, session.kind

        def look() -> Look:
            pixels = self.read(session, stored)
            with self.face_networks:
                return look_at(pixels, role, analyser=analyser, resolution=resolution, kind=kind)

        how = f"{role} {kind} {resolution} {analyser.name}"
        return replace(self.looks.of(session.id, stored.digest, how, look), name=stored.name)
