"""Step 4: learn the person and the look."""

from __future__ import annotations

import contextlib
from typing import Any, Literal

import gradio as gr

from magicapture_core.config import TrainConfig, from_dict
from magicapture_core.languages import N_, _, n_
from magicapture_core.problems import Problem
from magicapture_core.ui import cards, lent_gpu, likeness, settings
from magicapture_core.ui.jobs import Snapshot
from magicapture_core.ui.look_cards import learning_order
from magicapture_core.ui.ready_looks import look_title
from magicapture_core.ui.sample_people import sample_people
from magicapture_core.ui.sample_view import SCORED, before_learning, samples
from magicapture_core.ui.server_models import CUSTOM, PATIENCE, ModelFacts
from magicapture_core.ui.session_runs import not_ready
from magicapture_core.ui.step import HALTS, Step, Updates, told, waits_until_filled
from magicapture_core.ui.stored_session import Session, StoredRun
from magicapture_core.ui.studio import Studio
from magicapture_core.ui.training_view import attention, loss_charts, progress, rows_of

SCHEDULES = {
    "quick": N_("Quick"), "paper": N_("Thorough, as in the paper"), CUSTOM: N_("My own settings"),
}  # fmt: skip
STALE = N_(
    "Photos, masks or style were changed since this training began. Its portraits still show what it learned then; "
    "start a new training to use the changes."
)
Variant = Literal["primary", "secondary"]
MEASURING = N_("Measuring how long it takes on this machine …")
"""In place of the pace that is being measured."""


class TrainStep(Step):
    """One button, what it draws, and the settings for those who want them."""

    name = N_("Learn")
    onward: Any
    """“Next”, made by the page: the primary button once there is something to go on with."""

    def __init__(self, studio: Studio) -> None:
        super().__init__(studio)
        self.filled = gr.State(None)
        self.looked = gr.State(None)
        gr.HTML(
            cards.heading(
                _("Make it look like you"),
                _("The face and the look are learned from the photos, on this machine."),
            )
        )
        self.stale = gr.HTML()
        with gr.Row(elem_classes="mc-buttons"):
            self.start = gr.Button(
                _("Make it look like me"), variant="primary", size="lg", elem_id="mc-start"
            )
            self.resume = gr.Button(_("Resume"), variant="primary", visible=False, elem_id="mc-resume")
        self.progress = gr.HTML(js_on_load=cards.live(), elem_id="mc-progress")
        with gr.Row(elem_classes="mc-buttons"):
            self.pause = gr.Button(_("Pause"), visible=False, elem_id="mc-pause", elem_classes=HALTS)
            self.stop = gr.Button(_("Stop and keep"), visible=False, elem_id="mc-stop", elem_classes=HALTS)
            self.leave = gr.Button(
                _("Leave the queue"), visible=False, elem_id="mc-leave", elem_classes=HALTS
            )
        self.schedule = gr.Radio([], label=_("Quality and time"), elem_id="mc-schedule")
        self.looks = gr.HTML(elem_id="mc-learning")
        self.samples = gr.HTML(js_on_load=cards.CLICKS, elem_id="mc-samples")
        self.explained = gr.HTML(likeness.explained(), visible=False)
        self.attention = gr.HTML(elem_id="mc-attention")
        self.losses = gr.HTML(elem_id="mc-losses")
        self.advanced = gr.Accordion(
            _("Advanced"), open=False, elem_id="mc-settings", elem_classes="mc-waits"
        )
        with self.advanced:
            self._advanced()
            waits_until_filled()

    def _advanced(self) -> None:
        models = self.studio.models
        with gr.Row():
            self.model = gr.Dropdown(
                models.choices(), value=models.default, label=_("Model"), min_width=280, filterable=True,
                allow_custom_value=models.any_model, elem_id="mc-model",
                info=_("Or type a folder, a .safetensors file or a Hugging Face name.") if models.any_model else None,
            )  # fmt: skip
            self.early = gr.Checkbox(
                True, label=_("Stop by itself when likeness no longer rises"), min_width=280, elem_id="mc-early",
                info=_("The best is kept in any case."),
            )  # fmt: skip
        self.needs = gr.HTML()
        named = _("As named in the MagiCapture paper. Changing one makes it a training of your own.")
        gr.HTML(f'<p class="mc-quiet">{named}</p>')
        self.fields = settings.layout()

    @property
    def outputs(self) -> list[Any]:
        """Every component, the form's included."""
        return [*super().outputs, *self.fields.values()]

    @property
    def live(self) -> list[Any]:
        """What changes while a training runs, or is measured."""
        return [
            self.progress, self.samples, self.attention, self.losses, self.start, self.pause, self.resume, self.stop,
            self.leave, self.stale, self.said, self.looks, self.schedule, self.advanced, self.explained, self.needs,
            self.onward,
        ]  # fmt: skip

    def show(self, session: Session) -> Updates:
        """Settings for the session's model, and its training."""
        facts = self.studio.facts(session)
        schedule, config = self._last(session, facts) or (facts.schedule_names()[0], None)
        return {
            self.model: facts.name,
            self.filled: self._filled_for(session),
            self.looked: None,
            self.early: config is None or config.stop_when_settled > 0,
            **self.watch(session, None)[0],
            **self._settings(session, facts, schedule, config),
        }

    def _last(self, session: Session, facts: ModelFacts) -> tuple[str, TrainConfig] | None:
        """The schedule and settings of the training that is shown, if it is of the same model and style."""
        run = self.studio.training_jobs.shown(session)
        if run is None or (run.model, run.preset) != (facts.name, session.preset):
            return None
        schedule = run.schedule if run.schedule in facts.schedule_names() else CUSTOM
        with contextlib.suppress(Problem):  # of another version of MagiCapture
            return schedule, from_dict(TrainConfig, run.settings)
        return None

    def enter(self, session: Session, filled: Any) -> Updates:
        """The form keeps what was typed, unless it was for something else."""
        if filled != self._filled_for(session):
            return self.show(session)
        return {self.looked: None, **self.watch(session, None)[0]}

    def _filled_for(self, session: Session) -> list[Any]:
        return [self.studio.facts(session).name, session.looks]

    # --- how long it takes ----------------------------------------------------------------------------

    def _settings(
        self, session: Session, facts: ModelFacts, schedule: str, config: TrainConfig | None = None
    ) -> Updates:
        config = config or facts.config(schedule, session.preset)
        shown = settings.values_of(config)
        return {
            **{self.fields[name]: value for name, value in shown.items()},
            **self._times(session, facts, schedule, config),
        }

    def _times(self, session: Session, facts: ModelFacts, schedule: str, config: TrainConfig) -> Updates:
        """The schedules and the button with their times, as far as they were measured."""
        choices = []
        for name in facts.schedule_names():
            if name != CUSTOM or schedule == CUSTOM:
                its = config if name == schedule else facts.config(name, session.preset)
                title = _(SCHEDULES[name]) if name in SCHEDULES else name.title()
                choices.append((_with_time(title, self._time(facts, its, len(session.looks) or 1)), name))
        return {
            self.schedule: gr.Radio(choices, value=schedule, visible=not self._busy(session)),
            self.start: self._start_button(session, facts, config),
            self.needs: cards.note(self._needs(facts, config)),
        }

    def _time(self, facts: ModelFacts, config: TrainConfig, looks: int = 1) -> str:
        """How long so many looks take; empty where nobody knows."""
        seconds = self.studio.training_jobs.pace.seconds(facts.name, config)
        return cards.duration(seconds * looks) if seconds else ""

    def _start_button(self, session: Session, facts: ModelFacts, config: TrainConfig) -> gr.Button:
        what = _("Learn again") if session.runs else _purpose(session)
        return gr.Button(
            _with_time(what, self._time(facts, config, len(session.looks) or 1)), visible=not self._busy(session),
            variant=self._variants(session)[0],
        )  # fmt: skip

    def _busy(self, session: Session) -> bool:
        job = self.studio.training_jobs.job(session)
        return job is not None and job.active

    def _needs(self, facts: ModelFacts, config: TrainConfig) -> str:
        steps = config.ti_steps + config.lora_steps
        time = self._time(facts, config)
        length = n_(
            "{n} step. About {time}, as measured on this machine.",
            "{n} steps. About {time}, as measured on this machine.",
            steps, time=time,
        ) if time else n_(
            "{n} step. The first steps measure how long they take on this machine.",
            "{n} steps. The first steps measure how long they take on this machine.",
            steps,
        )  # fmt: skip
        return "\n".join([facts.needs, length, *([_(lent_gpu.WORD)] if lent_gpu.lending() else [])])

    # --- the live view --------------------------------------------------------------------------------

    def watch(
        self, session: Session, seen: Any, looked: int | None = None, schedule: str | None = None
    ) -> tuple[Updates, Any]:
        """What is new since `seen`, and the new `seen`. looked: the sample that is looked at, None for the newest;
        schedule: what is chosen in the form."""
        job, run = self.studio.training_jobs.job(session), self.studio.training_jobs.shown(session)
        snapshot = job.snapshot() if job else None
        now = self._moment(session, job.id if job else run.id if run else "", snapshot)
        if seen == now:
            return {}, seen
        before = seen or [None] * 6
        saved = self.studio.runs.saved_step(session, run) if run else 0
        measuring = now[5] == MEASURING and snapshot is None and run is None
        updates: Updates = {
            self.progress: cards.note(_(MEASURING)) if measuring else progress(snapshot, run, saved),
            self.stale: cards.note(_(STALE), "warn") if self.studio.stale(session) else "",
            self.looks: self._order(session),
            **self._buttons(session, snapshot),
        }
        ended = snapshot is None or snapshot.ended
        if ended and self.lacking(session) is None:
            updates[self.said] = ""
        if before[5] is not None and before[5] != now[5] and schedule not in (None, CUSTOM):
            facts = self.studio.facts(session)
            updates |= self._times(session, facts, schedule, facts.config(schedule, session.preset))
        until = snapshot.reports[-1].step if snapshot and snapshot.reports else saved
        if before[3] != now[3] or before[0] != now[0] or (before[1] != now[1] and ended):
            drawn = self.reel(session, run, until, looked, ended)
            updates |= {self.samples: drawn, self.explained: gr.HTML(visible=SCORED in drawn)}
        for part, number, draw in ((self.attention, 4, self._attention), (self.losses, 2, self._losses)):
            if before[number] != now[number] or before[0] != now[0]:
                updates[part] = draw(session, run, until, snapshot) if run else ""
        return updates, now

    def _moment(self, session: Session, job_id: str, snapshot: Snapshot | None) -> list[Any]:
        """What the view depends on: job, its state, reports, samples, attention, and what is known of the pace."""
        facts = self.studio.facts(session)
        measuring = self.studio.training_jobs.probe.working(session)
        usual = facts.schedule_names()[0]
        pace = MEASURING if measuring else self._time(facts, facts.config(usual, session.preset))
        draft = self.studio.drafts.before(session, self.studio.training_jobs.shown(session))
        if snapshot is None:
            return [job_id, "none", 0, draft and draft.picture, 0, pace]
        drawn = sum(report.sample is not None for report in snapshot.reports) or (draft and draft.picture)
        listened = sum(bool(report.attention) for report in snapshot.reports)
        state = f"{snapshot.state} {snapshot.ahead} {snapshot.stage} {snapshot.share:.2f}"
        return [job_id, state, len(snapshot.reports), drawn, listened, pace]

    def reel(
        self, session: Session, run: StoredRun | None, until: int, looked: int | None, ended: bool
    ) -> str:
        """The samples of a run up to a step; before the first one, the draft."""
        drawn = samples(session, session.run_folder(run), until, looked, ended) if run else ""
        draft = None if drawn else self.studio.drafts.before(session, run)
        return drawn if draft is None else before_learning(session, draft)

    def _order(self, session: Session) -> str:
        """Several ticked looks: which are learned, and which one is being learned."""
        jobs, job = self.studio.training_jobs, self.studio.training_jobs.job(session)
        run = jobs.shown(session)
        now = run.look if run is not None and job is not None and job.active else None
        return learning_order([
            (look_title(look), "now" if look == now else "done" if jobs.learned(session, look) else "")
            for look in session.looks
        ])  # fmt: skip

    def _attention(self, session: Session, run: StoredRun, until: int, _snapshot: Snapshot | None) -> str:
        return attention(session, session.run_folder(run), run.settings, until)

    def _losses(self, session: Session, run: StoredRun, until: int, snapshot: Snapshot | None) -> str:
        rows = rows_of(snapshot.reports) if snapshot else []
        first = rows[0]["step"] if rows else until + 1
        if first > 1:  # those before are on disk
            rows = [row for row in self.studio.runs.losses(session, run) if row["step"] < first] + rows
        return loss_charts(rows, run.total)

    def _buttons(self, session: Session, snapshot: Snapshot | None) -> Updates:
        state = snapshot.state if snapshot else "none"
        queued = snapshot is not None and state == "waiting" and snapshot.ahead > 0
        working = state in ("preparing", "running") or (state == "waiting" and not queued)
        busy = snapshot is not None and not snapshot.ended
        smaller = bool(self.studio.training_jobs.smaller(session)) and not busy
        again = _("Go on with less memory") if smaller else _("Resume")
        first, onward = self._variants(session)
        start: dict[str, Any] = {"visible": not busy, "variant": first}
        return {
            self.start: gr.Button(_("Learn again"), **start) if session.runs else gr.Button(**start),
            self.onward: gr.Button(variant=onward),
            self.pause: gr.Button(visible=working),
            self.stop: gr.Button(visible=working),
            self.leave: gr.Button(visible=queued),
            self.resume: gr.Button(again, visible=self._unfinished(session)),
            self.schedule: gr.Radio(visible=not busy),
            self.advanced: gr.Accordion(visible=False, open=False) if busy else gr.Accordion(visible=True),
        }  # fmt: skip

    def _unfinished(self, session: Session) -> bool:
        """Whether there is something to resume."""
        run = session.chosen_run()
        if run is None or self._busy(session) or self.studio.stale(session):
            return False
        partly = not run.finished and 0 < self.studio.runs.saved_step(session, run) < run.total
        return partly or bool(self.studio.training_jobs.smaller(session))

    def _variants(self, session: Session) -> tuple[Variant, Variant]:
        """Of the button that starts, and of “Next”. At most one is primary: what to do now, if that is not “Resume”."""
        if self._unfinished(session):
            return "secondary", "secondary"
        if self.lacking(session) is not None:
            return "primary", "secondary"
        return "secondary", "secondary" if self._busy(session) else "primary"

    # --- handlers -------------------------------------------------------------------------------------

    @told(name)
    def choose_model(self, key: str, model: str) -> Updates:
        """Another model, with its own schedules."""
        return self.show(self.studio.choose_model(key, model))

    @told(name)
    def choose_schedule(self, key: str, schedule: str) -> Updates:
        """Fill the form with a schedule's settings; the visitor's own stay."""
        session = self.studio.sessions.find(key)
        if schedule == CUSTOM or not schedule:
            return {}
        return self._settings(session, self.studio.facts(session), schedule)

    @told(name)
    def edit(self, key: str, model: str, early: bool, *values: Any) -> Updates:
        """A setting was changed by hand: what the training needs changes with it."""
        session = self.studio.sessions.find(key)
        facts = self.studio.models.facts(self.studio.models.checked(model))
        config = facts.config(CUSTOM, session.preset)
        with contextlib.suppress(Problem):  # half typed; the button says what is wrong
            config = facts.config(CUSTOM, session.preset, self._own(early, values))
        return self._times(session, facts, CUSTOM, config)

    def _own(self, early: bool, values: tuple[Any, ...]) -> dict[str, Any]:
        """What the form holds, as settings."""
        own = settings.from_form(dict(zip(self.fields, values, strict=True)))
        return {**own, "stop_when_settled": PATIENCE if early else 0}

    @told(name)
    def begin(self, key: str, model: str, schedule: str, early: bool, *values: Any) -> Updates:
        """Start."""
        if not schedule:
            raise Problem(_("Choose one of “Quality and time” first."))
        self.studio.training_jobs.start(key, model, schedule, self._own(early, values))
        return {
            self.looked: None, **self.watch(self.studio.sessions.find(key), None)[0], self.said: "",
        }  # fmt: skip

    @told(name)
    def look_at(self, key: str, event: gr.EventData) -> Updates:
        """Show another sample large. The newest follows what is drawn."""
        session = self.studio.sessions.find(key)
        job, run = self.studio.training_jobs.job(session), self.studio.training_jobs.shown(session)
        snapshot = job.snapshot() if job else None
        saved = self.studio.runs.saved_step(session, run) if run else 0
        until = snapshot.reports[-1].step if snapshot and snapshot.reports else saved
        ended, wanted = snapshot is None or snapshot.ended, int(event.id)
        newest = snapshot is not None and wanted == max(
            (report.step for report in snapshot.reports if report.sample is not None), default=0
        )
        looked = None if newest and not ended else wanted
        return {self.looked: looked, self.samples: self.reel(session, run, until, looked, ended)}

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


def _purpose(session: Session) -> str:
    """What the first training is for, as the button says it."""
    if session.kind != "person":
        return _("Learn it")
    titles = {person.name: person.title for person in sample_people()}
    if session.person in titles:
        return _("Make it look like {person}", person=titles[session.person])
    return _("Make it look like me")


def _with_time(what: str, time: str) -> str:
    """time: how long it takes; empty where nobody knows."""
    return _("{what}: about {time}", what=what, time=time) if time else what
