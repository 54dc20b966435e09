"""Steps 1 and 2: photos of the person, and the style."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import gradio as gr
from PIL import Image

from magicapture_core.photos import PHOTO_SUFFIXES
from magicapture_core.problems import Problem
from magicapture_core.ui import cards
from magicapture_core.ui.drafting import COUNT
from magicapture_core.ui.sample_people import sample_people
from magicapture_core.ui.sessions import Role, Session
from magicapture_core.ui.step import Step, Updates, told, told_as_it_goes
from magicapture_core.ui.studio import Studio
from magicapture_core.weights import ASSETS

PRESETS = ASSETS.parent / "presets"
CONSENT = "These are photos of me, or I have this person's permission to use them."
EXAMPLES = ASSETS / "examples"
GOOD = {"good-1": "Sharp", "good-2": "Even light", "good-3": "Face free", "good-4": "Any mood"}
BAD = {"blurred": "Blurred", "dark": "Too dark", "covered": "Eyes hidden", "several_faces": "Two people"}
NOTES = (
    "4 to 6 photos of one person, taken on different days, from different sides.",
    "Leave out filters, heavy make-up and hands before the face.",
)
STYLE_NOTES = (
    "4 to 6 photos that share light, colours, clothes or setting; one person in each is best.",
    "The faces in them are left out: only the style is learned.",
)
NOUNS = [("Person", ""), ("Woman", "woman"), ("Man", "man")]
AGES = [("Any age", ""), ("Young", "young"), ("Middle-aged", "middle-aged"), ("Old", "old")]
KINDS = [("A person", "person"), ("An object or a pet", "object")]


def _said_of(words: str) -> tuple[str, str]:
    """Age and noun as the form has them."""
    age, _, noun = words.rpartition(" ")
    return age, "" if noun == "person" else noun


def small_picture(studio: Studio, source: Path) -> str:
    """A small copy of one of the project's own pictures, among the shown files; made once."""
    folder = studio.sessions.shown / "samples"
    path = folder / f"{source.parent.name}-{source.stem}.webp"
    if not path.exists():
        folder.mkdir(exist_ok=True)
        with Image.open(source) as image:
            picture = image.convert("RGB")
        picture.thumbnail((200, 200))
        picture.save(path, quality=82)
    return str(path)


def _photo_guidance(studio: Studio) -> str:
    def examples(captions: dict[str, str]) -> list[cards.Example]:
        return [
            (caption, [small_picture(studio, EXAMPLES / f"{name}.webp")])
            for name, caption in captions.items()
        ]

    return cards.guidance("Photos that work well", examples(GOOD), "Better leave out", examples(BAD), NOTES)


def _style_guidance(studio: Studio) -> str:
    def example(caption: str, names: Sequence[str]) -> list[cards.Example]:
        paths = [PRESETS / f"{name}.jpg" for name in names]
        return [(caption, [small_picture(studio, path) for path in paths if path.is_file()])]

    one = example("One look in all of them", ("profile/1", "profile/2", "profile/3"))
    mixed = example("Different looks blur together", ("golden-hour/1", "mono-studio/1", "passport/1"))
    return cards.guidance("A style", one, "Not a style", mixed, STYLE_NOTES)


BUILT_IN_MAKES = "The built-in model makes them; the model that you chose makes none."


def pressed(studio: Studio, key: str, role: Role, act: str, photo_id: str) -> Session:
    """What a photo's button asks for."""
    if act == "remove":
        return studio.photos.remove(key, role, photo_id)
    if act not in ("use", "leave"):
        raise Problem("This button is not known. Reload the page.")
    return studio.photos.use_anyway(key, role, photo_id, wanted=act == "use")


def adding(step: PhotosStep | StyleStep, key: str, role: Role, sent: list[str]) -> Iterator[Updates]:
    """Take uploads in, and show each photo as soon as it has been looked at."""
    yield {
        step.files: gr.File(value=None)
    }  # at once: emptied at the end, it would lose what was dropped meanwhile
    count = len(sent)
    for number, (session, refused) in enumerate(step.studio.photos.taking(key, role, sent), 1):
        updates = {**step.show(session), step.refused: cards.note("\n".join(refused), "bad")}
        if number < count:
            updates[step.summary] = cards.note(f"Looked at {number} of {count} photos.")
        yield updates
    step.studio.drafts.renew(key)
    yield {step.summary: step.show(step.studio.sessions.find(key))[step.summary]}


def lacking(session: Session, role: Role, what: str) -> str | None:
    """Why there is nothing to learn from yet, though there are photos."""
    if session.usable(role):
        return None
    if any(photo.left_out for photo in session.photos[role]):
        return f"All of the {what} are left out. Press “Use anyway” on those that are right, or add others."
    return f"None of the {what} can be used. Add at least one that can."


class PhotosStep(Step):
    """Consent, photos of the subject, verdicts."""

    name = "Photos"

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
        with gr.Accordion("Who is it? Saying so helps the likeness", open=False), gr.Row():
            self.noun = gr.Radio(NOUNS, value="", label="The photos show a", elem_id="mc-noun")
            self.age = gr.Radio(AGES, value="", label="Who is", elem_id="mc-age")
        with gr.Accordion("Not a person?", open=False):
            self.kind = gr.Radio(KINDS, value="person", label="The photos show", elem_id="mc-kind")

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
        """The sample people; folded up where one is taken, and none where the photos are the visitor's own."""
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
        yield from adding(self, key, "subject", sent)
        yield {self.camera: None}

    @told(name)
    def press(self, key: str, event: gr.EventData) -> Updates:
        """Use a photo anyway, leave it out or remove it, or take a sample person."""
        act, target = str(event.act), str(event.id)
        if act == "person":
            return self._changed(key, self.studio.photos.use_person(key, target))
        return self._changed(key, pressed(self.studio, key, "subject", act, target))

    @told(name)
    def call(self, key: str, noun: str, age: str) -> Updates:
        """What the person is called in prompts."""
        return self._changed(key, self.studio.photos.call(key, f"{age} {noun or 'person'}" if age else noun))

    @told(name)
    def choose_kind(self, key: str, kind: str) -> Updates:
        """Person or object."""
        return self._changed(key, self.studio.photos.set_kind(key, kind))

    def _changed(self, key: str, session: Session) -> Updates:
        self.studio.drafts.renew(key)
        return self.show(session)

    def lacking(self, session: Session) -> str | None:
        """Why the next step would make no sense yet."""
        if not session.photos["subject"]:
            return "Add some photos first, or take a sample person."
        return lacking(session, "subject", "photos")


class StyleStep(Step):
    """A preset, or the visitor's own style photos."""

    name = "Style"

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
        """The drafts where they are not as they were `seen`, and what they are now."""
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
        yield from adding(self, key, "style", files or [])

    @told(name)
    def press(self, key: str, event: gr.EventData) -> Updates:
        """Choose a preset; use a photo anyway, leave it out or remove it."""
        act, target = str(event.act), str(event.id)
        if act == "preset":
            return self._changed(key, self.studio.photos.use_preset(key, target))
        return self._changed(key, pressed(self.studio, key, "style", act, target))

    def _changed(self, key: str, session: Session) -> Updates:
        self.studio.drafts.renew(key)
        return self.show(session)

    def lacking(self, session: Session) -> str | None:
        """Why the next step would make no sense yet."""
        if not session.photos["style"]:
            return "Choose a style, or add some style photos."
        return lacking(session, "style", "style photos")
