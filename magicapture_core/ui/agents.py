"""Tools for agents (Model Context Protocol): the named endpoints, and one that takes photos as agents can send them.

gradio makes a tool of every named endpoint, but none that works of one that takes several files. `check_photos` is
therefore no tool; `add_photos` does the same.
"""

from __future__ import annotations

import binascii
from typing import Any, Literal
from urllib.parse import unquote

import gradio as gr
from gradio.processing_utils import save_base64_to_cache

from magicapture_core.problems import Problem
from magicapture_core.ui.api import Api, plain_errors
from magicapture_core.ui.studio import Studio

UPLOADED = "/gradio_api/file="


class Agents:
    """The tools of one server that are not endpoints for programs, too."""

    def __init__(self, studio: Studio) -> None:
        self.studio, self.api = studio, Api(studio)

    @plain_errors
    def add_photos(
        self,
        role: Literal["subject", "style"],
        photos: list[str] | None = None,
        session: str = "",
        consent: bool = False,
        person: str = "",
        preset: str = "",
    ) -> dict[str, Any]:
        """Add photos of a person (role "subject") or of a style, and judge them. Begin here: it returns the session.

        Photos of a person need the user's consent: ask whether they may use these photos, and never assume it. 4 to 6
        photos of one person and 4 to 6 in one style are best. Then call draft, or train.

        Args:
            role: "subject" for photos of the person, "style" for photos in the style.
            photos: Each as data:image/jpeg;base64,… or as the address that upload_file_to_gradio returned.
            session: The session returned by an earlier call; empty begins a new one. Keep it secret.
            consent: True only if the user said that they may use these photos.
            person: Name of a sample person, instead of photos: alma, bruno, conrad or dana.
            preset: Name of a ready-made style, instead of style photos, for example corporate or golden-hour.
        """
        sent, files = [_uploaded(photo) for photo in photos or [] if UPLOADED in photo], list[str]()
        try:
            key = self.api.opened(role, session, consent, bool(photos))  # before a photo is written anywhere
            for number, photo in enumerate(photos or [], 1):
                files.append(self._file(photo, number))
            answer: dict[str, Any] = self.api.check_photos(files, role, key, consent, person, preset, False)
            return answer
        finally:
            self.studio.sessions.forget_uploads([*sent, *files])

    def _file(self, photo: str, number: int) -> str:
        """The path of a photo among the server's uploads."""
        if photo.startswith("data:"):
            try:
                return str(save_base64_to_cache(photo, str(self.studio.sessions.shown)))
            except (binascii.Error, ValueError, IndexError) as error:
                raise Problem(
                    f"Photo {number} is no base64 data: expected data:image/jpeg;base64,…"
                ) from error
        if UPLOADED in photo:
            return _uploaded(photo)  # `take` accepts uploads only
        raise Problem(
            f"Photo {number} must be data:image/jpeg;base64,… or the address of an upload, got {photo[:60]!r}. "
            "Send the picture itself: the server does not open addresses or files."
        )


def _uploaded(address: str) -> str:
    """The path in an upload's address."""
    return unquote(address.partition(UPLOADED)[2])


def mount(studio: Studio) -> None:
    """Add the tools to the Blocks under construction, before `api.mount`."""
    gr.api(Agents(studio).add_photos, api_name="add_photos", concurrency_limit=8)
    # gradio offers what is marked as a tool, and what is not marked at all.
    Api.check_photos._mcp_type = "endpoint"  # type: ignore[attr-defined]
