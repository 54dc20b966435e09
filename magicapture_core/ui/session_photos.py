"""What can be done with a session's photos and masks. No gradio, and no session of anybody else."""

from __future__ import annotations

import secrets
import shutil
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from magicapture_core.config import check_noun
from magicapture_core.photos import Photo, read_photo
from magicapture_core.problems import PhotoProblem, Problem
from magicapture_core.ui.looks import Looks, digest_of
from magicapture_core.ui.sample_people import sample_people
from magicapture_core.ui.session_masks import MaskView, pictures_of
from magicapture_core.ui.sessions import Role, Session, Sessions, StoredPhoto

if TYPE_CHECKING:
    from magicapture_core.concepts import Concept, Look
    from magicapture_core.config import Framing
    from magicapture_core.faces import FaceAnalyser
    from magicapture_core.ui.server_models import ModelFacts

THUMB_SIDE = 480
EDITOR_SIDE = 768
MASK_COLOUR = (255, 64, 96)


class SessionPhotos:
    """Photos: add, judge, remove. Masks: show, correct."""

    def __init__(self, sessions: Sessions, facts: Callable[[Session], ModelFacts]) -> None:
        self.sessions = sessions
        self.facts = facts
        self.looks = Looks()
        self._faces = threading.Semaphore(2)  # more at once would only be slower for everybody

    def analyser(self) -> tuple[FaceAnalyser, str]:
        """Whose networks look at faces, and why."""
        from magicapture_core.faces import choose_analyser

        return choose_analyser("auto")

    # --- photos -------------------------------------------------------------------------------------

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
                    self._drop_mask(session, photo)
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
        """As `add`, one after another: the session after each photo, and what could not be added so far."""
        with self.sessions.changing(key) as session:
            if role == "subject" and not session.consent:
                raise Problem("Before adding photos, tick the box that says you may use them.")
            if role == "style" and session.preset is not None:
                self._drop_all(session, "style")
                session.preset = None
            if role == "subject":
                session.person = None
        refused: list[str] = []
        for path, name in files:
            with self.sessions.changing(key) as session:
                most = self.sessions.limits.photos
                if len(session.photos[role]) >= most:
                    refused.append(f"{name} and those after it: {most} photos are the most. Remove some.")
                    break
                try:
                    self.sessions.check_room(session)
                    self._store(session, role, path, name)
                    self.judge(session, role)
                except Problem as problem:
                    refused.append(str(problem))
            yield session, refused
        yield session, refused

    def take(self, key: str, role: Role, uploads: Sequence[str]) -> tuple[Session, list[str]]:
        """As `add`, with files that the visitor sent; they do not stay where they arrived."""
        *_, last = self.taking(key, role, uploads)
        return last

    def taking(self, key: str, role: Role, uploads: Sequence[str]) -> Iterator[tuple[Session, list[str]]]:
        """As `take`, one after another; see `adding`."""
        paths = [self.sessions.upload(file) for file in uploads]
        try:
            yield from self.adding(key, role, [(path, path.name) for path in paths])
        finally:
            for path in paths:
                path.unlink(missing_ok=True)

    def use_person(self, key: str, name: str) -> Session:
        """Take a sample person's photos instead of what is there."""
        person = next((person for person in sample_people() if person.name == name), None)
        if person is None:
            raise Problem(f"There is no sample person {name!r}.")
        with self.sessions.changing(key) as session:
            session.kind, session.words, session.person = "person", person.words, name
            self._drop_all(session, "subject")
            for path in person.photos:
                self._store(session, "subject", path, path.name)
            self.judge(session, "subject")
        return session

    def use_preset(self, key: str, name: str) -> Session:
        """Take a preset's reference photos as the style."""
        from magicapture_core.presets import load_preset

        preset = load_preset(name)
        with self.sessions.changing(key) as session:
            self._drop_all(session, "style")
            session.preset = name
            for path in preset.photos:
                self._store(session, "style", path, path.name)
            self.judge(session, "style")
            for photo in session.photos["style"]:
                # Chosen by people who looked; a warning would only unsettle.
                photo.kept = photo.level == "warn"
        return session

    def own_style(self, key: str) -> Session:
        """Go from a preset to the visitor's own style photos."""
        with self.sessions.changing(key) as session:
            if session.preset is not None:
                self._drop_all(session, "style")
                session.preset = None
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
        """Use a photo that would be left out, or (not wanted) leave it out after all."""
        with self.sessions.changing(key) as session:
            for photo in session.photos[role]:
                if photo.id == photo_id:
                    photo.kept = wanted
        return session

    def _store(self, session: Session, role: Role, path: Path, name: str) -> None:
        photo = read_photo(path, name, self.sessions.limits.megapixels)
        taken = {other.name for other in session.photos[role]}
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
        session.photos[role].append(StoredPhoto(photo_id, name, photo_id, str(thumb), width, height))
        self._look(session, role, session.photos[role][-1], photo)  # while its pixels are here

    def _drop_all(self, session: Session, role: Role) -> None:
        for photo in list(session.photos[role]):
            self._drop(session, role, photo)

    def _drop(self, session: Session, role: Role, photo: StoredPhoto) -> None:
        session.photos[role].remove(photo)
        self.looks.forget(session.id, photo.digest)
        (session.folder / "photos" / photo.file).unlink(missing_ok=True)
        self._drop_mask(session, photo)
        self._put_brush_away(session)
        Path(photo.thumb).unlink(missing_ok=True)

    def read(self, session: Session, photo: StoredPhoto) -> Photo:
        """A stored photo's pixels."""
        return read_photo(session.folder / "photos" / photo.file, photo.name)

    def judge(self, session: Session, role: Role) -> None:
        """Give every photo of a role its verdict; the caller holds the session."""
        from magicapture_core.concepts import compare

        stored = session.photos[role]
        verdicts = compare([self._look(session, role, photo) for photo in stored])
        for photo, verdict in zip(stored, verdicts, strict=True):
            photo.level = verdict.level
            photo.reasons = [reason.text for reason in verdict.reasons]
            photo.left_out = verdict.left_out

    def _look(self, session: Session, role: Role, stored: StoredPhoto, photo: Photo | None = None) -> Look:
        """What is seen in a photo by itself. photo: its pixels, where they have been read."""
        from magicapture_core.concepts import look_at

        stored.digest = stored.digest or digest_of(session.folder / "photos" / stored.file)
        analyser, resolution, kind = self.analyser()[0], self.facts(session).resolution, session.kind

        def look() -> Look:
            pixels = photo or self.read(session, stored)
            with self._faces:
                return look_at(pixels, role, analyser=analyser, resolution=resolution, kind=kind)

        how = f"{role} {kind} {resolution} {analyser.name}"
        return replace(self.looks.of(session.id, stored.digest, how, look), name=stored.name)

    # --- masks --------------------------------------------------------------------------------------

    def concept(self, session: Session, role: Role, resolution: int, framing: Framing) -> Concept:
        """What training eats: the usable photos, with the visitor's own masks."""
        from magicapture_core.concepts import prepare_concept

        stored = session.usable(role)
        masks = {
            photo.name: mask for photo in stored if (mask := self._own_mask(session, role, photo)) is not None
        }
        with self._faces:
            return prepare_concept(
                [self.read(session, photo) for photo in stored], role, resolution=resolution,
                analyser=self.analyser()[0], kind=session.kind, masks=masks, framing=framing,
            )  # fmt: skip

    def views(self, key: str, role: Role) -> list[MaskView]:
        """Every usable photo as training will see it; made once and kept until something changes."""
        with self.sessions.changing(key) as session:
            facts = self.facts(session)
            return [self._view(session, role, photo, facts) for photo in session.usable(role)]

    def _view(self, session: Session, role: Role, photo: StoredPhoto, facts: ModelFacts) -> MaskView:
        from magicapture_core.concepts import prepare_concept

        made_from = f"{photo.mask} {session.kind} {facts.resolution} {facts.framing}"
        if photo.views.get("made from") == made_from:
            return MaskView(photo, role, photo.views)
        self._drop_views(photo)
        mask = self._own_mask(session, role, photo)
        try:
            with self._faces:
                concept = prepare_concept(
                    [self.read(session, photo)], role, resolution=facts.resolution, framing=facts.framing,
                    analyser=self.analyser()[0], kind=session.kind, masks={} if mask is None else {photo.name: mask},
                )  # fmt: skip
        except PhotoProblem as problem:
            return MaskView(photo, role, {"photo": photo.thumb}, str(problem).splitlines()[-1].lstrip("- "))
        photo.views = {"made from": made_from}
        for name, pixels in pictures_of(concept.examples[0]).items():
            path = session.new_shown(".webp")
            picture = Image.fromarray(pixels)
            if picture.width < THUMB_SIDE // 2:  # a small model's pictures would be blurred by the browser
                picture = picture.resize((picture.width * 2, picture.height * 2), Image.Resampling.LANCZOS)
            picture.save(path, quality=90)
            photo.views[name] = str(path)
        return MaskView(photo, role, photo.views)

    def editor(self, key: str, role: Role, photo_id: str) -> tuple[Session, Path, Path]:
        """Two shown pictures for the brush: the whole photo, and the mask of its face painted on nothing."""
        with self.sessions.changing(key) as session:
            stored = _named(session, role, photo_id)
            photo = self.read(session, stored)
            face = self._face(session, role, stored, photo)
            picture = Image.fromarray(photo.pixels)
            picture.thumbnail((EDITOR_SIDE, EDITOR_SIDE))
            painted = Image.fromarray((face * 255).astype(np.uint8)).resize(
                picture.size, Image.Resampling.BILINEAR
            )
            layer = np.zeros((picture.height, picture.width, 4), np.uint8)
            layer[np.asarray(painted) >= 128] = (*MASK_COLOUR, 255)
            self._put_brush_away(session)
            shown, mask = session.new_shown(".webp"), session.new_shown(".png")
            picture.save(shown, quality=88)
            Image.fromarray(layer).save(mask)
            session.brush = [str(shown), str(mask)]
        return session, shown, mask

    def paint(self, key: str, role: Role, photo_id: str, painted: np.ndarray) -> Session:
        """Take what was painted, (h, w) uint8 of the whole photo at any size, as the mask of the face."""
        with self.sessions.changing(key) as session:
            stored = _named(session, role, photo_id)
            mask = Image.fromarray(((painted >= 128) * 255).astype(np.uint8))
            mask = mask.resize((stored.width, stored.height), Image.Resampling.BILINEAR).point(
                lambda value: 255 if value >= 128 else 0
            )
            if role == "subject" and not np.asarray(mask).any():
                raise Problem("Nothing is painted. Paint over the face, or go back to the automatic mask.")
            self._drop_mask(session, stored)
            folder = session.folder / "masks"
            folder.mkdir(exist_ok=True)
            stored.mask = f"{secrets.token_hex(8)}.png"
            mask.save(folder / stored.mask)
        return session

    def automatic(self, key: str, role: Role, photo_id: str) -> Session:
        """Drop the visitor's own mask of a photo."""
        with self.sessions.changing(key) as session:
            self._drop_mask(session, _named(session, role, photo_id))
        return session

    def _own_mask(self, session: Session, role: Role, photo: StoredPhoto) -> np.ndarray | None:
        """(h, w) of what the role learns, above 0 in it; None where the mask is automatic."""
        if photo.mask is None:
            return None
        with Image.open(session.folder / "masks" / photo.mask) as image:
            face = np.asarray(image.convert("L")) >= 128
        return (face if role == "subject" else ~face).astype(np.uint8)

    def _face(self, session: Session, role: Role, stored: StoredPhoto, photo: Photo) -> np.ndarray:
        """(h, w) float: the face in the whole photo, the visitor's own or the automatic one."""
        from magicapture_core.masks import face_masks, object_masks

        own = self._own_mask(session, role, stored)
        if own is not None:
            return (own if role == "subject" else 1 - own).astype(np.float32)
        analyser = self.analyser()[0]
        with self._faces:
            if session.kind == "object":
                return object_masks(photo.pixels, analyser).face[0].numpy()
            faces = analyser.detect(photo.pixels)
            wanted = faces[:1] if role == "subject" else faces
            face = np.zeros(photo.pixels.shape[:2], np.float32)
            for found in wanted:
                face = np.maximum(face, face_masks(photo.pixels, found, analyser).face[0].numpy())
        return face

    def _drop_mask(self, session: Session, photo: StoredPhoto) -> None:
        if photo.mask is not None:
            (session.folder / "masks" / photo.mask).unlink(missing_ok=True)
        photo.mask = None
        self._drop_views(photo)

    @staticmethod
    def _put_brush_away(session: Session) -> None:
        """Whole photos lie under the brush: none stays when its photo may be gone."""
        for path in session.brush:
            Path(path).unlink(missing_ok=True)
        session.brush = []

    def _drop_views(self, photo: StoredPhoto) -> None:
        for name in ("overlay", "mask", "photo"):
            if name in photo.views:
                Path(photo.views[name]).unlink(missing_ok=True)
        photo.views = {}


def _named(session: Session, role: Role, photo_id: str) -> StoredPhoto:
    for photo in session.photos[role]:
        if photo.id == photo_id:
            return photo
    raise Problem("This photo is no longer here. Choose another one.")
