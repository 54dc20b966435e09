"""Passport-style photos of a session's portraits, on a sheet to print."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from PIL import Image

from magicapture_core.formats import background_colour, photo_spec
from magicapture_core.formats import paper as known_paper
from magicapture_core.ui.session_portraits import SessionPortraits, forget_pictures
from magicapture_core.ui.sessions import Sessions


class PortraitSheets:
    """Sheets of the session's own portraits only."""

    def __init__(self, sessions: Sessions, portraits: SessionPortraits) -> None:
        self.sessions, self.portraits = sessions, portraits

    def make(
        self, key: str, portrait_id: str | None, spec: str, paper: str, *, background: str | None, force: bool
    ) -> dict[str, Any]:
        """A passport-style photo of the portrait as it stands, finished or not, checked and on a sheet.

        background: the colour that replaces it, as CSS writes it; None keeps the portrait's own.
        Returns {"photo": shown picture, "checks": [Check], "files": [sheet paths], "passed": bool}; no files where
        checks failed and `force` is not set.
        """
        from magicapture_core.formats.passport import make_passport_photo
        from magicapture_core.formats.sheet import write_sheet
        from magicapture_core.photos import read_photo
        from magicapture_core.provenance import save_picture

        session = self.sessions.find(key)
        self.sessions.check_room(session)
        portrait = self.portraits.of(session, portrait_id)
        finished = session.finished.get(portrait.id)
        source = finished["file"] if finished else portrait.picture
        colour = None if background is None else background_colour(background)
        photo = make_passport_photo(
            read_photo(source).pixels, photo_spec(spec), replace=colour is not None, background=colour
        )
        made: dict[str, Any] = {
            "prompt": portrait.prompt,
            "seed": portrait.seed,
            "settings": portrait.settings,
        }
        suffixes = (".pdf", ".png") if photo.passed or force else ()
        shown, *files = (session.new_shown(suffix) for suffix in (".jpg", *suffixes))
        try:
            save_picture(Image.fromarray(photo.pixels), shown, **made)
            for file in files:
                write_sheet(photo, known_paper(paper), file, **made)
            self._note(key, portrait.id, [shown, *files])
        except BaseException:
            forget_pictures([shown, *files])
            raise
        return {"photo": shown, "checks": photo.checks, "files": files, "passed": photo.passed}

    def _note(self, key: str, portrait_id: str, files: list[Path]) -> None:
        """The newest files replace those before, and go with their portrait."""
        with self.sessions.changing(key) as session:
            self.portraits.of(session, portrait_id)  # it may have been deleted meanwhile
            forget_pictures(session.sheets.pop(portrait_id, ()))
            session.sheets[portrait_id] = list(map(str, files))
