"""A session's masks: what of each photo is learned, shown and corrected with the brush. Does not know gradio."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from magicapture_core.languages import _
from magicapture_core.photos import Photo
from magicapture_core.problems import PhotoProblem, Problem
from magicapture_core.ui.mask_files import drop_brush_pictures, drop_mask, drop_views, own_mask
from magicapture_core.ui.session_photos import THUMB_SIDE, SessionPhotos
from magicapture_core.ui.sessions import Sessions
from magicapture_core.ui.stored_session import Role, Session, StoredPhoto

if TYPE_CHECKING:
    from magicapture_core.concepts import Concept, Example
    from magicapture_core.config import Framing
    from magicapture_core.ui.server_models import ModelFacts

EDITOR_SIDE = 768
MASK_COLOUR = (46, 204, 138)
"""Of what is learned, under the brush and around it everywhere."""
LEFT_OUT_COLOUR = (120, 120, 128)
"""Under the brush, of what is not."""


@dataclass(frozen=True)
class MaskView:
    """One photo as training sees it; pictures are shown files. `problem` instead where it cannot be used."""

    photo: StoredPhoto
    role: Role
    pictures: dict[str, str]
    """"overlay", "mask" and "photo" -> path."""
    problem: str | None = None
    doubt: str | None = None
    """Why somebody should look at the mask; None: nothing speaks against it."""


class SessionMasks:
    """Show masks, correct them, and prepare what is trained on."""

    def __init__(self, sessions: Sessions, photos: SessionPhotos) -> None:
        self.sessions, self.photos = sessions, photos

    def concept(
        self, session: Session, role: Role, resolution: int, framing: Framing, look: str | None = None
    ) -> Concept:
        """What is trained on: the usable photos, with the visitor's own masks. look: as for `usable`."""
        from magicapture_core.concepts import prepare_concept

        stored = session.usable(role, look)
        masks = {photo.name: mask for photo in stored if (mask := own_mask(session, photo)) is not None}
        with self.photos.face_networks:
            return prepare_concept(
                [self.photos.read(session, photo) for photo in stored], role, resolution=resolution,
                analyser=self.photos.analyser()[0], kind=session.kind, masks=masks, framing=framing,
            )  # fmt: skip

    def views(self, key: str, role: Role, look: str | None = None) -> list[MaskView]:
        """Every usable photo as training will see it; made once and kept until something changes."""
        with self.sessions.changing(key) as session:
            facts = self.photos.facts(session)
            return [self._view(session, role, photo, facts) for photo in session.usable(role, look)]

    def _view(self, session: Session, role: Role, photo: StoredPhoto, facts: ModelFacts) -> MaskView:
        from magicapture_core.concepts import doubt, prepare_concept

        made_from = f"{photo.mask} {session.kind} {facts.resolution} {facts.framing}"
        if photo.views.get("made from") == made_from:
            return MaskView(photo, role, photo.views, doubt=photo.views.get("doubt"))
        drop_views(photo)
        mask = own_mask(session, photo)
        masks = {} if mask is None else {photo.name: mask}
        try:
            with self.photos.face_networks:
                concept = prepare_concept(
                    [self.photos.read(session, photo)], role, resolution=facts.resolution, framing=facts.framing,
                    analyser=self.photos.analyser()[0], kind=session.kind, masks=masks,
                )  # fmt: skip
        except PhotoProblem as problem:
            return MaskView(photo, role, {"photo": photo.thumb}, str(problem).splitlines()[-1].lstrip("- "))
        photo.views = {"made from": made_from}
        said = None if mask is not None else doubt(concept.examples[0])
        if said:
            photo.views["doubt"] = said
        for name, pixels in pictures_of(concept.examples[0], role).items():
            path = session.new_shown(".webp")
            picture = Image.fromarray(pixels)
            if picture.width < THUMB_SIDE // 2:  # a small model's pictures would be blurred by the browser
                picture = picture.resize((picture.width * 2, picture.height * 2), Image.Resampling.LANCZOS)
            picture.save(path, quality=90)
            photo.views[name] = str(path)
        return MaskView(photo, role, photo.views, doubt=said)

    def editor(self, key: str, role: Role, photo_id: str) -> tuple[Session, Path, Path]:
        """Two shown pictures for the brush: the whole photo, and the mask of its face painted on nothing."""
        with self.sessions.changing(key) as session:
            stored = _named(session, role, photo_id)
            photo = self.photos.read(session, stored)
            face = self._face(session, role, stored, photo)
            picture = Image.fromarray(photo.pixels)
            picture.thumbnail((EDITOR_SIDE, EDITOR_SIDE))
            painted = Image.fromarray((face * 255).astype(np.uint8)).resize(
                picture.size, Image.Resampling.BILINEAR
            )
            layer = np.zeros((picture.height, picture.width, 4), np.uint8)
            colour = MASK_COLOUR if role == "subject" else LEFT_OUT_COLOUR
            layer[np.asarray(painted) >= 128] = (*colour, 255)
            drop_brush_pictures(session)
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
                raise Problem(_("Nothing is painted. Paint over the face, or go back to the automatic mask."))
            drop_mask(session, stored)
            folder = session.folder / "masks"
            folder.mkdir(exist_ok=True)
            stored.mask = f"{secrets.token_hex(8)}.png"
            mask.save(folder / stored.mask)
        return session

    def automatic(self, key: str, role: Role, photo_id: str) -> Session:
        """Drop the visitor's own mask of a photo."""
        with self.sessions.changing(key) as session:
            drop_mask(session, _named(session, role, photo_id))
        return session

    def _face(self, session: Session, role: Role, stored: StoredPhoto, photo: Photo) -> np.ndarray:
        """(h, w) float: the face in the whole photo, the visitor's own or the automatic one."""
        from magicapture_core.masks import face_masks, object_masks

        own = own_mask(session, stored)
        if own is not None:
            return own.astype(np.float32)
        analyser = self.photos.analyser()[0]
        with self.photos.face_networks:
            if session.kind == "object":
                return object_masks(photo.pixels, analyser).face[0].numpy()
            faces = analyser.detect(photo.pixels)
            wanted = faces[:1] if role == "subject" else faces
            face = np.zeros(photo.pixels.shape[:2], np.float32)
            for found in wanted:
                face = np.maximum(face, face_masks(photo.pixels, found, analyser).face[0].numpy())
        return face


def pictures_of(example: Example, role: Role) -> dict[str, np.ndarray]:
    """The example as people see it, what is learned of it highlighted: of a person the face, of a style all else."""
    from magicapture_core.masks import highlight

    photo = ((example.image / 2 + 0.5).clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy()
    masks = example.masks
    learned = (masks.face if role == "subject" else masks.nonface)[0].numpy()
    mask = np.repeat((learned * 255).astype(np.uint8)[..., None], 3, axis=2)
    return {"overlay": highlight(photo, learned), "mask": mask, "photo": photo}


def _named(session: Session, role: Role, photo_id: str) -> StoredPhoto:
    for photo in session.photos[role]:
        if photo.id == photo_id:
            return photo
    raise Problem(_("This photo is no longer here. Choose another one."))
