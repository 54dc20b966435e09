"""The page around the steps: the session, the row of steps, the timer, the deletion."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gradio as gr

from magicapture_core.languages import N_, _, language, n_
from magicapture_core.problems import Problem
from magicapture_core.ui import cards, head, look
from magicapture_core.ui.finishing_jobs import FINISHING
from magicapture_core.ui.session_runs import not_ready
from magicapture_core.ui.step import Step, Updates, told, waits_until_filled
from magicapture_core.ui.step_finish import FinishStep
from magicapture_core.ui.step_masks import MasksStep
from magicapture_core.ui.step_photos import PhotosStep
from magicapture_core.ui.step_portraits import PortraitsStep
from magicapture_core.ui.step_style import StyleStep
from magicapture_core.ui.step_train import TrainStep
from magicapture_core.ui.stored_session import Session
from magicapture_core.ui.studio import Studio, facts_of
from magicapture_core.ui.training_jobs import TRAINING

PHOTOS, STYLE, MASKS, TRAIN, PORTRAITS, FINISH = range(6)
STEPS: tuple[type[Step], ...] = (PhotosStep, StyleStep, MasksStep, TrainStep, PortraitsStep, FinishStep)
START, DELETION = N_("Start"), N_("Delete my data")
STOP_PATIENCE = 120.0
OPENING = (
    N_("Opening your photos"), N_("Looking at the photos"), N_("Marking the faces in the photos"),
    N_("Opening the step"), N_("Opening the portraits"), N_("Opening the last step"),
)  # fmt: skip
"""What is done on the way to each step."""


class Wizard:
    """The whole page in the language that is spoken where it is made, which is within gr.Blocks."""

    def __init__(self, studio: Studio) -> None:
        self.studio, self.language = studio, language()
        self.key = gr.BrowserState(None, storage_key="magicapture", secret=studio.sessions.secret())
        self.seen = gr.State(None)
        self.timer = gr.Timer(1.0, active=False)
        gr.HTML(head.page_head(studio.sessions.keep_days), js_on_load=look.SCRIPT)
        self.way = gr.HTML(_way(PHOTOS, PHOTOS), js_on_load=cards.CLICKS, elem_id="mc-way")
        self.steps: list[Any] = []
        self.feet: list[tuple[gr.Button | None, gr.Button | None, gr.HTML]] = []
        with gr.Walkthrough(selected=PHOTOS, elem_id="mc-steps") as self.walkthrough:
            for number, step in enumerate(STEPS):
                with gr.Step(_(step.name), id=number):
                    self.steps.append(step(studio))
                    self.feet.append(self._foot(number))
                    if number > PHOTOS:
                        waits_until_filled()
        with gr.Accordion(_(DELETION), open=False, elem_id="mc-delete-box"):
            about = _(
                "Removes all photos, trainings and portraits of this browser from the server, at once and for good."
            )
            gr.HTML(f'<p class="mc-quiet">{about}</p>')
            self.ask_delete = gr.Button(_(DELETION), elem_id="mc-delete")
            with gr.Column(visible=False) as self.sure:
                self.question = gr.HTML()
                with gr.Row(elem_classes="mc-buttons"):
                    self.keep_data = gr.Button(_("No, keep it"), elem_id="mc-delete-no")
                    self.delete = gr.Button(
                        _("Yes, delete everything"), variant="stop", elem_id="mc-delete-yes"
                    )

    def _foot(self, number: int) -> tuple[gr.Button | None, gr.Button | None, gr.HTML]:
        said = self.steps[number].said = gr.HTML(elem_id=f"mc-said-{number}", elem_classes="mc-said")
        back = onward = None
        with gr.Row(elem_classes="mc-foot"):
            if number > PHOTOS:
                back = gr.Button(_("Back"), elem_classes="mc-narrow", elem_id=f"mc-back-{number}")
            if number < FINISH:
                onward = self.steps[number].onward = gr.Button(
                    _("Next: {step}", step=_(STEPS[number + 1].name)), variant="primary",
                    elem_classes="mc-narrow mc-next", elem_id=f"mc-next-{number}",
                )  # fmt: skip
        return back, onward, said

    @property
    def outputs(self) -> list[Any]:
        """Every component that a handler may change."""
        each = [component for step in self.steps for component in step.outputs]
        return [
            *each,
            self.way,
            self.walkthrough,
            self.timer,
            self.seen,
            *self.confirmation,
        ]

    @property
    def live(self) -> list[Any]:
        """Components that change while a job works."""
        return [
            self.seen,
            self.timer,
            self.steps[PHOTOS].first,
            self.steps[STYLE].drafts,
            self.steps[STYLE].presets,
            *self.steps[TRAIN].live,
            *self.steps[PORTRAITS].live,
        ]

    @property
    def following(self) -> list[Any]:
        """Components that decide whether the page follows a job."""
        return [self.timer, self.seen]

    @property
    def confirmation(self) -> list[Any]:
        """The question before deletion."""
        return [self.ask_delete, self.sure, self.question]

    # --- handlers -------------------------------------------------------------------------------------

    @told(START)
    def open(self, key: object) -> Updates:
        """Find the browser's session again, and show the step at which the visitor was."""
        key, session = self.studio.sessions.open(key)
        landing = self._landing(session)
        session = self._arriving(key, landing)
        updates = {**self.steps[PHOTOS].show(session), **self.steps[landing].show(session)}
        return {self.key: key, **updates, **self._at(session, landing)}

    @told(START)
    def fill(self, key: str) -> Updates:
        """Fill the steps that are not seen yet. They need slower imports."""
        self.studio.photos.look_at_all(key)  # where the page was closed before all were looked at
        session = self.studio.sessions.find(key)
        landing = self._landing(session)
        updates = self._start_following_at(session, landing)
        for number, step in enumerate(self.steps):
            if number not in (PHOTOS, landing):
                updates |= step.show(session)
        return updates

    @told(START)
    def fill_masks(self, key: str) -> Updates:
        """Fill the step of masks, if the visitor was past it. Making them may take a moment."""
        past = self._landing(self.studio.sessions.find(key)) > MASKS
        return self.steps[MASKS].pictures(key, self.steps[MASKS].view.value) if past else {}

    def show(self, session: Session) -> Updates:
        """Every step as the session stands."""
        updates: Updates = {self.seen: None}
        for step in self.steps:
            updates |= step.show(session)
        updates[self.timer] = gr.Timer(active=self.studio.jobs.active(session.id) is not None)
        return updates

    def _landing(self, session: Session) -> int:
        active = self.studio.jobs.active(session.id)
        if active is not None:
            return {TRAINING: TRAIN, FINISHING: FINISH}.get(active.kind, PORTRAITS)
        if session.portraits:
            return PORTRAITS
        return TRAIN if session.runs else PHOTOS

    def _reached(self, session: Session) -> int:
        """The last step that can be chosen, by what the session has: photos, style, trainings, portraits."""
        if session.portraits:
            return FINISH
        if any(not_ready(session, run) is None for run in session.runs):
            return PORTRAITS
        if session.usable("subject"):
            return TRAIN if session.runs or self.steps[STYLE].lacking(session) is None else STYLE
        return TRAIN if session.runs else PHOTOS

    def _at(self, session: Session, number: int) -> Updates:
        """Show this step."""
        return {
            self.way: _way(number, max(number, self._reached(session))),
            self.walkthrough: gr.Walkthrough(selected=number),
        }

    @told(TrainStep.name)
    def follow(
        self, key: str, seen: list[Any] | None, looked: int | None, schedule: str | None, *place: Any
    ) -> Updates:
        """What is new, every second while a job is under way. See the steps' `watch`."""
        before = seen or [None, None, None, None]
        try:
            found = self.studio.sessions.find(key)
            self.studio.visited(key)
            busy = self.studio.busy(found)
            # Only now, after the job was looked at: it stores its last result, and then it ends.
            session = self.studio.sessions.find(key)
        except Problem:  # deleted in another tab
            return {self.timer: gr.Timer(active=False)}
        train, seen_train = self.steps[TRAIN].watch(session, before[0], looked, schedule)
        portraits, seen_portraits = self.steps[PORTRAITS].watch(session, before[1], *place)
        drafts, seen_drafts = self.steps[STYLE].watch(session, before[2])
        first, seen_first = self.steps[PHOTOS].watch(session, before[3])
        updates: Updates = {**train, **portraits, **drafts, **first}
        now = [seen_train, seen_portraits, seen_drafts, seen_first]
        if before != now:
            updates[self.seen] = now
        if not busy:
            updates[self.timer] = gr.Timer(active=False)
        return updates

    @told(START)
    def start_following(self) -> Updates:
        """Start the timer, which then draws everything once at least.

        A job may have failed already. And a button's answer may arrive after a newer answer of the timer, with
        which the timer had stopped.
        """
        return {self.timer: gr.Timer(active=True), self.seen: None}

    def _start_following_at(self, session: Session, number: int) -> Updates:
        """Start the timer where a step shows a job: the job may have ended while the step was drawn."""
        if number in (PHOTOS, STYLE, TRAIN, PORTRAITS) or self.studio.jobs.active(session.id) is not None:
            return {self.timer: gr.Timer(active=True), self.seen: None}
        return {}

    @property
    def asked(self) -> list[Any]:
        """What going from step to step must know: the key, how masks are shown, what the forms hold."""
        portraits = self.steps[PORTRAITS]
        return [
            self.key, self.steps[MASKS].view, self.steps[TRAIN].filled, portraits.filled, portraits.prompt,
        ]  # fmt: skip

    def go_back(self, number: int) -> Callable[..., Any]:
        """A handler that goes from step `number` to the one before."""

        @told(STEPS[number].name)
        def back(key: str, *page: Any) -> Updates:
            return {self.feet[number][2]: "", **self._entering(key, number - 1, *page)}

        return back

    def go_on(self, number: int) -> Callable[..., Any]:
        """A handler that goes from step `number` to the next, or says why not."""

        @told(STEPS[number].name)
        def onward(key: str, *page: Any) -> Updates:
            if number in (PHOTOS, STYLE):
                self.studio.photos.look_at_all(key)  # rather than say that it is not done yet
            lacking = self._lacking(self.studio.sessions.find(key), number)
            if lacking:
                return {self.feet[number][2]: cards.note(lacking, "warn")}
            return {self.feet[number][2]: "", **self._entering(key, number + 1, *page)}

        return onward

    @told(START)
    def go_to(
        self, key: str, view: str, train: Any, portraits: Any, prompt: str, event: gr.EventData
    ) -> Updates:
        """A step was chosen in the row of steps."""
        number, reached = int(event.id), self._reached(self.studio.sessions.find(key))
        if not PHOTOS <= number <= reached:
            raise Problem(_("Finish the step “{step}” first.", step=_(STEPS[reached].name)))
        return self._entering(key, number, view, train, portraits, prompt)

    def _arriving(self, key: str, number: int) -> Session:
        """The session, told whether somebody is with its portraits or with its trainings."""
        if number == PORTRAITS:
            return self.studio.runs.take_ready(key)
        if number == TRAIN:
            return self.studio.runs.leave_portraits(key)
        return self.studio.sessions.find(key)

    def _entering(self, key: str, number: int, view: str, train: Any, portraits: Any, prompt: str) -> Updates:
        """The step as it stands now: what came before it may have changed. See `asked`."""
        if number == STYLE:
            self.studio.drafts.renew(key)
        if number in (MASKS, TRAIN):
            self.studio.training_jobs.measure(key)
        session = self._arriving(key, number)
        filled = {TRAIN: train, PORTRAITS: (portraits, prompt)}.get(number)
        updates = self.steps[number].enter(session, filled)
        if number == MASKS:
            updates |= self.steps[MASKS].pictures(key, view)
        return {**updates, **self._start_following_at(session, number), **self._at(session, number)}

    def _lacking(self, session: Session, number: int) -> str | None:
        step = self.steps[number]
        if isinstance(step, PhotosStep | StyleStep):
            return step.lacking(session)
        if isinstance(step, TrainStep):
            training = self.studio.training_jobs.newest(session)
            if training is not None and training.active:  # other jobs are no reason to wait here
                return _("A training is under way. Wait for it, or press “Stop and keep”.")
            return step.lacking(session)
        if number == PORTRAITS and not session.portraits:
            return _("Make some portraits first.")
        return None

    @told(TrainStep.name)
    def wait_and_go_to_portraits(self, key: str) -> Updates:
        """After “Stop and keep”: as soon as it is saved, go on."""
        session = self.studio.sessions.find(key)
        job = self.studio.training_jobs.job(session)
        if job is not None and not job.wait(STOP_PATIENCE):
            return {
                self.feet[TRAIN][2]: cards.note(
                    _("It still finishes its step. Press “Next” when it has stopped.")
                )
            }
        session = self.studio.sessions.find(key)
        lacking = not_ready(session, session.chosen_run())
        if lacking:
            return {self.feet[TRAIN][2]: cards.note(lacking, "warn")}
        session = self._arriving(key, PORTRAITS)
        return {
            **self.steps[TRAIN].watch(session, None)[0],
            **self.steps[PORTRAITS].show(session),
            **self._start_following_at(session, PORTRAITS),
            **self._at(session, PORTRAITS),
        }

    @told(DELETION)
    def confirm_delete(self, key: str) -> Updates:
        """Ask before deleting."""
        counts = self._counts(key)
        return {
            self.ask_delete: gr.Button(visible=False),
            self.sure: gr.Column(visible=True),
            self.question: cards.note(
                _("Delete {what}? They cannot be brought back.", what=_counted(counts)), "warn"
            ),
        }

    @told(DELETION)
    def cancel_delete(self) -> Updates:
        """Nothing is deleted."""
        return {self.ask_delete: gr.Button(visible=True), self.sure: gr.Column(visible=False)}

    @property
    def boxes(self) -> list[Any]:
        """Where uploads wait until a step takes them in."""
        photos = self.steps[PHOTOS]
        return [photos.files, photos.camera, self.steps[STYLE].files]

    @told(DELETION)
    def delete_data(self, key: str, *waiting: list[str] | str | None) -> Updates:
        """Delete, and begin anew. waiting: what the boxes hold; no step has taken it in, so no session knows it."""
        counts = self._counts(key)
        for held in waiting:
            self.studio.sessions.forget_uploads([held] if isinstance(held, str) else held or ())
        self.studio.delete(key)
        key, session = self.studio.sessions.create()
        gr.Info(_("Deleted: {what}.", what=_counted(counts)), title=_(DELETION))
        return {
            self.key: key,
            **self.show(session),
            **dict.fromkeys(self.boxes, None),
            self.ask_delete: gr.Button(visible=True),
            self.sure: gr.Column(visible=False),
            **self._at(session, PHOTOS),
        }

    def _counts(self, key: str) -> dict[str, int]:
        try:
            return facts_of(self.studio.sessions.find(key))
        except Problem:  # it cannot be read, and goes all the same
            return dict.fromkeys(("photos", "trainings", "portraits"), 0)


def _way(current: int, reached: int) -> str:
    return cards.way([_(step.name) for step in STEPS], current, reached)


def _counted(counts: dict[str, int]) -> str:
    """The numbers in words: “6 photos, 1 training and 4 portraits”."""
    return _(
        "{photos}, {trainings} and {portraits}",
        photos=n_("{n} photo", "{n} photos", counts["photos"]),
        trainings=n_("{n} training", "{n} trainings", counts["trainings"]),
        portraits=n_("{n} portrait", "{n} portraits", counts["portraits"]),
    )


def layout(studio: Studio) -> Wizard:
    """Build the page within the Blocks under construction."""
    return Wizard(studio)
