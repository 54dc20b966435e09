"""Step 5: make portraits, look at them, take them along."""

from __future__ import annotations

import time
from collections.abc import Sequence
from html import escape
from typing import Any

import gradio as gr

from magicapture_core.config import GenerateConfig
from magicapture_core.jobs import Snapshot
from magicapture_core.problems import Problem
from magicapture_core.ui import cards
from magicapture_core.ui.choose_work import COMPARISON
from magicapture_core.ui.portrait_cards import portrait_cards, portrait_detail
from magicapture_core.ui.portrait_work import MOST_PORTRAITS, best_first, generate_config, of_run
from magicapture_core.ui.sessions import Session, StoredPortrait
from magicapture_core.ui.settings import help_texts
from magicapture_core.ui.step import Step, Updates, told
from magicapture_core.ui.step_train import STALE
from magicapture_core.ui.studio import Studio

COMPOSED_PROMPT = GenerateConfig().prompt
EDITS = (
    "smiling", "serious", "wearing sunglasses", "wearing glasses", "wearing a hat", "black and white", "outdoors",
    "soft light",
)  # fmt: skip


class PortraitsStep(Step):
    """Prompt, gallery, details, downloads."""

    name = "Portraits"

    def __init__(self, studio: Studio) -> None:
        super().__init__(studio)
        gr.HTML(
            cards.heading(
                "Make portraits",
                "Describe the picture, or leave it as it is. {subject} is the person, {style} the style. "
                "(hat:1.3) makes the hat count more, [hat] less.",
            )
        )
        self.stale = gr.HTML()
        self.run = gr.Dropdown([], label="Made with", visible=False, elem_id="mc-run")
        self.prompt = gr.Textbox(COMPOSED_PROMPT, label="What to show", lines=2, elem_id="mc-prompt")
        self.chips = gr.HTML(_chips((), EDITS), js_on_load=cards.CLICKS, elem_id="mc-chips")
        with gr.Row(equal_height=True):
            self.count = gr.Slider(
                1, 16, value=4, step=1, label="How many", min_width=200, elem_id="mc-count"
            )
            self.make = gr.Button(
                "Make portraits", variant="primary", size="lg", min_width=200, elem_id="mc-make"
            )
            self.stop = gr.Button("Stop", visible=False, min_width=120, elem_id="mc-make-stop")
        self._more_control()
        self.progress = gr.HTML(elem_id="mc-make-progress")
        self.gallery = gr.HTML(js_on_load=cards.CLICKS, elem_id="mc-gallery")
        self.chosen = gr.State(None)
        self.filled = gr.State(None)
        self.detail = gr.HTML(js_on_load=cards.CLICKS + cards.INTO_VIEW, elem_id="mc-detail")
        with gr.Row(elem_classes="mc-buttons"):
            self.archive = gr.DownloadButton("Download all (zip)", visible=False, elem_id="mc-archive")
        with gr.Accordion("Which strength suits these photos?", open=False, visible=False) as self.comparing:  # type: ignore[assignment]
            gr.HTML(
                '<p class="mc-quiet">Draws a few pictures from the last checkpoints of the training at three '
                "strengths, measures likeness and style, and recommends one.</p>"
            )
            with gr.Row(elem_classes="mc-buttons"):
                self.compare = gr.Button("Compare strengths", elem_id="mc-compare-strengths")
                self.compare_stop = gr.Button("Stop comparing", visible=False, elem_id="mc-compare-stop")
                self.adopt = gr.Button("Use the recommended one", visible=False, elem_id="mc-adopt")
            self.compared = gr.HTML(elem_id="mc-compared")
        with gr.Accordion("Use it in other programs", open=False, visible=False) as self.exporting:  # type: ignore[assignment]
            gr.HTML('<p class="mc-quiet">What was learned, as small files. They need the same model.</p>')
            self.format = gr.Radio(
                [("diffusers (Python)", "diffusers"), ("AUTOMATIC1111, Forge, ComfyUI", "kohya")], value="diffusers",
                label="Program", elem_id="mc-format",
            )  # fmt: skip
            self.export = gr.Button("Prepare the files", elem_id="mc-export")
            self.exported = gr.HTML(elem_id="mc-exported")
        with gr.Accordion("Past trainings", open=False, visible=False) as self.past:  # type: ignore[assignment]
            self.discard = gr.Button("Delete the training chosen above, with its portraits", variant="stop")

    def _more_control(self) -> None:
        default, texts = GenerateConfig(), help_texts(GenerateConfig)
        with gr.Accordion("More control", open=False):
            self.negative = gr.Textbox("", label="What to avoid", placeholder="for example: blurry, hat")
            with gr.Row():
                # No gr.Number: in gradio 6.31 an empty one becomes 0 as soon as it is seen.
                self.seed = gr.Textbox(
                    "", label="Seed", min_width=200, elem_id="mc-seed", placeholder="a new one each time",
                    info="The same seed gives the same picture.",
                )  # fmt: skip
                self.steps = gr.Slider(
                    1,
                    100,
                    value=default.steps,
                    step=1,
                    label="Steps",
                    min_width=200,
                    info=texts["steps"],
                    elem_id="mc-steps-drawn",
                )
            with gr.Row():
                self.adapter = gr.Slider(
                    0, 1.5, value=default.adapter_scale, step=0.05, label="Strength of what was learned", min_width=200,
                    info="Lower: freer; higher: closer to the photos. 0.6 to 1 is usual.",
                    elem_id="mc-adapter-scale",
                )  # fmt: skip
                self.guidance = gr.Slider(
                    0, 20, value=default.guidance_scale, step=0.5, label="Closeness to the description (guidance)",
                    min_width=200, info=texts["guidance_scale"],
                )  # fmt: skip

    @property
    def live(self) -> list[Any]:
        """What changes while portraits are made."""
        return [
            self.progress, self.gallery, self.detail, self.chosen, self.make, self.stop, self.archive, self.exporting,
            self.stale, self.comparing, self.compare, self.compare_stop, self.adopt, self.compared,
        ]  # fmt: skip

    def show(self, session: Session) -> Updates:
        """The chosen run with its prompt and portraits."""
        run = session.chosen_run()
        prompts: tuple[str, ...] = (COMPOSED_PROMPT,)
        negative = ""
        if run and run.preset:
            from magicapture_core.presets import load_preset

            try:
                preset = load_preset(run.preset)
                prompts, negative = preset.prompts, preset.negative_prompt
            except Problem:
                pass  # a preset that is gone takes nothing from what was learned
        model = run.model if run else session.model or self.studio.models.default
        suits = self.studio.portraits.suiting(model, run)
        known = self.studio.models.facts(model).edits
        return {
            self.filled: run.id if run else None,
            self.prompt: prompts[0],
            self.chips: _chips(ideas_for(prompts[1:], known), known or EDITS),
            self.negative: negative,
            self.steps: suits["steps"],
            self.guidance: suits["guidance_scale"],
            self.adapter: suits["adapter_scale"],
            self.exported: "",
            **self._pictures(session),
        }

    def enter(self, session: Session, filled: Any) -> Updates:
        """The form keeps what was typed, unless it was for another run."""
        if filled is None or filled != session.run:
            return self.show(session)
        return self._pictures(session)

    def _pictures(self, session: Session) -> Updates:
        """All but the form."""
        runs = [(_run_title(each), each.id) for each in reversed(session.runs)]
        run = session.chosen_run()
        return {
            self.run: gr.Dropdown(runs, value=run.id if run else None, visible=len(runs) > 1),
            self.past: gr.Accordion(visible=bool(runs)),
            self.detail: "",
            self.chosen: None,
            **self.watch(session, None)[0],
        }

    def watch(self, session: Session, seen: Any, chosen: str | None = None) -> tuple[Updates, Any]:
        """What is new since `seen`, and the new `seen`. chosen: the portrait that is shown large, which stays."""
        job = self.studio.portraits.job(session)
        snapshot = job.snapshot() if job else None
        run = session.chosen_run()
        found = best_first(of_run(session, run))
        state = f"{snapshot.state} {snapshot.ahead} {snapshot.stage} {snapshot.share:.2f}" if snapshot else ""
        now = [
            job.id if job else "", state, [portrait.id for portrait in found], session.archive,
            self._comparison(session), run.choice if run else None,
        ]  # fmt: skip
        if seen == now:
            return {}, seen
        busy = snapshot is not None and not snapshot.ended
        updates: Updates = {
            self.progress: self._progress(session),
            self.make: gr.Button("Make more portraits" if found else "Make portraits", interactive=not busy),
            self.stop: gr.Button(visible=busy),
            self.stale: cards.note(STALE, "warn") if self.studio.stale(session) else "",
        }
        updates |= self._comparing(session)
        if seen is None or seen[2:4] != now[2:4]:
            updates |= self._gallery(session, found, chosen)
        return updates, now

    def _comparison(self, session: Session) -> str:
        """How a comparison of strengths stands, as HTML."""
        job = self.studio.choosing.job(session)
        if job is None:
            return ""
        snapshot = job.snapshot()
        return _under_way(snapshot, snapshot.reports[-1:])

    def _comparing(self, session: Session) -> Updates:
        """The comparison of strengths: under way, or its result."""
        run, active = session.chosen_run(), self.studio.jobs.active(session.id)
        busy, choice = active is not None, run.choice if run else None
        return {
            self.comparing: gr.Accordion(visible=self.studio.choosing.lacking(session) is None),
            self.compare: gr.Button(interactive=not busy),
            self.compare_stop: gr.Button(visible=active is not None and active.kind == COMPARISON),
            self.adopt: gr.Button(visible=choice is not None and not busy),
            self.compared: self._comparison(session) or (cards.evidence(choice) if choice else ""),
        }

    def _gallery(self, session: Session, found: list[StoredPortrait], chosen: str | None) -> Updates:
        ready = self.studio.portraits.ready(session, session.chosen_run()) is None
        archive = session.archive if found and session.archive_run == session.run else None
        return {
            self.gallery: portrait_cards(found, chosen),
            self.archive: gr.DownloadButton(value=archive, visible=archive is not None),
            self.exporting: gr.Accordion(visible=ready),
        }

    def _progress(self, session: Session) -> str:
        job = self.studio.portraits.job(session)
        if job is None:
            return ""
        snapshot = job.snapshot()
        if snapshot.ended and snapshot.state != "failed":
            warnings = dict.fromkeys(
                warning for portrait in snapshot.reports for warning in portrait.warnings
            )
            return cards.note("\n".join(warnings), "warn")
        return _under_way(snapshot, ["You may close this page."])

    @told(name)
    def generate(
        self, key: str, chosen: str | None, prompt: str, negative: str, count: float, seed: str, steps: float,
        adapter: float, guidance: float,
    ) -> Updates:  # fmt: skip
        """Make portraits."""
        if not prompt.strip():
            raise Problem("Describe the picture first, for example: " + COMPOSED_PROMPT)
        config = generate_config({
            "prompt": prompt, "negative_prompt": negative, "count": min(count, MOST_PORTRAITS), "seed": _seed(seed),
            "steps": steps, "adapter_scale": adapter, "guidance_scale": guidance,
        })  # fmt: skip
        self.studio.portraits.start(key, config)
        time.sleep(0)  # let the job's thread begin, so that the first look already shows it at work
        return self.watch(self.studio.sessions.find(key), None, chosen)[0]

    @told(name)
    def begin_comparison(self, key: str, chosen: str | None) -> Updates:
        """Compare checkpoints and strengths."""
        self.studio.choosing.start(key)
        return self.watch(self.studio.sessions.find(key), None, chosen)[0]

    @told(name)
    def adopt_choice(self, key: str) -> Updates:
        """Use what was recommended from now on."""
        session = self.studio.choosing.adopt(key)
        run = session.chosen_run()
        assert run is not None
        gr.Info(f"From now on portraits are made at strength {run.adapter_scale:g}.", title=self.name)
        return {self.adapter: run.adapter_scale}

    @told(name)
    def halt(self, key: str, chosen: str | None) -> Updates:
        """Stop making portraits; the finished ones stay."""
        self.studio.training.stop(key)
        return self.watch(self.studio.sessions.find(key), None, chosen)[0]

    @told(name)
    def press_chip(self, prompt: str, event: gr.EventData) -> Updates:
        """Add an edit to the prompt, or take it out again; or take another prompt."""
        text = str(event.id)
        if event.act == "prompt":
            return {self.prompt: text}
        if f", {text}" in prompt:
            return {self.prompt: prompt.replace(f", {text}", "")}
        return {self.prompt: f"{prompt.rstrip(' ,.')}, {text}"}

    @told(name)
    def press(self, key: str, chosen: str | None, event: gr.EventData) -> Updates:
        """Show what is known of a portrait, or where another of its words looks."""
        session = self.studio.sessions.find(key)
        found = best_first(of_run(session, session.chosen_run()))
        wanted = str(event.id) if event.act == "portrait" else chosen
        portrait = next((portrait for portrait in found if portrait.id == wanted), None)
        if portrait is None:
            raise Problem("This portrait is no longer here. Choose another one.")
        words = self.studio.portraits.words(session, portrait.id)
        first = "{subject}" if "{subject}" in words else next(iter(words), None)
        word = str(event.id) if event.act == "word" else first
        heat = self.studio.portraits.heat(key, portrait.id, word) if word else None
        return {
            self.gallery: portrait_cards(found, portrait.id),
            self.detail: portrait_detail(portrait, words, word, heat),
            self.chosen: portrait.id,
        }

    @told(name)
    def choose_run(self, key: str, run_id: str) -> Updates:
        """Use another past run."""
        return self.show(self.studio.portraits.choose_run(key, run_id))

    @told(name)
    def discard_run(self, key: str, run_id: str | None) -> Updates:
        """Delete a past run."""
        session = self.studio.sessions.find(key)
        return self.show(self.studio.training.discard(key, run_id or session.run or ""))

    @told(name)
    def export_files(self, key: str, format: str) -> Updates:
        """Write the adapter for other programs."""
        paths = self.studio.portraits.export(key, format)
        return {self.exported: cards.downloads(paths)}


def _seed(text: str) -> int | None:
    text = text.strip()
    if text and not text.isdecimal():
        raise Problem(
            f"The seed must be a whole number, 0 or more, got {text!r}. Leave it empty for a new one."
        )
    return int(text) if text else None


def _under_way(snapshot: Snapshot, details: Sequence[str]) -> str:
    """A job as HTML: in the queue, at work or failed; nothing once it has ended well."""
    if snapshot.state == "failed":
        return cards.failure("Portraits", snapshot)
    if snapshot.ended:
        return ""
    if snapshot.state == "waiting" and snapshot.ahead:
        return cards.progress(
            0, "Waiting in the queue", [f"{snapshot.ahead} before you; it starts by itself."]
        )
    title = "Stopping" if snapshot.state == "stopping" else snapshot.stage or "Preparing"
    return cards.progress(snapshot.share, title, details)


def _run_title(run: Any) -> str:
    begun = time.strftime("%d %b, %H:%M", time.localtime(run.started))
    return f"{run.title} ({begun})"


def ideas_for(prompts: Sequence[str], known: Sequence[str]) -> list[str]:
    """A style's prompts to try, without those that ask for nothing a model of few words (`known`) can do."""
    return [prompt for prompt in prompts if not known or any(edit in prompt for edit in known)]


def _chips(ideas: Sequence[str], edits: Sequence[str]) -> str:
    def chip(act: str, text: str, title: str) -> str:
        return (
            f'<button type="button" class="mc-chip" data-act="{act}" data-id="{escape(text, quote=True)}">'
            f"{escape(title)}</button>"
        )

    others = "".join(chip("prompt", idea, idea) for idea in ideas[:4])
    if others:
        others = f'<p class="mc-quiet">Other ideas for this style</p><div class="mc-chips">{others}</div>'
    shown = "".join(chip("edit", text, text) for text in edits)
    return f'{others}<p class="mc-quiet">Add or take away</p><div class="mc-chips">{shown}</div>'
