"""Step 1: photos of the person."""

from __future__ import annotations

from collections.abc import Iterator

import gradio as gr

from magicapture_core.photos import PHOTO_SUFFIXES
from magicapture_core.problems import Problem
from magicapture_core.ui import cards
from magicapture_core.ui.sample_people import sample_people
from magicapture_core.ui.step import Updates, told, told_as_it_goes, waits_until_filled
from magicapture_core.ui.step_photo_list import PhotoListStep, small_picture, unusable
from magicapture_core.ui.stored_session import Session
from magicapture_core.ui.studio import Studio
from magicapture_core.weights import ASSETS

CONSENT = "These are photos of me, or I have this person's permission to use them."
EXAMPLES = ASSETS / "examples"
GOOD = {"good-1": "Sharp", "good-2": "Even light", "good-3": "Face free", "good-4": "Any mood"}
BAD = {"blurred": "Blurred", "dark": "Too dark", "covered": "Eyes hidden", "several_faces": "Two people"}
NOTES = (
    "4 to 6 photos of one person, taken on different days, from different sides.",
    "Leave out filters, heavy make-up and hands before the face.",
)
NOUNS = [("Person", ""), ("Woman", "woman"), ("Man", "man")]
AGES = [("Any age", ""), ("Young", "young"), ("Middle-aged", "middle-aged"), ("Old", "old")]
KINDS = [("A person", "person"), ("An object or a pet", "object")]


def _said_of(words: str) -> tuple[str, str]:
    """Age and noun, as the form's values."""
    age, _, noun = words.rpartition(" ")
    return age, "" if noun == "person" else noun


def _photo_guidance(studio: Studio) -> str:
    def examples(captions: dict[str, str]) -> list[cards.Example]:
        return [
            (caption, [small_picture(studio, EXAMPLES / f"{name}.webp")])
            for name, caption in captions.items()
        ]

    return cards.guidance("Photos that work well", examples(GOOD), "Better leave out", examples(BAD), NOTES)


class PhotosStep(PhotoListStep):
    """Consent, photos of the subject, verdicts."""

    name = "Photos"
    role = "subject"

    def __init__(self, studio: Studio) -> None:
        super().__init__(studio)
        gr.HTML(
            cards.heading(
                "Who is in the picture?", "Add 4 to 6 photos of one person, or try it with a sample person."
            )
        )
        self.consent = gr.Checkbox(
            False, label=CONSENT, elem_id="mc-consent", container=False, interactive=False
        )  # until the session is found
        with gr.Column(visible=False) as self.adding, gr.Row():
            with gr.Column(scale=3, min_width=300):
                self.files = gr.File(
                    label="Drop photos here, or click to choose them", file_count="multiple",
                    file_types=["image", *PHOTO_SUFFIXES], height=190, elem_id="mc-files",
                )  # fmt: skip
                with gr.Accordion("Take a photo with this device's camera", open=False):
                    self.camera = gr.Image(
                        sources=["webcam"],
                        type="filepath",
                        format="jpeg",
                        label="Camera",
                        height=320,
                        buttons=[],
                    )
                    self.camera_add = gr.Button("Use this photo")
            with gr.Column(scale=2, min_width=260):
                gr.HTML(_photo_guidance(studio))
        self.people = gr.HTML(js_on_load=cards.CLICKS, elem_id="mc-people")
        self.refused = gr.HTML()
        self.summary = gr.HTML()
        self.photos = gr.HTML(js_on_load=cards.CLICKS, elem_id="mc-photos")
        with gr.Accordion("Who is it? Saying so helps the likeness", open=False, elem_classes="mc-waits"):
            with gr.Row():
                self.noun = gr.Radio(NOUNS, value="", label="The photos show a", elem_id="mc-noun")
                self.age = gr.Radio(AGES, value="", label="Who is", elem_id="mc-age")
            waits_until_filled()
        with gr.Accordion("Not a person?", open=False, elem_classes="mc-waits"):
            self.kind = gr.Radio(KINDS, value="person", label="The photos show", elem_id="mc-kind")
            waits_until_filled()

    def show(self, session: Session) -> Updates:
        """The session's photos with their verdicts."""
        photos = session.photos["subject"]
        return {
            self.consent: gr.Checkbox(value=session.consent, interactive=True),
            self.adding: gr.Column(visible=session.consent),
            self.kind: session.kind,
            **dict(zip((self.age, self.noun), _said_of(session.words), strict=True)),
            self.people: self._people(session),
            self.photos: cards.photo_cards(photos),
            self.summary: cards.summary(photos, "subject", session.kind),
            self.refused: "",
            self.said: "",
        }

    def _people(self, session: Session) -> str:
        """The sample people: closed up once one is chosen, and none where the photos are the visitor's own."""
        taken = bool(session.photos["subject"])
        if taken and session.person is None:
            return ""
        shown = [
            (person.name, person.title, f"{len(person.photos)} photos, an invented face", [
                small_picture(self.studio, path) for path in person.photos[:3]
            ])
            for person in sample_people()
        ]  # fmt: skip
        found = cards.choices(shown, session.person if taken else None, "person")
        if not found:
            return ""
        if taken:
            return f'<details class="mc-more"><summary>Take another sample person</summary>{found}</details>'
        return f'<h3 class="mc-sub">Try it with a sample person</h3>{found}'

    @told(name)
    def agree(self, key: str, given: bool) -> Updates:
        """The consent box was ticked or cleared."""
        return self.show(self.studio.photos.consent(key, given))

    @told_as_it_goes(name)
    def upload(self, key: str, files: list[str] | str | None) -> Iterator[Updates]:
        """Files were dropped, chosen or taken by the camera."""
        if not files:
            raise Problem("There is no photo yet. Take or choose one first.")
        sent = [files] if isinstance(files, str) else files
        yield from self._take(key, sent)
        yield {self.camera: None}

    @told(name)
    def press(self, key: str, event: gr.EventData) -> Updates:
        """Use a photo anyway, leave it out or remove it, or take a sample person."""
        act, target = str(event.act), str(event.id)
        if act == "person":
            return self._changed(key, self.studio.photos.use_person(key, target))
        return self._changed(key, self._pressed(key, act, target))

    @told(name)
    def call(self, key: str, noun: str, age: str) -> Updates:
        """What the person is called in prompts."""
        return self._changed(key, self.studio.photos.call(key, f"{age} {noun or 'person'}" if age else noun))

    @told(name)
    def choose_kind(self, key: str, kind: str) -> Updates:
        """Person or object."""
        return self._changed(key, self.studio.photos.set_kind(key, kind))

    def lacking(self, session: Session) -> str | None:
        """Why the next step would make no sense yet."""
        if not session.photos["subject"]:
            return "Add some photos first, or take a sample person."
        return unusable(session, self.role, "photos")
