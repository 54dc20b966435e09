"""Step 5: make portraits, look at them, keep the best, download them."""

from __future__ import annotations

import time
from html import escape
from typing import Any

import gradio as gr

from magicapture_core.config import VARIED, GenerateConfig
from magicapture_core.languages import N_, _, again
from magicapture_core.problems import Problem
from magicapture_core.ui import cards, likeness, prompt_chips
from magicapture_core.ui.comparing import Comparing
from magicapture_core.ui.past_trainings import Exporting, PastTrainings, run_title
from magicapture_core.ui.portrait_cards import FILM, portrait_cards, portrait_detail, undo
from magicapture_core.ui.portrait_jobs import MOST_PORTRAITS, generate_config
from magicapture_core.ui.portrait_offer import COMPOSED_PROMPT, PortraitOffer
from magicapture_core.ui.portrait_shapes import ONLY_SQUARE, SQUARE, shapes, size_of
from magicapture_core.ui.prompt_words import ME, from_page, to_page
from magicapture_core.ui.session_portraits import ORDERS, in_order, of_run
from magicapture_core.ui.settings import help_texts
from magicapture_core.ui.step import HALTS, Step, Updates, told, under_way, waits_until_filled
from magicapture_core.ui.step_train import STALE
from magicapture_core.ui.stored_session import Session, StoredPortrait
from magicapture_core.ui.studio import Studio

LARGE = N_("Choose one to see it large beside one of your photos.")
PICTURES = "#mc-gallery :is(.mc-coming, .mc-open)"
"""A CSS selector: what is drawn, and where it is going to be."""


class PortraitsStep(Step):
    """Description, gallery, details, downloads."""

    name = N_("Portraits")

    def __init__(self, studio: Studio) -> None:
        super().__init__(studio)
        self.offer = PortraitOffer(studio)
        about = _(
            "Describe the picture, or leave it as it is. “{me}” is the person that was learned.", me=_(ME)
        )
        gr.HTML(cards.heading(_("Make portraits"), about))
        self.stale = gr.HTML()
        self.run = gr.Dropdown([], label=_("Made with"), visible=False, elem_id="mc-run")
        self.prompt = gr.Textbox(
            to_page(COMPOSED_PROMPT), label=_("Description"), lines=2, elem_id="mc-prompt"
        )
        self.hint = gr.HTML(elem_id="mc-hint")
        self.chips = gr.HTML(js_on_load=cards.CLICKS, elem_id="mc-chips")
        self._how_many()
        self.square = gr.HTML(elem_id="mc-square")
        self.progress = gr.HTML(js_on_load=cards.live(PICTURES), elem_id="mc-make-progress")
        self.undo = gr.HTML(js_on_load=cards.CLICKS, elem_id="mc-undo")
        self.order = gr.Radio(
            [(_(title), order) for order, title in ORDERS.items()], value="new", label=_("Show first"), visible=False,
            elem_id="mc-order",
        )  # fmt: skip
        self.gallery = gr.HTML(js_on_load=cards.CLICKS + FILM, elem_id="mc-gallery")
        with gr.Row(elem_classes="mc-under"):
            self.explained = gr.HTML(likeness.explained(), visible=False, min_width=150)
            self.archive = gr.DownloadButton(
                _("Download all (zip)"),
                visible=False,
                size="md",
                min_width=150,
                scale=0,
                elem_id="mc-archive",
            )
        self.chosen = gr.State(None)
        self.filled = gr.State(None)
        self.detail = gr.HTML(js_on_load=cards.CLICKS + cards.INTO_VIEW, elem_id="mc-detail")
        with gr.Accordion(_("Advanced"), open=False, elem_classes="mc-waits"):
            self._advanced()
        self.comparing, self.exporting = Comparing(studio), Exporting(studio)
        self.past = PastTrainings(studio)

    def _how_many(self) -> None:
        with gr.Row(equal_height=True):
            self.count = gr.Slider(
                1, 16, value=4, step=1, label=_("How many"), min_width=150, elem_id="mc-count"
            )
            self.shape = gr.Radio(
                [SQUARE], value=SQUARE, label=_("Shape"), visible=False, min_width=200, elem_id="mc-shape"
            )
            self.variety = gr.Radio(
                [(_("Alike"), 0.0), (_("Varied"), VARIED)], value=0.0, label=_("Variety"), min_width=200,
                info=_("Varied: pose, hair and clothes differ more, the likeness is a little lower."),
                elem_id="mc-variety",
            )  # fmt: skip
            self.make = gr.Button(
                _("Make portraits"), variant="primary", size="lg", min_width=150, elem_id="mc-make"
            )
            self.stop = gr.Button(
                _("Stop"), visible=False, min_width=120, elem_id="mc-make-stop", elem_classes=HALTS
            )

    def _advanced(self) -> None:
        default, texts = GenerateConfig(), help_texts(GenerateConfig)
        weights = _("In a description (red:1.3) makes “red” count more, [red] less.")
        gr.HTML(f'<p class="mc-quiet">{weights}</p>')
        self.negative = gr.Textbox("", label=_("Avoid"), placeholder=_("for example: blurry, hat"))
        with gr.Row():
            # No gr.Number: in gradio 6.31 an empty one becomes 0 as soon as it is seen.
            self.seed = gr.Textbox(
                "", label=_("Seed"), min_width=200, elem_id="mc-seed", placeholder=_("a new one each time"),
                info=_("The same seed gives the same picture."),
            )  # fmt: skip
            self.steps = gr.Slider(
                1, 100, value=default.steps, step=1, label=_("Steps"), min_width=200, info=texts["steps"],
                elem_id="mc-steps-drawn",
            )  # fmt: skip
        with gr.Row():
            self.adapter = gr.Slider(
                0, 1.5, value=default.adapter_scale, step=0.05, label=_("Strength of what was learned"),
                min_width=200, info=_("Lower: freer; higher: closer to the photos. 0.6 to 1 is usual."),
                elem_id="mc-adapter-scale",
            )  # fmt: skip
            self.guidance = gr.Slider(
                0, 20, value=default.guidance_scale, step=0.5, label=_("Closeness to the description (guidance)"),
                min_width=200, info=texts["guidance_scale"],
            )  # fmt: skip
        waits_until_filled()

    @property
    def parts(self) -> list[Step]:
        """What the step has below its portraits."""
        return [self.comparing, self.exporting, self.past]

    @property
    def outputs(self) -> list[Any]:
        """Every component, those of the parts included."""
        return [*super().outputs, *(component for part in self.parts for component in part.outputs)]

    @property
    def live(self) -> list[Any]:
        """What changes while portraits are made, and by what is done with them."""
        return [
            self.progress, self.gallery, self.detail, self.chosen, self.make, self.stop, self.archive, self.stale,
            self.undo, self.order, self.explained, self.said, self.hint, self.run,
            *(component for part in self.parts for component in part.outputs),
        ]  # fmt: skip

    @property
    def place(self) -> list[Any]:
        """What a visitor sees and wrote: the chosen portrait, the description, the order."""
        return [self.chosen, self.prompt, self.order]

    # --- the form -------------------------------------------------------------------------------------

    def show(self, session: Session) -> Updates:
        """The chosen run with its prompt and portraits."""
        run = session.chosen_run()
        prompts, negative = self.offer.prompts(session)
        text, facts = to_page(prompts[0]), self.offer.facts(session)
        suits = self.studio.runs.suiting(facts.name, run)
        offered = shapes(facts)
        return {
            self.filled: run.id if run else None,
            self.prompt: text,
            self.chips: self.offer.chips(session, text),
            self.negative: negative,
            self.steps: suits["steps"],
            self.guidance: suits["guidance_scale"],
            self.adapter: suits["adapter_scale"],
            self.variety: VARIED if suits["adapter_start"] else 0.0,
            self.shape: gr.Radio(offered, value=SQUARE, visible=len(offered) > 1),
            self.square: "" if len(offered) > 1 else f'<p class="mc-quiet">{_(ONLY_SQUARE)}</p>',
            **self._pictures(session, text),
        }

    def enter(self, session: Session, filled: Any) -> Updates:
        """The form keeps what was typed, unless it was for another run. filled: that run's id, and the prompt."""
        run, text = filled
        if run is None or run != session.run:
            return self.show(session)
        return self._pictures(session, text)

    def _pictures(self, session: Session, text: str) -> Updates:
        """All but the form."""
        updates: Updates = {
            self.run: self._runs(session),
            self.detail: "",
            self.chosen: None,
            self.hint: self.offer.reading(session, text),
        }
        for part in self.parts:
            updates |= part.show(session)
        return {**updates, **self.watch(session, None, None, text)[0]}

    def _runs(self, session: Session) -> gr.Dropdown:
        runs = [(run_title(each), each.id) for each in reversed(session.runs)]
        run = session.chosen_run()
        return gr.Dropdown(runs, value=run.id if run else None, visible=len(runs) > 1)

    # --- the live view --------------------------------------------------------------------------------

    def watch(
        self, session: Session, seen: Any, chosen: str | None, text: str, order: str | None = None
    ) -> tuple[Updates, Any]:
        """What is new since `seen`, and the new `seen`. chosen: the portrait that is shown large, which stays;
        text, order: what stands in the form."""
        job = self.studio.portrait_jobs.newest(session)
        snapshot = job.snapshot() if job else None
        found = of_run(session, session.chosen_run())
        state = f"{snapshot.state} {snapshot.ahead} {snapshot.stage} {snapshot.share:.2f}" if snapshot else ""
        shown = [
            [portrait.id for portrait in found], self.studio.portrait_jobs.coming(session), session.archive,
            [portrait.id for portrait in session.removed], [run.id for run in session.runs],
        ]  # fmt: skip
        now = [job.id if job else "", state, shown, self.comparing.moment(session)]
        if seen == now:
            return {}, seen
        busy = snapshot is not None and not snapshot.ended
        updates: Updates = {
            self.progress: self._progress(session, text),
            **({self.said: ""} if found else {}),
            self.make: gr.Button(
                _("Make more portraits") if found else _("Make portraits"), interactive=not busy
            ),
            self.stop: gr.Button(visible=busy),
            self.stale: cards.note(_(STALE), "warn") if self.studio.stale(session) else "",
        }
        if seen is None or seen[3] != now[3]:
            updates |= self.comparing.show(session)
        if seen is None or seen[2] != now[2]:
            updates |= {**self._gallery(session, chosen, order), **self.past.show(session)}
            updates[self.run] = self._runs(session)  # the next look may have begun
            updates[self.exporting.box] = self.exporting.show(session)[self.exporting.box]
        return updates, now

    def _gallery(self, session: Session, chosen: str | None, order: str | None) -> Updates:
        found = in_order(of_run(session, session.chosen_run()), order)
        archive = session.archive if found and session.archive_run == session.run else None
        newest = max((portrait.batch for portrait in found), default=0)
        first = min((portrait.batch for portrait in found), default=0)
        coming = self.studio.portrait_jobs.coming(session)
        new = newest if newest > first and not coming else None
        return {
            self.gallery: portrait_cards(
                found, chosen, _(LARGE), new=new, coming=coming, film=chosen is not None
            ),
            self.undo: undo(session),
            self.order: gr.Radio(visible=len(found) > 1),
            self.explained: gr.HTML(visible=any(portrait.identity is not None for portrait in found)),
            self.archive: gr.DownloadButton(value=archive, visible=archive is not None),
        }

    def _progress(self, session: Session, text: str) -> str:
        """How far the portraits are. Once made, the warnings about them, as long as the prompt is the same."""
        job = self.studio.portrait_jobs.newest(session)
        if job is None:
            return ""
        snapshot = job.snapshot()
        if snapshot.ended and snapshot.state != "failed":
            unknown = self.offer.unknown(session, text)  # stands below the description already
            said = dict.fromkeys(
                again(warning)
                for portrait in snapshot.reports
                for warning in portrait.warnings
                if to_page(portrait.prompt).strip() == text.strip()
            )
            return prompt_chips.warnings([warning for warning in said if warning != unknown])
        state = "failed" if snapshot.state == "failed" else "running"
        live = under_way(self.name, snapshot, [_("You may close this page.")])
        percent = round(100 * snapshot.share)
        about = escape(_(self.name), quote=True)
        return f'<div data-progress="{percent}" data-state="{state}" data-about="{about}">{live}</div>'

    # --- handlers -------------------------------------------------------------------------------------

    @told(name)
    def generate(
        self, key: str, chosen: str | None, text: str, order: str, negative: str, count: float, shape: str,
        variety: float, seed: str, steps: float, adapter: float, guidance: float,
    ) -> Updates:  # fmt: skip
        """Make portraits."""
        if not text.strip():
            example = to_page(COMPOSED_PROMPT)
            raise Problem(_("Describe the picture first, for example: {example}", example=example))
        run = self.studio.sessions.find(key).chosen_run()
        config = generate_config({
            "prompt": from_page(text), "negative_prompt": from_page(negative), "count": min(count, MOST_PORTRAITS),
            "seed": _seed(seed), "steps": steps, "adapter_scale": adapter, "guidance_scale": guidance,
            "adapter_start": variety or 0.0,
            **size_of(shape, int(run.settings["resolution"]) if run else 512),
        })  # fmt: skip
        self.studio.portrait_jobs.start(key, config)
        time.sleep(0)  # let the job's thread begin, so that the first look already shows it at work
        return self.watch(self.studio.sessions.find(key), None, chosen, text, order)[0]

    @told(name)
    def halt(self, key: str, chosen: str | None, text: str, order: str) -> Updates:
        """Stop making portraits; the finished ones stay."""
        self.studio.training_jobs.stop(key)
        return self.watch(self.studio.sessions.find(key), None, chosen, text, order)[0]

    @told(name)
    def press_chip(self, key: str, text: str, event: gr.EventData) -> Updates:
        """Add an edit to the description, or take it out again; or take another description."""
        written = prompt_chips.changed(text, str(event.act), str(event.id))
        return {self.prompt: written, **self._written(key, written)}

    @told(name)
    def write(self, key: str, text: str) -> Updates:
        """The description was changed: show what is in it, and no warning of another one."""
        return self._written(key, text)

    def _written(self, key: str, text: str) -> Updates:
        session = self.studio.sessions.find(key)
        return {
            self.chips: self.offer.chips(session, text),
            self.progress: self._progress(session, text),
            self.hint: self.offer.reading(session, text),
        }

    @told(name)
    def sort(self, key: str, chosen: str | None, _text: str, order: str) -> Updates:
        """Show others first."""
        return self._gallery(self.studio.sessions.find(key), chosen, order)

    @told(name)
    def press(
        self, key: str, chosen: str | None, text: str, order: str, count: float, event: gr.EventData
    ) -> Updates:
        """What a button of a portrait does."""
        act, target = str(event.act), str(event.id)
        portraits = self.studio.portraits
        if act == "near":
            self.studio.portrait_jobs.near(key, target, int(min(count, MOST_PORTRAITS)))
            time.sleep(0)
            return self.watch(self.studio.sessions.find(key), None, chosen, text, order)[0]
        if act == "close":
            closed: Updates = {self.detail: "", self.chosen: None}
            return {**closed, **self._gallery(self.studio.sessions.find(key), None, order)}
        if act in ("remove", "undo"):
            session = portraits.remove(key, target) if act == "remove" else portraits.restore(key, target)
            gone = act == "remove" and target == chosen
            cleared: Updates = {self.detail: "", self.chosen: None} if gone else {}
            return {
                **cleared,
                **self._gallery(session, None if gone else chosen, order),
                **self.past.show(session),
            }
        session = portraits.like(key, target) if act == "favourite" else self.studio.sessions.find(key)
        shown = target if act == "portrait" else chosen
        if shown is None:
            return self._gallery(session, chosen, order)
        return {
            **self._gallery(session, shown, order),
            **self._large(key, session, portraits.of(session, shown), target if act == "word" else None),
        }

    def _large(self, key: str, session: Session, portrait: StoredPortrait, word: str | None) -> Updates:
        """A portrait beside a photo, and what belongs to one of its words."""
        words = self.studio.portraits.words(session, portrait.id)
        word = word or ("{subject}" if "{subject}" in words else next(iter(words), None))
        heat = self.studio.portraits.heat(key, portrait.id, word) if word else None
        photo = next(iter(session.usable("subject")), None)
        return {
            self.detail: portrait_detail(portrait, photo, words, word, heat),
            self.chosen: portrait.id,
        }

    @told(name)
    def choose_run(self, key: str, run_id: str) -> Updates:
        """Use another past run."""
        return self.show(self.studio.runs.choose(key, run_id))

    @told(name)
    def press_past(self, key: str, event: gr.EventData) -> Updates:
        """Ask before a past run is deleted; delete it, or keep it."""
        session = self.studio.sessions.find(key)
        if event.act != "drop-run":
            return self.past.ask(session, str(event.act), str(event.id))
        before = session.run
        session = self.past.discard(key, str(event.id))
        if session.run != before:
            return self.show(session)
        return {self.run: self._runs(session), **self.past.show(session)}

    @told(name)
    def adopt(self, key: str) -> Updates:
        """Use the recommended strength."""
        return {self.adapter: self.comparing.adopted(key)}


def _seed(text: str) -> int | None:
    text = text.strip()
    if text and not text.isdecimal():
        raise Problem(
            _(
                "The seed must be a whole number, 0 or more, got {text!r}. Leave it empty for a new one.",
                text=text,
            )
        )
    return int(text) if text else None
