"""Step 2: a ready-made style, or style photos of the visitor's own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import gradio as gr

from magicapture_core.photos import PHOTO_SUFFIXES
from magicapture_core.ui import cards
from magicapture_core.ui.drafting import COUNT
from magicapture_core.ui.step import Updates, told, told_as_it_goes
from magicapture_core.ui.step_photo_list import PhotoListStep, small_picture, unusable
from magicapture_core.ui.stored_session import Session
from magicapture_core.ui.studio import Studio
from magicapture_core.weights import ASSETS

PRESETS = ASSETS.parent / "presets"
STYLE_NOTES = (
    "4 to 6 photos that share light, colours, clothes or setting; one person in each is best.",
    "The faces in them are left out: only the style is learned.",
)
BUILT_IN_MAKES = "The built-in model makes them; the model that you chose makes none."


def _style_guidance(studio: Studio) -> str:
    def example(caption: str, names: Sequence[str]) -> list[cards.Example]:
        paths = [PRESETS / f"{name}.jpg" for name in names]
        return [(caption, [small_picture(studio, path) for path in paths if path.is_file()])]

    one = example("One look in all of them", ("profile/1", "profile/2", "profile/3"))
    mixed = example("Different looks blur together", ("golden-hour/1", "mono-studio/1", "passport/1"))
    return cards.guidance("A style", one, "Not a style", mixed, STYLE_NOTES)


class StyleStep(PhotoListStep):
    """A preset, or the visitor's own style photos."""

    name = "Style"
    role = "style"

    def __init__(self, studio: Studio) -> None:
        super().__init__(studio)
        gr.HTML(cards.heading("Which style?", "Choose one, or add 4 to 6 photos in a style of your own."))
        self.presets = gr.HTML(js_on_load=cards.CLICKS, elem_id="mc-presets")
        with gr.Accordion("Use my own style photos", open=not PRESETS.is_dir()) as self.own, gr.Row():
            with gr.Column(scale=3, min_width=300):
                self.files = gr.File(
                        label="Drop style photos here, or click to choose them", file_count="multiple",
                        file_types=["image", *PHOTO_SUFFIXES], height=170, elem_id="mc-style-files",
                    )  # fmt: skip
            with gr.Column(scale=2, min_width=260):
                gr.HTML(_style_guidance(studio))
        self.drafts = gr.HTML(elem_id="mc-drafts")
        self.refused = gr.HTML()
        self.summary = gr.HTML()
        self.photos = gr.HTML(js_on_load=cards.CLICKS, elem_id="mc-style-photos")

    def show(self, session: Session) -> Updates:
        """The presets with the chosen one marked, and the style photos."""
        photos = session.photos["style"]
        title = ""
        if session.preset:
            from magicapture_core.presets import load_preset

            title = cards.note(
                f"{load_preset(session.preset).title}: its photos are below. Remove any you dislike.", "good"
            )
        return {
            self.presets: self._presets(session.preset),
            self.drafts: self._drafts(session),
            self.photos: cards.photo_cards(photos),
            self.summary: title or cards.summary(photos, "style"),
            self.refused: "",
            self.said: "",
        }

    def watch(self, session: Session, seen: Any) -> tuple[Updates, Any]:
        """The drafts if they have changed since `seen`, and the new `seen`."""
        now = [session.drafts_of, len(session.drafts), self.studio.drafts.working(session)]
        return ({} if now == seen else {self.drafts: self._drafts(session)}), now

    def _drafts(self, session: Session) -> str:
        drafts = self.studio.drafts
        holds = session.drafts_of is not None and session.drafts_of == drafts.source(session)
        found = [(draft.picture, draft.identity) for draft in session.drafts] if holds else []
        coming = COUNT - len(found) if drafts.working(session) else 0
        problem = drafts.problem(session)
        if problem and not found and not coming:
            return cards.note(f"There are no drafts: {problem}", "warn")
        other = (
            ""
            if drafts.facts(session).name == (session.model or self.studio.models.default)
            else BUILT_IN_MAKES
        )
        return cards.drafts(found, coming, other)

    def _presets(self, chosen: str | None) -> str:
        from magicapture_core.presets import load_preset, preset_names  # imports torch

        shown: list[tuple[str, str, str, list[Any]]] = []
        for name in preset_names():
            preset = load_preset(name)
            pictures = [small_picture(self.studio, path) for path in preset.photos[:3]]
            shown.append((name, preset.title, preset.description, pictures))
        return cards.choices(shown, chosen, "preset")

    @told_as_it_goes(name)
    def upload(self, key: str, files: list[str] | None) -> Iterator[Updates]:
        """Own style photos were added; they replace a preset."""
        yield from self._take(key, files or [])

    @told(name)
    def press(self, key: str, event: gr.EventData) -> Updates:
        """Choose a preset; use a photo anyway, leave it out or remove it."""
        act, target = str(event.act), str(event.id)
        if act == "preset":
            return self._changed(key, self.studio.photos.use_preset(key, target))
        return self._changed(key, self._pressed(key, act, target))

    def lacking(self, session: Session) -> str | None:
        """Why the next step would make no sense yet."""
        if not session.photos["style"]:
            return "Choose a style, or add some style photos."
        return unusable(session, self.role, "style photos")
