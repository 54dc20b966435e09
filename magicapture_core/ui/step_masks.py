"""Step 3: what is learned from each photo, and the brush to correct it."""

from __future__ import annotations

import base64
import io
from html import escape
from pathlib import Path

import gradio as gr
import numpy as np
from PIL import Image

from magicapture_core.languages import N_, _, n_
from magicapture_core.problems import Problem
from magicapture_core.ui import cards
from magicapture_core.ui.look_cards import MaskCard, mask_cards
from magicapture_core.ui.ready_looks import look_title
from magicapture_core.ui.server_models import ModelFacts
from magicapture_core.ui.session_masks import EDITOR_SIDE, LEFT_OUT_COLOUR, MASK_COLOUR, MaskView
from magicapture_core.ui.step import Step, Updates, told
from magicapture_core.ui.stored_session import OWN, Role, Session
from magicapture_core.ui.studio import Studio

HERE = Path(__file__).parent
MOST_BYTES = 4_000_000
UNREADABLE = N_("The painted mask could not be read. Reload the page and paint it again.")
VIEWS = [
    (N_("The highlighted area"), "overlay"), (N_("In black and white"), "mask"), (N_("The photo alone"), "photo"),
]  # fmt: skip
LEARNED = {
    "person": N_("Of your photos, the face is learned; of a look, everything but the faces."),
    "object": N_("Of your photos, the object is learned; of a look, everything but the object."),
}


class MasksStep(Step):
    """What is learned of every photo; a click opens the brush."""

    name = N_("Check faces")

    def __init__(self, studio: Studio) -> None:
        super().__init__(studio)
        gr.HTML(cards.heading(
            _("Is the right area highlighted?"),
            _("The highlighted area is what is learned. If an edge is wrong, choose the photo and correct it."),
        ))  # fmt: skip
        self.editing = gr.State(None)
        self.brush = gr.HTML(
            html_template=(HERE / "brush.html").read_text(encoding="utf-8"),
            js_on_load=(HERE / "brush.js").read_text(encoding="utf-8"), visible=False, elem_id="mc-brush",
        )  # fmt: skip
        self.found = gr.HTML(elem_id="mc-doubts")
        self.subject = gr.HTML(js_on_load=cards.CLICKS, elem_id="mc-subject-masks")
        self.style = gr.HTML(js_on_load=cards.CLICKS, elem_id="mc-style-masks")
        with gr.Accordion(_("Show it in another way"), open=False):
            self.view = gr.Radio(
                cards.labelled(VIEWS),
                value="overlay",
                show_label=False,
                container=False,
                elem_id="mc-mask-view",
            )
            self.how = gr.HTML()

    def show(self, session: Session) -> Updates:  # noqa: ARG002 - as every step
        """Hide the brush. The pictures come later, from `pictures`, because they take a moment."""
        return {self.brush: gr.HTML(value=None, visible=False), self.editing: None}

    def pictures(self, key: str, view: str) -> Updates:
        """Every photo as training sees it."""
        session = self.studio.sessions.find(key)
        facts = self.studio.facts(session)
        views = self.studio.masks.views(key, "subject")
        subject = mask_cards(_("Your photos"), "subject", _cards(views, view))
        rows: list[str] = []
        for look in session.looks or [OWN]:
            found = self.studio.masks.views(key, "style", look)
            views += found
            row = mask_cards(look_title(look), "style", _cards(found, view))
            rows.append(row if not rows else _folded(look_title(look), found, row))
        reason = self.studio.photos.analyser()[1]
        return {
            self.found: _found(views, session.kind),
            self.subject: subject,
            self.style: "".join(rows),
            self.how: f'<p class="mc-quiet">{_cut(facts)}</p><details class="mc-more">'
            f"<summary>{_('How the faces were found')}</summary>{reason}</details>",
        }

    @told(name)
    def switch(self, key: str, view: str) -> Updates:
        """Another way to look at the masks."""
        return self.pictures(key, view)

    @told(name)
    def press(self, key: str, event: gr.EventData) -> Updates:
        """Open a photo under the brush."""
        role = _role(str(event.act).removeprefix("edit-"))
        photo_id = str(event.id)
        session, picture, mask = self.studio.masks.editor(key, role, photo_id)
        value = {
            "photo": cards.address(picture), "mask": cards.address(mask),
            **_brush_words(session.kind, role),
            "tint": ", ".join(map(str, MASK_COLOUR if role == "subject" else LEFT_OUT_COLOUR)),
        }  # fmt: skip
        return {self.brush: gr.HTML(value=value, visible=True), self.editing: [role, photo_id]}

    @told(name)
    def finish(self, key: str, view: str, editing: list[str] | None, event: gr.EventData) -> Updates:
        """Save what was painted, go back to the automatic mask, or leave all as it was."""
        session = self.studio.sessions.find(key)
        if editing is None or event.act == "cancel":
            return self.show(session)
        role, photo_id = _role(editing[0]), editing[1]
        if event.act == "save":
            session = self.studio.masks.paint(key, role, photo_id, _alpha(str(event.mask)))
        else:
            session = self.studio.masks.automatic(key, role, photo_id)
        return {**self.show(session), **self.pictures(key, view)}


def _cards(views: list[MaskView], view: str) -> list[MaskCard]:
    return [
        MaskCard(
            each.photo.id, each.photo.name, each.pictures.get(view, each.photo.thumb), each.photo.mask is not None,
            each.problem, each.doubt,
        )
        for each in views
    ]  # fmt: skip


def _folded(title: str, views: list[MaskView], row: str) -> str:
    """A further look: one has a look at it where something is to be checked."""
    doubtful = any(view.problem or view.doubt for view in views)
    return f'<details class="mc-fold"{" open" if doubtful else ""}><summary>{escape(title)}</summary>{row}</details>'


def _found(views: list[MaskView], kind: str) -> str:
    """What is to be checked, in words."""
    doubtful = sum(bool(view.problem or view.doubt) for view in views)
    if doubtful:
        check = n_(
            "Please check the photo with a badge.", "Please check the {n} photos with a badge.", doubtful
        )
        return cards.note(f"{_(LEARNED[kind])} {check}", "warn")
    return cards.note(f"{_(LEARNED[kind])} {_('Nothing looks wrong: you can go on.')}", "good")


def _cut(facts: ModelFacts) -> str:
    """What was done to the photos, in words."""
    if facts.framing == "aligned":
        return _(
            "Straightened and cut to squares of {side}×{side} pixels, exactly as they are learned from.",
            side=facts.resolution,
        )
    return _(
        "Cut to squares of {side}×{side} pixels, exactly as they are learned from.", side=facts.resolution
    )


def _brush_words(kind: str, role: Role) -> dict[str, str]:
    """What the brush says, by its name in brush.html."""
    words = {
        "title": _("Paint over the object; erase what does not belong to it")
        if kind == "object"
        else _("Paint over the face; erase what does not belong to it"),
        "use": _("What is painted is learned.")
        if role == "subject"
        else _("What is painted is left out, all else is learned."),
        "brush": _("Brush"),
        "paint": _("Paint"),
        "erase": _("Erase"),
        "undo": _("Undo"),
        "size": _("Size"),
        "sizeOf": _("Size of the brush"),
        "canvas": _(
            "The photo with its mask. Paint with the pointer, or move with the arrow keys and paint with the space bar."
        ),
        "save": _("Save"),
        "automatic": _("Back to automatic"),
        "cancel": _("Cancel"),
    }
    return {name: escape(text, quote=True) for name, text in words.items()}


def _role(name: str) -> Role:
    return "subject" if name == "subject" else "style"


def _alpha(data_url: str) -> np.ndarray:
    """The alpha channel (h, w) uint8 of a PNG that the page sent."""
    head, _comma, body = data_url.partition(",")
    if head != "data:image/png;base64" or len(body) > MOST_BYTES:
        raise Problem(_(UNREADABLE))
    try:
        with Image.open(io.BytesIO(base64.b64decode(body, validate=True)), formats=["PNG"]) as image:
            if max(image.size) > 4 * EDITOR_SIDE:
                raise ValueError("too large")
            return np.asarray(image.convert("RGBA"))[..., 3]
    except (ValueError, OSError) as error:
        raise Problem(_(UNREADABLE)) from error
