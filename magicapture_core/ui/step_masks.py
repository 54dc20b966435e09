"""Step 3: what is learned from each photo, and the brush to correct it."""

from __future__ import annotations

from typing import Any

import gradio as gr

from magicapture_core.ui import cards
from magicapture_core.ui.sessions import Role, Session
from magicapture_core.ui.step import Step, Updates, told
from magicapture_core.ui.studio import Studio

VIEWS = [("Photo with the face marked", "overlay"), ("Mask alone", "mask"), ("Photo alone", "photo")]
TITLES = {
    "person": {
        "subject": "Your photos: the marked face is what is learned",
        "style": "Style photos: everything but the marked face is learned",
    },
    "object": {
        "subject": "Your photos: the marked object is what is learned",
        "style": "Style photos: everything but the marked object is learned",
    },
}


class MasksStep(Step):
    """Overlays of every photo; a click opens the editor."""

    name = "Masks"

    def __init__(self, studio: Studio) -> None:
        super().__init__(studio)
        gr.HTML(cards.heading(
            "What is learned from each photo",
            "The face is marked. If a mark is wrong, click the photo and paint over it. Most of the time all is well.",
        ))  # fmt: skip
        self.view = gr.Radio(
            VIEWS, value="overlay", show_label=False, container=False, elem_id="mc-mask-view"
        )
        self.editing = gr.State(None)
        with gr.Group(visible=False, elem_classes="mc-editor") as self.editor_group:
            gr.HTML('<h3 class="mc-sub">Paint over the face; erase what does not belong to it</h3>')
            self.editor = gr.ImageEditor(
                type="numpy", sources=[], transforms=[], layers=False, buttons=[], show_label=False, height=560,
                brush=gr.Brush(colors=["#ff4060"], default_color="#ff4060", color_mode="fixed", default_size=24),
                eraser=gr.Eraser(default_size=24), elem_id="mc-editor", interactive=True,
            )  # fmt: skip
            with gr.Row():
                self.save = gr.Button("Save", variant="primary", elem_id="mc-mask-save")
                self.automatic = gr.Button("Back to automatic", elem_id="mc-mask-auto")
                self.cancel = gr.Button("Cancel")
        self.subject = gr.HTML(js_on_load=cards.CLICKS, elem_id="mc-subject-masks")
        self.style = gr.HTML(js_on_load=cards.CLICKS, elem_id="mc-style-masks")
        self.how = gr.HTML()

    def show(self, session: Session) -> Updates:  # noqa: ARG002 - as every step
        """The editor closed; the pictures follow with `pictures`, for they take a moment."""
        return {self.editor_group: gr.Group(visible=False), self.editing: None}

    def pictures(self, key: str, view: str) -> Updates:
        """Every photo as training sees it."""
        session = self.studio.sessions.find(key)
        resolution = self.studio.facts(session).resolution
        found: dict[Role, str] = {}
        for role in ("subject", "style"):
            views = self.studio.photos.views(key, role, resolution)  # type: ignore[arg-type]
            found[role] = cards.mask_cards(  # type: ignore[index]
                TITLES[session.kind][role], role,  # type: ignore[arg-type]
                [
                    (each.photo.id, each.photo.name, each.pictures.get(view, each.photo.thumb),
                     each.photo.mask is not None, each.problem)
                    for each in views
                ],
            )  # fmt: skip
        reason = self.studio.photos.analyser()[1]
        return {
            self.subject: found["subject"],
            self.style: found["style"],
            self.how: f'<p class="mc-quiet">Cut to squares of {resolution}×{resolution} pixels, exactly as they are '
            f"learned from. {reason}</p>",
        }

    @told(name)
    def switch(self, key: str, view: str) -> Updates:
        """Another way to look at the masks."""
        return self.pictures(key, view)

    @told(name)
    def press(self, key: str, event: gr.EventData) -> Updates:
        """Open a photo in the editor."""
        role = str(event.act).removeprefix("edit-")
        photo_id = str(event.id)
        value: Any = self.studio.photos.editor(key, _role(role), photo_id)
        return {
            self.editor_group: gr.Group(visible=True),
            self.editor: value,
            self.editing: [role, photo_id],
        }

    @told(name)
    def save_mask(
        self, key: str, view: str, editing: list[str] | None, value: dict[str, Any] | None
    ) -> Updates:
        """Take what was painted."""
        if editing is None or value is None:
            return {}
        session = self.studio.photos.paint(key, _role(editing[0]), editing[1], value.get("layers") or [])
        return {**self.show(session), **self.pictures(key, view)}

    @told(name)
    def back_to_automatic(self, key: str, view: str, editing: list[str] | None) -> Updates:
        """Drop the correction."""
        if editing is None:
            return {}
        session = self.studio.photos.automatic(key, _role(editing[0]), editing[1])
        return {**self.show(session), **self.pictures(key, view)}

    @told(name)
    def close(self, key: str) -> Updates:
        """Leave the editor; nothing changes."""
        return self.show(self.studio.sessions.find(key))


def _role(name: str) -> Role:
    return "subject" if name == "subject" else "style"
