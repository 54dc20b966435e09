"""Step 4: learn the person and the style."""

from __future__ import annotations

import contextlib
from typing import Any

import gradio as gr

from magicapture_core.config import TrainConfig, from_dict
from magicapture_core.problems import Problem
from magicapture_core.ui import cards, lent_gpu, settings
from magicapture_core.ui.jobs import Snapshot
from magicapture_core.ui.look_cards import learning_order
from magicapture_core.ui.ready_looks import look_title
from magicapture_core.ui.server_models import ModelFacts
from magicapture_core.ui.session_runs import not_ready
from magicapture_core.ui.step import Step, Updates, told, waits_until_filled
from magicapture_core.ui.stored_session import Session, StoredRun
from magicapture_core.ui.studio import Studio
from magicapture_core.ui.training_view import attention, loss_charts, progress, rows_of, samples

SCHEDULES = {
    "quick": "Quick: a good first result",
    "paper": "Thorough: as in the paper",
    "custom": "Custom: my own settings",
}
OTHER_MODELS = "Or type a folder, a .safetensors file or a Hugging Face name."
STALE = (
    "Photos, masks or style were changed since this training began. Its portraits still show what it learned then; "
    "start a new training to use the changes."
)


class TrainStep(Step):
    """Settings, buttons, and the live view."""

    name = "Train"

    def __init__(self, studio: Studio) -> None:
        super().__init__(studio)
        self.filled = gr.State(None)
        gr.HTML(
            cards.heading(
                "Learn the person and the style", "Start it and watch, or close the page and come back later."
            )
        )
        self.stale = gr.HTML()
        with gr.Row():
            self.model = gr.Dropdown(
                studio.models.choices(), value=studio.models.default, label="Model", min_width=280, filterable=True,
                allow_custom_value=studio.models.any_model, elem_id="mc-model",
                info=OTHER_MODELS if studio.models.any_model else None,
            )  # fmt: skip
            self.schedule = gr.Radio([], label="How thoroughly", min_width=280, elem_id="mc-schedule")
        self.needs = gr.HTML()
        with gr.Accordion("Every setting", open=False, elem_id="mc-settings", elem_classes="mc-waits"):
            gr.HTML(
                '<p class="mc-quiet">As named in the MagiCapture paper. Changing one makes it a custom training.</p>'
            )
            self.fields = settings.layout()
            waits_until_filled()
        with gr.Row(elem_classes="mc-buttons"):
            self.start = gr.Button("Start training", variant="primary", elem_id="mc-start")
            self.pause = gr.Button("Pause", visible=False, elem_id="mc-pause")
            self.resume = gr.Button("Resume", variant="primary", visible=False, elem_id="mc-resume")
            self.stop = gr.Button("Stop and keep", visible=False, elem_id="mc-stop")
            self.leave = gr.Button("Leave the queue", visible=False, elem_id="mc-leave")
        self.looks = gr.HTML(elem_id="mc-learning")
        self.progress = gr.HTML(elem_id="mc-progress")
        self.samples = gr.HTML(elem_id="mc-samples")
        self.attention = gr.HTML(elem_id="mc-attention")
        self.losses = gr.HTML(elem_id="mc-losses")

    @property
    def outputs(self) -> list[Any]:
        """Every component, the form's included."""
        return [*super().outputs, *self.fields.values()]

    @property
    def live(self) -> list[Any]:
        """What changes while a training runs."""
        return [
            self.progress, self.samples, self.attention, self.losses, self.start, self.pause, self.resume, self.stop,
            self.leave, self.stale, self.said, self.looks,
        ]  # fmt: skip

    def show(self, session: Session) -> Updates:
        """Settings for the session's model, and its training."""
        facts = self.studio.facts(session)
        schedule, config = self._last(session, facts) or (facts.schedule_names()[0], None)
        return {
            self.model: facts.name,
            self.schedule: gr.Radio(
                [(SCHEDULES.get(name, name.title()), name) for name in facts.schedule_names()], value=schedule
            ),
            self.filled: self._filled_for(session),
            **self._settings(session, facts, schedule, config),
            **self.watch(session, None)[0],
        }

    def _last(self, session: Session, facts: ModelFacts) -> tuple[str, TrainConfig] | None:
        """The schedule and settings of the training that is shown, if it is of the same model and style."""
        run = self.studio.training_jobs.shown(session)
        if run is None or (run.model, run.preset) != (facts.name, session.preset):
            return None
        schedule = run.schedule if run.schedule in facts.schedule_names() else "custom"
        with contextlib.suppress(Problem):  # of another version of MagiCapture
            return schedule, from_dict(TrainConfig, run.settings)
        return None

    def enter(self, session: Session, filled: Any) -> Updates:
        """The form keeps what was typed, unless it was for something else."""
        if filled != self._filled_for(session):
            return self.show(session)
        return self.watch(session, None)[0]

    def _filled_for(self, session: Session) -> list[Any]:
        return [self.studio.facts(session).name, session.preset]

    def _settings(
        self, session: Session, facts: ModelFacts, schedule: str, config: TrainConfig | None = None
    ) -> Updates:
        config = config or facts.config(schedule, session.preset)
        shown = settings.values_of(config)
        return {
            **{self.fields[name]: value for name, value in shown.items()},
            self.needs: cards.note(self._needs(facts, config)),
        }

    def _needs(self, facts: ModelFacts, config: TrainConfig) -> str:
        seconds = self.studio.training_jobs.pace.seconds(facts.name, config)
        steps = config.ti_steps + config.lora_steps
        time = f"About {cards.duration(seconds)}, as measured on this machine." if seconds else (
            "The first steps measure how long they take on this machine."
        )  # fmt: skip
        word = f"\n{lent_gpu.WORD}" if lent_gpu.lending() else ""
        return f"{facts.needs}\n{steps} steps. {time}{word}"

    def watch(self, session: Session, seen: Any) -> tuple[Updates, Any]:
        """What is new since `seen`, and the new `seen`."""
        job, run = self.studio.training_jobs.job(session), self.studio.training_jobs.shown(session)
        snapshot = job.snapshot() if job else None
        now = self._moment(job.id if job else run.id if run else "", snapshot)
        if seen == now:
            return {}, seen
        saved = self.studio.runs.saved_step(session, run) if run else 0
        updates: Updates = {
            self.progress: progress(snapshot, run, saved),
            self.stale: cards.note(STALE, "warn") if self.studio.stale(session) else "",
            self.looks: self._order(session),
            **self._buttons(session, snapshot),
        }
        if (snapshot is None or snapshot.ended) and self.lacking(session) is None:
            updates[self.said] = ""
        before = seen or [None] * 5
        until = snapshot.reports[-1].step if snapshot and snapshot.reports else saved
        for part, number, draw in (
            (self.samples, 3, self._samples), (self.attention, 4, self._attention), (self.losses, 2, self._losses),
        ):  # fmt: skip
            if before[number] != now[number] or before[0] != now[0]:
                updates[part] = draw(session, run, until, snapshot) if run else ""
        return updates, now

    def _moment(self, job_id: str, snapshot: Snapshot | None) -> list[Any]:
        if snapshot is None:
            return [job_id, "none", 0, 0, 0]
        samples = sum(report.sample is not None for report in snapshot.reports)
        listened = sum(bool(report.attention) for report in snapshot.reports)
        state = f"{snapshot.state} {snapshot.ahead} {snapshot.stage} {snapshot.share:.2f}"
        return [job_id, state, len(snapshot.reports), samples, listened]

    def _order(self, session: Session) -> str:
        """Several ticked looks: which are learned, and which one is being learned."""
        jobs, job = self.studio.training_jobs, self.studio.training_jobs.job(session)
        run = jobs.shown(session)
        now = run.look if run is not None and job is not None and job.active else None
        return learning_order([
            (look_title(look), "now" if look == now else "done" if jobs.learned(session, look) else "")
            for look in session.looks
        ])  # fmt: skip

    def _samples(self, session: Session, run: StoredRun, until: int, _: Snapshot | None) -> str:
        return samples(session, session.run_folder(run), until)

    def _attention(self, session: Session, run: StoredRun, until: int, _: Snapshot | None) -> str:
        return attention(session, session.run_folder(run), run.settings, until)

    def _losses(self, session: Session, run: StoredRun, until: int, snapshot: Snapshot | None) -> str:
        rows = rows_of(snapshot.reports) if snapshot else []
        first = rows[0]["step"] if rows else until + 1
        if first > 1:  # those before are on disk
            rows = [row for row in self.studio.runs.losses(session, run) if row["step"] < first] + rows
        return loss_charts(rows, run.total)

    def _buttons(self, session: Session, snapshot: Snapshot | None) -> Updates:
        run = session.chosen_run()
        state = snapshot.state if snapshot else "none"
        queued = snapshot is not None and state == "waiting" and snapshot.ahead > 0
        working = state in ("preparing", "running") or (state == "waiting" and not queued)
        busy = snapshot is not None and not snapshot.ended
        step = self.studio.runs.saved_step(session, run) if run and not busy else 0
        smaller = bool(self.studio.training_jobs.smaller(session)) and not busy
        unfinished = run is not None and not busy and (0 < step < run.total or smaller)
        unfinished = unfinished and not self.studio.stale(session)
        return {
            self.start: gr.Button(
                "Start a new training" if session.runs else "Start training", visible=not busy,
                variant="secondary" if step else "primary",
            ),
            self.pause: gr.Button(visible=working),
            self.stop: gr.Button(visible=working),
            self.leave: gr.Button(visible=queued),
            self.resume: gr.Button("Go on with less memory" if smaller else "Resume", visible=unfinished),
        }  # fmt: skip

    @told(name)
    def choose_model(self, key: str, model: str) -> Updates:
        """Another model, with its own schedules."""
        return self.show(self.studio.choose_model(key, model))

    @told(name)
    def choose_schedule(self, key: str, schedule: str) -> Updates:
        """Fill the form with a schedule's settings; custom keeps what is there."""
        session = self.studio.sessions.find(key)
        if schedule == "custom" or not schedule:
            return {}
        return self._settings(session, self.studio.facts(session), schedule)

    @told(name)
    def edit(self, key: str, model: str, *values: Any) -> Updates:
        """A setting was changed by hand: what the training needs changes with it."""
        updates: Updates = {self.schedule: "custom"}
        session = self.studio.sessions.find(key)
        facts = self.studio.models.facts(self.studio.models.checked(model))
        own = settings.from_form(dict(zip(self.fields, values, strict=True)))
        with contextlib.suppress(Problem):  # half typed; “Start” says what is wrong
            updates[self.needs] = cards.note(self._needs(facts, facts.config("custom", session.preset, own)))
        return updates

    @told(name)
    def begin(self, key: str, model: str, schedule: str, *values: Any) -> Updates:
        """Start."""
        own = settings.from_form(dict(zip(self.fields, values, strict=True)))
        if not schedule:
            raise Problem("Choose how thoroughly to learn: one of the schedules.")
        self.studio.training_jobs.start(key, model, schedule, own)
        return {**self.watch(self.studio.sessions.find(key), None)[0], self.said: ""}

    @told(name)
    def go_on(self, key: str) -> Updates:
        """Resume."""
        self.studio.training_jobs.resume(key)
        return {**self.watch(self.studio.sessions.find(key), None)[0], self.said: ""}

    @told(name)
    def halt(self, key: str) -> Updates:
        """Pause, stop or leave the queue."""
        self.studio.training_jobs.stop(key)
        return self.watch(self.studio.sessions.find(key), None)[0]

    def lacking(self, session: Session) -> str | None:
        """Why the next step would make no sense yet."""
        if any(not_ready(session, run) is None for run in session.runs):
            return None
        return not_ready(session, session.chosen_run())
