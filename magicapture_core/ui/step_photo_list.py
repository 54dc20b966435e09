"""What the steps with a list of photos share: uploads, the buttons of each photo, and why none can be used."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import gradio as gr
from PIL import Image

from magicapture_core.languages import _
from magicapture_core.problems import Problem
from magicapture_core.ui import cards
from magicapture_core.ui.step import Step, Updates
from magicapture_core.ui.stored_session import OWN, Role, Session
from magicapture_core.ui.studio import Studio


class PhotoListStep(Step):
    """A step with an upload box, a list of photos and a line that says how many are used."""

    role: ClassVar[Role]
    files: gr.File
    summary: gr.HTML
    refused: gr.HTML
    """Which files could not be added, and why."""

    def _take(self, key: str, sent: list[str]) -> Iterator[Updates]:
        """Add uploads, and show each photo as soon as it is judged."""
        # The box is emptied first: emptied at the end, it would lose what was dropped meanwhile.
        yield {self.files: gr.File(value=None)}
        self.studio.drafts.prepare(key)
        for session, refused in self.studio.photos.taking(key, self.role, sent):
            yield {**self.judged(session), self.refused: cards.note("\n".join(refused), "bad")}
        self.studio.drafts.renew(key)

    def judged(self, session: Session) -> Updates:
        """What changes while photos arrive and are looked at."""
        return self.show(session)

    def _pressed(self, key: str, act: str, photo_id: str) -> Session:
        """Do what a photo's button says: remove the photo, use it, or leave it out."""
        if act == "remove":
            return self.studio.photos.remove(key, self.role, photo_id)
        if act not in ("use", "leave"):
            raise Problem(_("This button is not known. Reload the page."))
        return self.studio.photos.use_anyway(key, self.role, photo_id, wanted=act == "use")


def small_picture(studio: Studio, source: Path, side: int = 200) -> str:
    """A small copy of one of the project's own pictures, among the shown files; made once."""
    folder = studio.sessions.shown / "samples"
    path = folder / f"{source.parent.name}-{source.stem}-{side}.webp"
    if not path.exists():
        folder.mkdir(exist_ok=True)
        with Image.open(source) as image:
            picture = image.convert("RGB")
        picture.thumbnail((side, side))
        picture.save(path, quality=82)
    return str(path)


def unusable(session: Session, role: Role) -> str | None:
    """Why nothing can be learned from the visitor's own photos that are there, or None."""
    photos = session.photos_of(role, OWN)
    if any(photo.used for photo in photos):
        return None
    if any(photo.level != "refuse" for photo in photos):
        if role == "style":
            return _("None of the style photos is ticked. Tick those that are right, or add others.")
        return _("None of the photos is ticked. Tick those that are right, or add others.")
    if role == "style":
        return _("None of the style photos can be used. Add at least one that can.")
    return _("None of the photos can be used. Add at least one that can.")
