"""Step 5: make portraits, look at them, download them."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import gradio as gr

from magicapture_core.config import GenerateConfig
from magicapture_core.problems import Problem
from magicapture_core.ui import cards
from magicapture_core.ui.comparison_jobs import COMPARISON
from magicapture_core.ui.jobs import Snapshot
from magicapture_core.ui.keeping import Keeping
from magicapture_core.ui.portrait_cards import (
    chips,
    has_edit,
    ideas_for,
    past_runs,
    portrait_cards,
    portrait_detail,
    run_title,
)
from magicapture_core.ui.portrait_jobs import MOST_PORTRAITS, generate_config
from magicapture_core.ui.session_portraits import best_first, of_run
from magicapture_core.ui.session_runs import not_ready
from magicapture_core.ui.settings import help_texts
from magicapture_core.ui.step import Step, Updates, told, waits_until_filled
from magicapture_core.ui.step_train import STALE
from magicapture_core.ui.stored_session import Session, StoredPortrait
from magicapture_core.ui.studio import Studio

COMPOSED_PROMPT = GenerateConfig().prompt
LARGE = "Choose one to see it large."
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
        self.chips = gr.HTML(chips((), EDITS, COMPOSED_PROMPT), js_on_load=cards.CLICKS, elem_id="mc-chips")
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
        with gr.Accordion("Use it elsewhere, or keep it", open=False, visible=False) as self.exporting:  # type: ignore[assignment]
            gr.HTML('<p class="mc-quiet">What was learned, as small files. They need the same model.</p>')
            self.format = gr.Radio(
                [("diffusers (Python)", "diffusers"), ("AUTOMATIC1111, Forge, ComfyUI", "kohya")], value="diffusers",
                label="Program", elem_id="mc-format",
            )  # fmt: skip
            self.export = gr.Button("Prepare the files", elem_id="mc-export")
            self.exported = gr.HTML(elem_id="mc-exported")
            self.keeping = Keeping(studio)
        with gr.Accordion("Past trainings", open=False, visible=False) as self.past:  # type: ignore[assignment]
            self.past_runs = gr.HTML(js_on_load=cards.CLICKS, elem_id="mc-past")

    def _more_control(self) -> None:
        default, texts = GenerateConfig(), help_texts(GenerateConfig)
        with gr.Accordion("More control", open=False, elem_classes="mc-waits"):
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
            waits_until_filled()

    @property
    def live(self) -> list[Any]:
        """What changes while portraits are made."""
        return [
            self.progress, self.gallery, self.detail, self.chosen, self.make, self.stop, self.archive, self.exporting,
            self.stale, self.comparing, self.compare, self.compare_stop, self.adopt, self.compared, self.said,
            self.past_runs,
        ]  # fmt: skip

    def show(self, session: Session) -> Updates:
        """The chosen run with its prompt and portraits."""
        run = session.chosen_run()
        prompts, negative = self._prompts(session)
        suits = self.studio.runs.suiting(self._model(session), run)
        return {
            self.filled: run.id if run else None,
            self.prompt: prompts[0],
            self.chips: self._ideas(session, prompts[0]),
            self.negative: negative,
            self.steps: suits["steps"],
            self.guidance: suits["guidance_scale"],
            self.adapter: suits["adapter_scale"],
            self.exported: "",
            **self._pictures(session, prompts[0]),
        }

    def _model(self, session: Session) -> str:
        run = session.chosen_run()
        return run.model if run else session.model or self.studio.models.default

    def _prompts(self, session: Session) -> tuple[tuple[str, ...], str]:
        """What to ask for in the chosen run's style, the best first, and what to avoid."""
        run = session.chosen_run()
        if run and run.preset:
            from magicapture_core.presets import load_preset

            with suppress(Problem):  # a preset that is gone takes nothing from what was learned
                preset = load_preset(run.preset)
                return preset.prompts, preset.negative_prompt
        return (COMPOSED_PROMPT,), ""

    def _ideas(self, session: Session, prompt: str) -> str:
        known = self.studio.models.facts(self._model(session)).edits
        return chips(ideas_for(self._prompts(session)[0][1:], known), known or EDITS, prompt)

    def enter(self, session: Session, filled: Any) -> Updates:
        """The form keeps what was typed, unless it was for another run. filled: that run's id, and the prompt."""
        run, prompt = filled
        if run is None or run != session.run:
            return self.show(session)
        return self._pictures(session, prompt)

    def _pictures(self, session: Session, prompt: str) -> Updates:
        """All but the form."""
        runs = [(run_title(each), each.id) for each in reversed(session.runs)]
        run = session.chosen_run()
        return {
            self.run: gr.Dropdown(runs, value=run.id if run else None, visible=len(runs) > 1),
            self.past: gr.Accordion(visible=bool(runs)),
            self.past_runs: past_runs(session),
            self.detail: "",
            self.chosen: None,
            **self.watch(session, None, None, prompt)[0],
        }

    def watch(self, session: Session, seen: Any, chosen: str | None, prompt: str) -> tuple[Updates, Any]:
        """What is new since `seen`, and the new `seen`. chosen: the portrait that is shown large, which stays;
        prompt: what stands in the form."""
        job = self.studio.portrait_jobs.newest(session)
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
            self.progress: self._progress(session, prompt),
            **({self.said: ""} if found else {}),
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
        job = self.studio.comparison_jobs.job(session)
        if job is None:
            return ""
        snapshot = job.snapshot()
        return _under_way(snapshot, snapshot.reports[-1:])

    def _comparing(self, session: Session) -> Updates:
        """The comparison of strengths: under way, or its result."""
        run, active = session.chosen_run(), self.studio.jobs.active(session.id)
        busy, choice = active is not None, run.choice if run else None
        return {
            self.comparing: gr.Accordion(visible=self.studio.comparison_jobs.lacking(session) is None),
            self.compare: gr.Button(interactive=not busy),
            self.compare_stop: gr.Button(visible=active is not None and active.kind == COMPARISON),
            self.adopt: gr.Button(visible=choice is not None and not busy),
            self.compared: self._comparison(session) or (cards.evidence(choice) if choice else ""),
        }

    def _gallery(self, session: Session, found: list[StoredPortrait], chosen: str | None) -> Updates:
        ready = not_ready(session, session.chosen_run()) is None
        archive = session.archive if found and session.archive_run == session.run else None
        return {
            self.gallery: portrait_cards(found, chosen, LARGE),
            self.archive: gr.DownloadButton(value=archive, visible=archive is not None),
            self.exporting: gr.Accordion(visible=ready),
            self.past_runs: past_runs(session),
        }

    def _progress(self, session: Session, prompt: str) -> str:
        """How far the portraits are. Once made, the warnings about them, as long as the prompt is the same."""
        job = self.studio.portrait_jobs.newest(session)
        if job is None:
            return ""
        snapshot = job.snapshot()
        if snapshot.ended and snapshot.state != "failed":
            warnings = dict.fromkeys(
                warning
                for portrait in snapshot.reports
                for warning in portrait.warnings
                if portrait.prompt.strip() == prompt.strip()
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
        self.studio.portrait_jobs.start(key, config)
        time.sleep(0)  # let the job's thread begin, so that the first look already shows it at work
        return self.watch(self.studio.sessions.find(key), None, chosen, prompt)[0]

    @told(name)
    def begin_comparison(self, key: str, chosen: str | None, prompt: str) -> Updates:
        """Compare checkpoints and strengths."""
        self.studio.comparison_jobs.start(key)
        return self.watch(self.studio.sessions.find(key), None, chosen, prompt)[0]

    @told(name)
    def adopt_choice(self, key: str) -> Updates:
        """Use what was recommended from now on."""
        session = self.studio.comparison_jobs.adopt(key)
        run = session.chosen_run()
        assert run is not None
        gr.Info(f"From now on portraits are made at strength {run.adapter_scale:g}.", title=self.name)
        return {self.adapter: run.adapter_scale}

    @told(name)
    def halt(self, key: str, chosen: str | None, prompt: str) -> Updates:
        """Stop making portraits; the finished ones stay."""
        self.studio.training_jobs.stop(key)
        return self.watch(self.studio.sessions.find(key), None, chosen, prompt)[0]

    @told(name)
    def press_chip(self, key: str, prompt: str, event: gr.EventData) -> Updates:
        """Add an edit to the prompt, or take it out again; or take another prompt."""
        text = str(event.id)
        if event.act == "prompt":
            written = text
        elif has_edit(prompt, text):
            written = prompt.replace(f", {text}", "")
        else:
            written = f"{prompt.rstrip(' ,.')}, {text}"
        return {self.prompt: written, **self._written(key, written)}

    @told(name)
    def write(self, key: str, prompt: str) -> Updates:
        """The prompt was changed: show what is in it, and no warning of another one."""
        return self._written(key, prompt)

    def _written(self, key: str, prompt: str) -> Updates:
        session = self.studio.sessions.find(key)
        return {self.chips: self._ideas(session, prompt), self.progress: self._progress(session, prompt)}

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
            self.gallery: portrait_cards(found, portrait.id, LARGE),
            self.detail: portrait_detail(portrait, words, word, heat),
            self.chosen: portrait.id,
        }

    @told(name)
    def choose_run(self, key: str, run_id: str) -> Updates:
        """Use another past run."""
        return self.show(self.studio.runs.choose(key, run_id))

    @told(name)
    def press_past(self, key: str, event: gr.EventData) -> Updates:
        """Ask before a past run is deleted; delete it, or keep it."""
        run, session = str(event.id), self.studio.sessions.find(key)
        if event.act != "drop-run":
            return {self.past_runs: past_runs(session, run if event.act == "ask-run" else None)}
        title = next((each.title for each in session.runs if each.id == run), "The training")
        chosen = session.run
        session = self.studio.runs.discard(key, run)
        gr.Info(f"{title} and its portraits are deleted.", title=self.name)
        if session.run != chosen:
            return self.show(session)
        runs = self._pictures(session, "")
        return {part: runs[part] for part in (self.run, self.past, self.past_runs)}

    @told(name)
    def export_files(self, key: str, format: str) -> Updates:
        """Write the adapter for other programs."""
        paths = self.studio.runs.export(key, format)
        return {self.exported: cards.downloads(paths)}

    @told(name)
    def forget_files(self) -> Updates:
        """Hide the files: another program was chosen."""
        return {self.exported: ""}


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
