"""Step 1: photos of the person."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import gradio as gr

from magicapture_core.languages import N_, _, n_
from magicapture_core.photos import PHOTO_SUFFIXES
from magicapture_core.problems import Problem
from magicapture_core.ui import cards
from magicapture_core.ui.look_cards import first_draft, first_draft_coming
from magicapture_core.ui.ready_looks import look_title
from magicapture_core.ui.sample_people import sample_people
from magicapture_core.ui.step import Updates, told, told_as_it_goes, waits_until_filled
from magicapture_core.ui.step_photo_list import PhotoListStep, small_picture, unusable
from magicapture_core.ui.stored_session import Session
from magicapture_core.ui.studio import Studio
from magicapture_core.weights import ASSETS

CONSENT = N_("These are photos of me, or I have this person's permission to use them.")
EXAMPLES = ASSETS / "examples"
GOOD = {
    "good-1": N_("Sharp"), "good-2": N_("Even light"), "good-3": N_("Face free"), "good-4": N_("Any mood"),
}  # fmt: skip
BAD = {
    "blurred": N_("Blurred"), "dark": N_("Too dark"), "covered": N_("Eyes hidden"),
    "several_faces": N_("Two people"),
}  # fmt: skip
NOTES = (
    N_("4 to 6 photos of one person, taken on different days, from different sides."),
    N_("Leave out filters, heavy make-up and hands in front of the face."),
)
# Translators: "Person", "Woman" and "Man" complete "The photos show a"; the ages complete "Who is".
NOUNS = [(N_("Person"), ""), (N_("Woman"), "woman"), (N_("Man"), "man")]
AGES = [
    (N_("Any age"), ""), (N_("Young"), "young"), (N_("Middle-aged"), "middle-aged"), (N_("Old"), "old"),
]  # fmt: skip
KINDS = [(N_("A person"), "person"), (N_("An object or a pet"), "object")]


def _said_of(words: str) -> tuple[str, str]:
    """Age and noun, as the form's values."""
    age, _, noun = words.rpartition(" ")
    return age, "" if noun == "person" else noun


def _photo_guidance(studio: Studio) -> str:
    def examples(captions: dict[str, str]) -> list[cards.Example]:
        return [
            (_(caption), [small_picture(studio, EXAMPLES / f"{name}.webp")])
            for name, caption in captions.items()
        ]

    return cards.guidance(
        _("Photos that work well"), examples(GOOD), _("Avoid"), examples(BAD), [_(line) for line in NOTES]
    )


class PhotosStep(PhotoListStep):
    """Photos of the subject, consent, verdicts."""

    name = N_("Photos")
    role = "subject"

    def __init__(self, studio: Studio) -> None:
        super().__init__(studio)
        gr.HTML(cards.heading(
            _("Who is in the picture?"), _("Add 4 to 6 photos of one person, or try it with a sample person."),
        ))  # fmt: skip
        with gr.Row(elem_id="mc-adding"):
            with gr.Column(scale=3, min_width=300):
                self.files = gr.File(
                    label=_("Choose photos"), file_count="multiple", file_types=["image", *PHOTO_SUFFIXES],
                    height=190, elem_id="mc-files",
                )  # fmt: skip
                self.consent = gr.Checkbox(
                    False, label=_(CONSENT), elem_id="mc-consent", container=False, interactive=False
                )  # until the session is found
                self.held = gr.HTML(elem_id="mc-held")
                with gr.Accordion(_("Take a photo with this device's camera"), open=False):
                    self.camera = gr.Image(
                        sources=["webcam"],
                        type="filepath",
                        format="jpeg",
                        label=_("Camera"),
                        height=320,
                        buttons=[],
                    )
                    self.camera_add = gr.Button(_("Use this photo"))
            with gr.Column(scale=2, min_width=260):
                self.guide = gr.HTML(elem_id="mc-guide")
        self.refused = gr.HTML()
        self.summary = gr.HTML()
        self.first = gr.HTML(elem_id="mc-first")
        self.photos = gr.HTML(js_on_load=cards.CLICKS, elem_id="mc-photos")
        self.people = gr.HTML(js_on_load=cards.CLICKS, elem_id="mc-people")
        with gr.Accordion(_("Who is it? Saying so helps the likeness"), open=False, elem_classes="mc-waits"):
            with gr.Row():
                self.noun = gr.Radio(
                    cards.labelled(NOUNS), value="", label=_("The photos show a"), elem_id="mc-noun"
                )
                self.age = gr.Radio(cards.labelled(AGES), value="", label=_("Who is"), elem_id="mc-age")
            waits_until_filled()
        with gr.Accordion(_("Not a person?"), open=False, elem_classes="mc-waits"):
            self.kind = gr.Radio(
                cards.labelled(KINDS), value="person", label=_("The photos show"), elem_id="mc-kind"
            )
            waits_until_filled()

    def show(self, session: Session) -> Updates:
        """The session's photos with their verdicts, and what was said of them."""
        return {
            self.consent: gr.Checkbox(value=session.consent, interactive=True),
            self.kind: session.kind,
            **self._exchanged(session),
        }

    def _exchanged(self, session: Session) -> Updates:
        """Other photos, and what the person in them is called."""
        return {
            **dict(zip((self.age, self.noun), _said_of(session.words), strict=True)),
            **self.judged(session),
        }

    def judged(self, session: Session) -> Updates:
        """Without the fields: an answer that arrives late must take back nothing that was chosen meanwhile."""
        photos = session.photos["subject"]
        guide = _photo_guidance(self.studio)
        if photos:
            title = _("Which photos work well")
            guide = f'<details class="mc-more"><summary>{title}</summary>{guide}</details>'
        return {
            self.held: "",
            self.guide: guide,
            self.people: self._people(session),
            self.photos: cards.photo_cards(photos),
            self.first: self._first(session),
            self.summary: cards.summary(photos, "subject", session.kind),
            self.refused: "",
            self.said: "",
        }

    def watch(self, session: Session, seen: Any) -> tuple[Updates, Any]:
        """The first draft if it has changed since `seen`, and the new `seen`."""
        now = self._first(session)
        return ({} if now == seen else {self.first: now}), now

    def _first(self, session: Session) -> str:
        """The first draft, as soon as it is there; before, that it is drawn."""
        draft = next(iter(self.studio.drafts.holding(session).values()), None)
        if draft is None:
            return first_draft_coming() if self.studio.drafts.working(session) else ""
        return first_draft(draft.picture, look_title(draft.look), draft.lighter)

    def _people(self, session: Session) -> str:
        """The sample people; behind “Choose another person” once there are photos."""
        taken = bool(session.photos["subject"])
        shown = [
            (person.name, person.title, _invented(len(person.photos)), [
                small_picture(self.studio, path) for path in person.photos[:3]
            ])
            for person in sample_people()
        ]  # fmt: skip
        found = cards.choices(shown, session.person if taken else None, "person")
        if not taken:
            title = _("Or try it with a sample person")
            return f'<h3 class="mc-sub">{title}</h3>{found}' if found else ""
        anew = cards.button("another", "", _("Remove these photos and add others"))
        said = _("Removes the photos above. What was learned from them, and its portraits, stay.")
        return (
            f'<details class="mc-more" id="mc-another"><summary>{_("Choose another person")}</summary>'
            f'<p class="mc-quiet">{said}</p>'
            f'<p class="mc-anew">{anew}</p>{found}</details>'
        )

    @told_as_it_goes(name)
    def agree(self, key: str, given: bool, files: list[str] | None) -> Iterator[Updates]:
        """The consent box was ticked or cleared. files: what was dropped before; now somebody may look at it."""
        self.studio.photos.consent(key, given)
        if given and files:
            yield {self.held: ""}
            yield from self._take(key, files)
        else:
            yield {self.held: self._held(files) if files else "", self.said: ""}
            self.studio.drafts.renew(key)

    @told_as_it_goes(name)
    def upload(self, key: str | None, files: list[str] | str | None, given: bool) -> Iterator[Updates]:
        """Files were dropped, chosen or taken by the camera. given: the consent, as the page has it; key: None before
        the session was opened."""
        if not files:
            raise Problem(_("There is no photo yet. Take or choose one first."))
        sent = [files] if isinstance(files, str) else files
        if key is None or not self.studio.photos.consent(key, given).consent:
            yield {self.held: self._held(sent), self.said: ""}
            return
        yield from self._take(key, sent)
        yield {self.camera: None}

    @told(name)
    def remind(self, files: list[str] | None, given: bool) -> Updates:
        """The session was opened: photos that were chosen before wait for the box."""
        return {self.held: self._held(files)} if files and not given else {}

    def _held(self, files: list[str]) -> str:
        said = n_(
            "{n} photo here. Tick the box above, and it is used; before that nobody opens it.",
            "{n} photos here. Tick the box above, and they are used; before that nobody opens them.",
            len(files),
        )
        return cards.note(said, "warn")

    @told_as_it_goes(name)
    def press(self, key: str, event: gr.EventData) -> Iterator[Updates]:
        """Use a photo, leave it out or remove it, or take another person."""
        act, target = str(event.act), str(event.id)
        if act == "person":
            session = self.studio.photos.place_person(key, target)
            yield {self.kind: session.kind, **self._exchanged(session)}
            self.studio.drafts.prepare(key)
            for session in self.studio.photos.looking(key, "subject"):
                yield self.judged(session)
            self.studio.drafts.renew(key)
        else:
            another = act == "another"
            session = self.studio.photos.another_person(key) if another else self._pressed(key, act, target)
            self.studio.drafts.renew(key)
            yield self._exchanged(session)

    @told(name)
    def call(self, key: str, noun: str, age: str) -> Updates:
        """What the person is called in prompts."""
        session = self.studio.photos.call(key, f"{age} {noun or 'person'}" if age else noun)
        self.studio.drafts.renew(key)
        return {self.first: self._first(session)}

    @told(name)
    def choose_kind(self, key: str, kind: str) -> Updates:
        """Person or object."""
        session = self.studio.photos.set_kind(key, kind)
        self.studio.drafts.renew(key)
        return self.judged(session)

    def lacking(self, session: Session) -> str | None:
        """Why the next step would make no sense yet."""
        if not session.photos["subject"]:
            return _("Add some photos first, or take a sample person.")
        if not session.allowed:
            return _("Tick the box that says you may use these photos.")
        return unusable(session, self.role)


def _invented(photos: int) -> str:
    """Of a sample person, how many photos there are."""
    return n_("{n} photo, an invented face", "{n} photos, an invented face", photos)
