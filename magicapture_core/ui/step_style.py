"""Step 2: ready-made looks, or style photos of the visitor's own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import gradio as gr

from magicapture_core.languages import N_, _, together
from magicapture_core.photos import PHOTO_SUFFIXES
from magicapture_core.ui import cards
from magicapture_core.ui.look_cards import LookCard, look_cards
from magicapture_core.ui.ready_looks import OWN_TITLE
from magicapture_core.ui.step import Updates, told, told_as_it_goes
from magicapture_core.ui.step_photo_list import PhotoListStep, small_picture, unusable
from magicapture_core.ui.stored_session import OWN, Session, StoredDraft
from magicapture_core.ui.studio import Studio
from magicapture_core.weights import ASSETS

PRESETS = ASSETS.parent / "presets"
STYLE_NOTES = (
    N_("4 to 6 photos that share light, colours, clothes or setting; one person in each is best."),
    N_("The faces in them are left out: only the style is learned."),
)
BUILT_IN_MAKES = N_("The built-in model makes the drafts; the model that you chose makes none.")


def _style_guidance(studio: Studio) -> str:
    def example(caption: str, names: Sequence[str]) -> list[cards.Example]:
        paths = [PRESETS / f"{name}.jpg" for name in names]
        return [(caption, [small_picture(studio, path) for path in paths if path.is_file()])]

    one = example(_("One look in all of them"), ("profile/1", "profile/2", "profile/3"))
    mixed = example(_("Different looks blur together"), ("golden-hour/1", "mono-studio/1", "passport/1"))
    notes = [_(line) for line in STYLE_NOTES]
    found = cards.guidance(_("A style"), one, _("Not a style"), mixed, notes)
    return f'<details class="mc-more"><summary>{_("Which photos make a style")}</summary>{found}</details>'


class StyleStep(PhotoListStep):
    """Looks to tick, each with a draft of the visitor, and the visitor's own style photos."""

    name = N_("Style")
    role = "style"

    def __init__(self, studio: Studio) -> None:
        super().__init__(studio)
        gr.HTML(cards.heading(
            _("Which looks?"), _("Tick one or more: they are learned from the same photos, one after the other."),
        ))  # fmt: skip
        self.drafts = gr.HTML(elem_id="mc-drafts")
        self.presets = gr.HTML(js_on_load=cards.CLICKS, elem_id="mc-presets")
        with gr.Column(visible=False, elem_id="mc-own") as self.own:
            self.own_title = gr.HTML(js_on_load=cards.INTO_VIEW)
            with gr.Row():
                with gr.Column(scale=3, min_width=300):
                    self.files = gr.File(
                        label=_("Choose style photos"), file_count="multiple", file_types=["image", *PHOTO_SUFFIXES],
                        height=170, elem_id="mc-style-files",
                    )  # fmt: skip
                with gr.Column(scale=2, min_width=260):
                    gr.HTML(_style_guidance(studio))
            self.refused = gr.HTML()
            self.summary = gr.HTML()
            self.photos = gr.HTML(js_on_load=cards.CLICKS, elem_id="mc-style-photos")

    def show(self, session: Session) -> Updates:
        """The looks with the ticked ones marked, and the visitor's own style photos."""
        photos = session.photos_of("style", OWN)
        ticked = OWN in session.looks
        return {
            self.presets: self._looks(session),
            self.drafts: self._said(session),
            self.own: gr.Column(visible=ticked),
            self.own_title: f'<h3 class="mc-sub" data-shown="own">{_(OWN_TITLE)}</h3>' if ticked else "",
            self.photos: cards.photo_cards(photos),
            self.summary: cards.summary(photos, "style"),
            self.refused: "",
            self.said: "",
        }

    def watch(self, session: Session, seen: Any) -> tuple[Updates, Any]:
        """The drafts if they have changed since `seen`, and the new `seen`."""
        drafts = self.studio.drafts
        there = {look: draft.made_of for look, draft in drafts.holding(session).items()}
        now = [there, drafts.working(session), drafts.problem(session)]
        if now == seen:
            return {}, seen
        same = seen is not None and there == seen[0]
        looks = {} if same else {self.presets: self._looks(session)}
        return {self.drafts: self._said(session), **looks}, now

    def _said(self, session: Session) -> str:
        """How the drafts stand, in words."""
        drafts = self.studio.drafts
        there, problem = len(drafts.holding(session)), drafts.problem(session)
        if problem and not drafts.working(session):
            return cards.note(_("There are no drafts: {problem}", problem=problem), "warn")
        if drafts.working(session):
            of_all = there + sum(look not in drafts.holding(session) for look in self._names(session))
            said = _("Drawing a draft in each look: {done} of {all} …", done=there, all=of_all)
        elif there:
            said = _("The pictures are drafts: the look, not yet your face. Learning makes the face yours.")
        else:
            return ""
        own_model = drafts.facts(session).name == self.studio.models.of(session)
        more = [] if own_model else [_(BUILT_IN_MAKES)]
        if any(draft.lighter for draft in drafts.holding(session).values()):
            # Only the built-in model's learning was measured to do so: its schedule has lambda_lightness.
            more.append(
                _("In some the face is lighter than in your photos; learning brings it nearer.")
                if own_model
                else _("In some the face is lighter than in your photos.")
            )
        busy = "true" if drafts.working(session) else "false"
        return f'<p class="mc-quiet" role="status" aria-busy="{busy}">{together(said, *more)}</p>'

    def _names(self, session: Session) -> list[str]:
        from magicapture_core.presets import preset_names  # imports torch

        own = [OWN] if session.usable("style", OWN) else []
        return [*preset_names(), *own]

    def _looks(self, session: Session) -> str:
        from magicapture_core.presets import load_preset, preset_names

        drafts = self.studio.drafts.holding(session)
        shown = []
        for name in preset_names():
            preset, draft = load_preset(name), drafts.get(name)
            examples = [small_picture(self.studio, path) for path in preset.photos[:3]]
            picture = "" if draft else small_picture(self.studio, preset.photos[0], 400)
            shown.append(_card(name, _(preset.title), _(preset.description), draft, picture, examples))
        thumbs = [photo.thumb for photo in session.usable("style", OWN)]
        brought = _("4 to 6 photos of a look that you bring.")
        own = _card(OWN, _(OWN_TITLE), brought, drafts.get(OWN), next(iter(thumbs), None), thumbs)
        return look_cards([*shown, own], session.looks)

    @told_as_it_goes(name)
    def upload(self, key: str, files: list[str] | None) -> Iterator[Updates]:
        """Own style photos were added."""
        yield from self._take(key, files or [])
        yield self.show(self.studio.sessions.find(key))

    @told(name)
    def press(self, key: str, event: gr.EventData) -> Updates:
        """Tick a look or take its tick away; use a photo, leave it out or remove it."""
        act, target = str(event.act), str(event.id)
        ticked = act == "look"
        session = self.studio.photos.toggle_look(key, target) if ticked else self._pressed(key, act, target)
        self.studio.drafts.renew(key)
        return self.show(session)

    def lacking(self, session: Session) -> str | None:
        """Why the next step would make no sense yet."""
        if not session.looks:
            return _("Tick at least one look.")
        if OWN not in session.looks:
            return None
        if not session.photos_of("style", OWN):
            return _("Add some photos to “{look}”, or take its tick away.", look=_(OWN_TITLE))
        return unusable(session, self.role)


def _card(
    name: str, title: str, about: str, draft: StoredDraft | None, example: str | None, examples: Sequence[str]
) -> LookCard:
    """A look's card: with its draft, or else with an example."""
    if draft is None:
        return LookCard(name, title, about, example, False, examples)
    return LookCard(name, title, about, draft.picture, True, examples, draft.lighter)
