"""Trainings of a session as jobs: start, stop, resume."""

from __future__ import annotations

import logging
import secrets
import shutil
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import closing, suppress
from typing import TYPE_CHECKING, Any

from magicapture_core.adapters.files import FOLDER, has_embeddings
from magicapture_core.config import TrainConfig, from_dict, to_dict
from magicapture_core.languages import N_, _
from magicapture_core.problems import OutOfMemory, Problem
from magicapture_core.ui.jobs import Job, Stream
from magicapture_core.ui.lent_gpu import Loan, Told, training_seconds
from magicapture_core.ui.measured_pace import SAMPLE, MeasuredPace
from magicapture_core.ui.ready_looks import look_title
from magicapture_core.ui.session_jobs import Parts, SlicedJobs
from magicapture_core.ui.stored_session import OWN, Session, StoredRun
from magicapture_core.ui.training_probe import TrainingProbe, beside_a_step

if TYPE_CHECKING:
    from magicapture_core.training import StepReport

log = logging.getLogger(__name__)

TRAINING = N_("training")
SHARED_MOST = {
    "batch_size": 16, "gradient_accumulation": 32, "resolution": 1024, "prior_pictures": 400, "sample_steps": 100,
    "keep_checkpoints": 5, "sample_pictures": 8,
}  # fmt: skip
"""The highest settings on a server for others."""
NOT_ALLOWED = N_("Tick the box that says you may use the photos, in the step “Photos”.")
ROOM_EVERY = 20
"""Steps after which a training looks at how much disk its session takes."""


class TrainingJobs(SlicedJobs):
    """Start, stop and resume trainings; what is asked of a slice is whether it resumes."""

    kind = TRAINING

    def __init__(self, parts: Parts, drafting: Callable[[Session], bool]) -> None:
        super().__init__(parts)
        self.pace = MeasuredPace(parts.sessions.root / "pace.json")
        self.probe = TrainingProbe(parts, self.pace, drafting)

    def measure(self, key: str) -> None:
        """Begin to measure how long the recommended training of the session's model takes, if nobody knows yet."""
        session = self.sessions.find(key)
        facts = self.models.facts(self.models.of(session))
        config = facts.config(
            facts.schedule_names()[0],
            session.preset,
            {"subject_kind": session.kind, "subject_words": session.words},
        )
        self.probe.start(key, facts, config)

    def missing(self, session: Session) -> str | None:
        """What must be done before training can start, or None."""
        if not session.usable("subject"):
            return _(
                "There are no usable photos of the person yet. Go back to the step “Photos” and add some."
            )
        if not session.allowed:
            return _(NOT_ALLOWED)
        for look in session.looks or [OWN]:
            if not session.usable("style", look):
                return _(
                    "There are no usable style photos yet. Go back to the step “Style” and choose a look."
                )
        return None

    def start(self, key: str, model: str | None, schedule: str, own: Mapping[str, Any]) -> StoredRun:
        """Learn the ticked looks, one training after the other. Raises Problem if something is missing or one is
        under way. Looks that were learned from the same photos with the same settings are left out, unless all were.

        Returns the first training.
        """
        session = self.sessions.find(key)
        self.jobs.refuse_if_busy(session.id)
        lacking = self.missing(session)
        if lacking:
            raise Problem(lacking)
        name = self.models.checked(model)
        looks = session.looks or [OWN]
        configs = {look: self._config(session, look, name, schedule, own) for look in looks}
        new = [look for look in looks if not self.learned(session, look, (name, configs[look]))]
        first, *then = new or looks
        with self.sessions.changing(key) as session:
            # Whoever starts a training wants to see that one.
            session.looked_at, session.trained = False, None
        return self._start_one(key, first, then, name, schedule, own)

    def learned(self, session: Session, look: str, like: tuple[str, TrainConfig] | None = None) -> bool:
        """Whether a look was learned from these photos, to the end. like: with this model and these settings."""
        fingerprint = session.fingerprint(look)
        wanted = None if like is None else (like[0], to_dict(like[1]))
        return any(
            run.look == look and run.fingerprint == fingerprint and _complete(run)
            and (wanted is None or wanted == (run.model, run.settings))
            for run in session.runs
        )  # fmt: skip

    def coming(self, session: Session) -> list[str]:
        """The looks that are learned by themselves after the training that is under way."""
        job = self.newest(session)
        run = next((run for run in session.runs if job and run.id == job.about), None)
        if job is None or run is None or not (job.active or job.snapshot().state == "done"):
            return []
        return [look for look in run.then if look in session.looks]

    def _config(
        self, session: Session, look: str, model: str, schedule: str, own: Mapping[str, Any]
    ) -> TrainConfig:
        wanted = {"subject_words": session.words, **own, "subject_kind": session.kind}
        return self.models.facts(model).config(schedule, None if look == OWN else look, wanted)

    def _start_one(
        self, key: str, look: str, then: list[str], model: str, schedule: str, own: Mapping[str, Any]
    ) -> StoredRun:
        """Begin the training of one look. then: those that follow."""
        with self.sessions.changing(key) as session:
            config = self._config(session, look, model, schedule, own)
            if not self.models.any_model:
                _check_shared(config)
            self.sessions.check_room(session)
            self._check_disk(session)
            run = StoredRun(
                id=f"magicapture-{secrets.token_hex(3)}",  # names the exported files, too
                title=_title(session, look),
                model=model,
                fingerprint=session.fingerprint(look),
                schedule=schedule,
                settings=to_dict(config),
                started=time.time(),
                preset=None if look == OWN else look,
                then=then,
                total=config.ti_steps + config.lora_steps,
            )
            before = session.run, session.trained
            session.choose_trained(run.id)
            session.runs.append(run)
            session.model = model
        try:
            self._begin(key, run.id, self._stream, run, False)
        except Problem:  # the queue is full: as if it had not been asked for
            with self.sessions.changing(key) as session:
                session.runs = [each for each in session.runs if each.id != run.id]
                session.run, session.trained = before
            raise
        return run

    def _ended(self, job: Job, key: str) -> None:
        """Begin the next of several looks."""
        if job.snapshot().state != "done":
            return
        try:
            session = self.sessions.find(key)
            run = next((run for run in session.runs if run.id == job.about), None)
            coming = self.coming(session)
            if run is None or not coming:
                return
            lacking = self.missing(session)
            if lacking:
                raise Problem(lacking)
            first, *then = coming
            self._start_one(key, first, then, run.model, run.schedule, _without_kind(run.settings))
        except Problem as problem:  # deleted meanwhile, or no room left
            log.info("the next look is not learned: %s", problem)
            self._forget_coming(key, job.about)

    def _forget_coming(self, key: str, run_id: str) -> None:
        with suppress(Problem), self.sessions.changing(key) as session:
            for run in session.runs:
                if run.id == run_id:
                    run.then = []

    def resume(self, key: str, run_id: str | None = None) -> StoredRun:
        """Go on with a training that was paused or cut off."""
        session = self.sessions.find(key)
        run = next((run for run in session.runs if run.id == (run_id or session.run)), None)
        if run is None:
            raise Problem(_("There is no training to go on with. Start one."))
        if not session.allowed:  # they said so once, and may have changed their mind
            raise Problem(_(NOT_ALLOWED))
        if session.fingerprint(run.look) != run.fingerprint:
            raise Problem(
                _(
                    "Photos, masks or style were changed since this training began, so it cannot go on. Start a new "
                    "training."
                )
            )
        smaller = self.smaller(session)
        if smaller:
            with self.sessions.changing(key) as session:
                run = next(each for each in session.runs if each.id == run.id)
                run.settings |= smaller
        self.sessions.check_room(session)
        begun = (session.run_folder(run) / "config.json").exists()
        self._begin(key, run.id, self._stream, run, begun)
        return run

    def smaller(self, session: Session) -> dict[str, Any]:
        """Settings with which the chosen run may fit into memory, if it just failed to; else nothing."""
        job = self.job(session)
        failure = job.failure if job is not None and job.about == session.run else None
        return failure.smaller if isinstance(failure, OutOfMemory) else {}

    def stop(self, key: str) -> None:
        """Stop after the current step and save; leave the queue if it has not begun."""
        session = self.sessions.find(key)
        job = self.jobs.active(session.id)
        if job is not None:
            job.stop()

    def shown(self, session: Session) -> StoredRun | None:
        """The run that the step shows: the one being trained, else the chosen one."""
        job = self.job(session)
        return next((run for run in session.runs if job and run.id == job.about), session.chosen_run())

    def job(self, session: Session) -> Job | None:
        """The newest training since the server was started, if it has not ended or made the chosen run."""
        job = self.newest(session)
        return job if job is not None and (job.active or job.about == session.run) else None

    def _check_disk(self, session: Session) -> None:
        free = shutil.disk_usage(session.folder).free
        if free < 500e6:
            raise Problem(
                _(
                    "The server's disk is almost full ({free:.0f} MB free, 500 MB needed). Delete past trainings "
                    "below, or ask whoever runs this server to make room.",
                    free=free / 1e6,
                )
            )

    def _stream(self, job: Job, key: str, run: StoredRun, resume: bool) -> Stream:
        config = from_dict(TrainConfig, run.settings)
        last: StepReport | None = None
        ended = False
        seconds: dict[str, list[float]] = {SAMPLE: []}
        reports, began = self._reports(job, key, run, resume), time.monotonic()
        try:
            for report in reports:
                seconds.setdefault(report.phase, []).append(report.seconds / config.items_per_step)
                if report.sample is not None and last is not None:  # preparing is no part of the first
                    seconds[SAMPLE].append(beside_a_step(report, began) / config.sample_pictures)
                last, began = report, time.monotonic()
                job.say("")
                yield report
                if report.step % ROOM_EVERY == 0:
                    self.sessions.check_room(self.sessions.find(key))
            ended = not job.stopping
        finally:
            reports.close()
            if last is not None:
                self._note(key, run, last.step, ended or last.step == last.total_steps)
                self.pace.keep(run.model, run.settings["resolution"], seconds)

    def _in_one_go(self, job: Told, key: str, run: StoredRun, asked: bool) -> Stream:
        from magicapture_core.evaluation.class_pictures import class_latents
        from magicapture_core.training import train

        session = self.sessions.find(key)
        config = from_dict(TrainConfig, run.settings)
        models = self.models.load(run.model, job)
        job.say(_("Preparing the photos"))
        concepts = {
            role: self.masks.concept(session, role, config.resolution, models.framing, run.look)  # type: ignore[arg-type]
            for role in ("subject", "style")
        }
        if job.stopping:
            return
        job.say(_("Looking at the photos again") if asked else _("Looking at the photos for the first time"))
        analyser = self.photos.analyser()[0] if session.kind == "person" else None
        yield from train(
            models, concepts["subject"], concepts["style"], config, session.run_folder(run),
            analyser=analyser, class_latents=class_latents(models, config), resume=asked,
        )  # fmt: skip

    def _in_slices(self, job: Told, key: str, run: StoredRun, asked: bool) -> Stream:
        """Each slice goes on where the one before saved."""
        self.models.fetch(run.model, job)
        resume = asked
        while True:
            job.say(_("Waiting for the Space's GPU"))
            last: StepReport | None = None
            for report in self._one_loan(key, run, resume, self._seconds_left(key, run)):
                last = report
                yield report
            if last is None or last.settled or last.step >= last.total_steps:
                return
            resume = True

    def _seconds_left(self, key: str, run: StoredRun) -> int:
        """Seconds to ask the lent GPU for: what the rest of a training takes, or a whole loan."""
        config = from_dict(TrainConfig, run.settings)
        folder = self.sessions.find(key).run_folder(run)
        found = [path.name.rpartition("-")[2] for path in folder.glob("checkpoint-*")]
        done = max((int(step) for step in found if step.isdigit()), default=0)
        left = {
            "textual_inversion": max(0, config.ti_steps - done),
            "lora": config.lora_steps - max(0, done - config.ti_steps),
        }
        samples = sum(left.values()) // (config.sample_every or sys.maxsize)
        drawn = samples * config.sample_pictures * config.sample_steps
        return training_seconds(left, config.items_per_step, drawn, standing=self.models.stands(run.model))

    def _slice(self, flag: str, seconds: int, key: str, run_id: str, asked: bool) -> Stream:
        """Train until the loan ends."""
        loan = Loan(flag, seconds, standing=self.models.stands(self._run(key, run_id).model))
        with closing(self._in_one_go(loan, key, self._run(key, run_id), asked)) as reports:
            for report in reports:
                yield report
                if loan.stopping or loan.over:
                    return

    def _note(self, key: str, run: StoredRun, step: int, finished: bool) -> None:
        try:
            with self.sessions.changing(key) as session:
                for stored in session.runs:
                    if stored.id == run.id:
                        stored.step, stored.finished = step, finished
                        if has_embeddings(session.run_folder(run) / FOLDER):
                            session.choose_trained(run.id)
        except Problem:
            log.info("session %s was deleted during its training", self.sessions.owner(key))


def _complete(run: StoredRun) -> bool:
    return run.finished or 0 < run.total <= run.step


def _title(session: Session, look: str) -> str:
    """What a training is called: by its look, with a number from the second one on."""
    count = sum(run.look == look for run in session.runs)
    title = look_title(look)
    return _("{look} {number}", look=title, number=count + 1) if count else title


def _without_kind(settings: Mapping[str, Any]) -> dict[str, Any]:
    """A training's settings for another look from the same photos."""
    return {name: value for name, value in settings.items() if name != "subject_kind"}


def _check_shared(config: TrainConfig) -> None:
    """Raises Problem for settings with which one step would take hours: on a server for others all would wait."""
    for name, most in SHARED_MOST.items():
        if getattr(config, name) > most:
            raise Problem(
                _(
                    "On this server {setting} may be {most} at most, got {got}.",
                    setting=name, most=most, got=getattr(config, name),
                )
            )  # fmt: skip
