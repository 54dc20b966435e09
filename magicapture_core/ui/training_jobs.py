"""What can be done with a session's trainings."""

from __future__ import annotations

import json
import logging
import secrets
import shutil
import threading
import time
from collections.abc import Mapping
from contextlib import closing
from typing import TYPE_CHECKING, Any

from magicapture_core.config import TrainConfig, from_dict, to_dict
from magicapture_core.files import atomic_file
from magicapture_core.problems import OutOfMemory, Problem
from magicapture_core.ui.jobs import Job, Jobs, Stream
from magicapture_core.ui.lent_gpu import Loan, Told, lent, one_slice
from magicapture_core.ui.portrait_jobs import drop_portrait, forget_archive, forget_pictures
from magicapture_core.ui.run_pictures import shown_pictures
from magicapture_core.ui.server_models import ServerModels
from magicapture_core.ui.session_photos import SessionPhotos
from magicapture_core.ui.sessions import Session, Sessions, StoredRun

if TYPE_CHECKING:
    from magicapture_core.training import StepReport

log = logging.getLogger(__name__)

TRAINING = "training"
FEWEST, ENOUGH = 1, 4
SHARED_MOST = {
    "batch_size": 16, "gradient_accumulation": 32, "resolution": 1024, "prior_pictures": 400, "sample_steps": 100,
    "keep_checkpoints": 5,
}  # fmt: skip
"""The highest settings on a server for others."""
ROOM_EVERY = 20
"""Steps after which a training looks at how much disk its session takes."""


class TrainingJobs:
    """Start, stop, resume, look."""

    def __init__(self, sessions: Sessions, jobs: Jobs, models: ServerModels, photos: SessionPhotos) -> None:
        self.sessions, self.jobs, self.models, self.photos = sessions, jobs, models, photos
        self._pace_lock = threading.Lock()
        self._lent = lent(self._slice)

    def missing(self, session: Session) -> str | None:
        """What must be done before training can start, or None."""
        for role, step in (("subject", "Photos"), ("style", "Style")):
            if not session.usable(role):  # type: ignore[arg-type]
                return f"There are no usable {role} photos yet. Go back to the step “{step}” and add some."
        return None

    def start(self, key: str, model: str | None, schedule: str, own: Mapping[str, Any]) -> StoredRun:
        """Begin a new training. Raises Problem if something is missing or one is under way."""
        with self.sessions.changing(key) as session:
            self._refuse_if_busy(session)
            lacking = self.missing(session)
            if lacking:
                raise Problem(lacking)
            name = self.models.checked(model)
            config = self.models.facts(name).config(
                schedule,
                session.preset,
                {"subject_words": session.words, **own, "subject_kind": session.kind},
            )
            if not self.models.any_model:
                _check_shared(config)
            self.sessions.check_room(session)
            self._check_disk(session)
            run = StoredRun(
                id=f"magicapture-{secrets.token_hex(3)}",  # names the exported files, too
                title=f"Training {len(session.runs) + 1}",
                model=name,
                fingerprint=session.fingerprint(),
                schedule=schedule,
                settings=to_dict(config),
                started=time.time(),
                preset=session.preset,
                total=config.ti_steps + config.lora_steps,
            )
            before, session.run = session.run, run.id
            session.runs.append(run)
            session.model = name
        try:
            self._launch(key, run, resume=False)
        except Problem:  # the queue is full: as if it had not been asked for
            with self.sessions.changing(key) as session:
                session.runs = [each for each in session.runs if each.id != run.id]
                session.run = before
            raise
        return run

    def resume(self, key: str, run_id: str | None = None) -> StoredRun:
        """Go on with a training that was paused or cut off."""
        session = self.sessions.find(key)
        run = next((run for run in session.runs if run.id == (run_id or session.run)), None)
        if run is None:
            raise Problem("There is no training to go on with. Start one.")
        if session.fingerprint() != run.fingerprint:
            raise Problem(
                "Photos, masks or style were changed since this training began, so it cannot go on. "
                "Start a new training."
            )
        smaller = self.smaller(session)
        if smaller:
            with self.sessions.changing(key) as session:
                run = next(each for each in session.runs if each.id == run.id)
                run.settings |= smaller
        self.sessions.check_room(session)
        begun = (session.run_folder(run) / "config.json").exists()
        self._launch(key, run, resume=begun)
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
        """The run that the page is about: the one that is learned now, else the chosen one."""
        job = self.job(session)
        return next((run for run in session.runs if job and run.id == job.about), session.chosen_run())

    def job(self, session: Session) -> Job | None:
        """The newest training job of this server's life, if it still works or made the chosen run."""
        job = self.jobs.newest(session.id, TRAINING)
        return job if job is not None and (job.active or job.about == session.run) else None

    def discard(self, key: str, run_id: str) -> Session:
        """Delete a past training and its portraits."""
        with self.sessions.changing(key) as session:
            self._refuse_if_busy(session)
            for run in [run for run in session.runs if run.id == run_id]:
                forget_pictures(shown_pictures(session, session.run_folder(run)))
                shutil.rmtree(session.run_folder(run), ignore_errors=True)
                session.runs.remove(run)
                forget_pictures([row["picture"] for row in (run.choice or {}).get("rows", ())])
            for portrait in [portrait for portrait in session.portraits if portrait.run == run_id]:
                drop_portrait(session, portrait)
            if session.archive_run == run_id:
                forget_archive(session)
            if session.run == run_id:
                session.run = session.runs[-1].id if session.runs else None
        return session

    def losses(self, session: Session, run: StoredRun) -> list[dict[str, Any]]:
        """What a run has logged so far, a row per step."""
        from magicapture_core.checkpoints import Run

        return Run(session.run_folder(run)).losses()

    def saved_step(self, session: Session, run: StoredRun) -> int:
        """The step of a run's newest checkpoint; 0 if it has none. True even if the server was killed."""
        found = [path.name.rpartition("-")[2] for path in session.run_folder(run).glob("checkpoint-*")]
        return max((int(step) for step in found if step.isdigit()), default=0)

    def pace(self, model: str, config: TrainConfig) -> float | None:
        """Seconds that such a training takes here, from what was measured before; None if nothing was."""
        measured = self._paces().get(f"{model} {config.resolution}")
        if measured is None:
            return None
        items = config.items_per_step
        seconds = config.ti_steps * measured.get("textual_inversion", 0) + config.lora_steps * measured.get(
            "lora", 0
        )
        return float(seconds * items) if seconds else None

    def _refuse_if_busy(self, session: Session) -> None:
        busy = self.jobs.active(session.id)
        if busy is not None:
            raise Problem(f"Your {busy.kind} is still under way. Wait for it, or stop it first.")

    def _check_disk(self, session: Session) -> None:
        free = shutil.disk_usage(session.folder).free
        if free < 500e6:
            raise Problem(
                f"The server's disk is almost full ({free / 1e6:.0f} MB free, 500 MB needed). "
                "Delete past trainings below, or ask whoever runs this server to make room."
            )

    def _launch(self, key: str, run: StoredRun, *, resume: bool) -> None:
        owner = self.sessions.owner(key)

        def stream(job: Job) -> Stream:
            return self._stream(job, key, run, resume)

        self.jobs.start(owner, TRAINING, stream, about=run.id)

    def _stream(self, job: Job, key: str, run: StoredRun, resume: bool) -> Stream:
        work = self._learn if self._lent is None else self._in_slices
        items = from_dict(TrainConfig, run.settings).items_per_step
        last: StepReport | None = None
        paces: dict[str, list[float]] = {}
        reports = work(job, key, run, resume)
        try:
            for report in reports:
                last = report
                paces.setdefault(report.phase, []).append(report.seconds / items)
                job.say("")
                yield report
                if report.step % ROOM_EVERY == 0:
                    self.sessions.check_room(self.sessions.find(key))
        finally:
            reports.close()
            if last is not None:
                self._note(key, run, last.step)
                self._remember(run.model, run.settings["resolution"], paces)

    def _learn(self, job: Told, key: str, run: StoredRun, resume: bool) -> Stream:
        from magicapture_core.training import train

        session = self.sessions.find(key)
        config = from_dict(TrainConfig, run.settings)
        models = self.models.load(run.model, job)
        job.say("Preparing the photos")
        concepts = {
            role: self.photos.concept(session, role, config.resolution, models.framing)  # type: ignore[arg-type]
            for role in ("subject", "style")
        }
        if job.stopping:
            return
        job.say("Looking at the photos again" if resume else "Looking at the photos for the first time")
        analyser = self.photos.analyser()[0] if session.kind == "person" else None
        yield from train(
            models, concepts["subject"], concepts["style"], config, session.run_folder(run),
            analyser=analyser, resume=resume,
        )  # fmt: skip

    def _in_slices(self, job: Told, key: str, run: StoredRun, resume: bool) -> Stream:
        """As `_learn`, but one loan of the GPU after the other; each goes on where the one before saved."""
        assert self._lent is not None
        self.models.fetch(run.model, job)
        flag = self.sessions.find(key).folder / "stop"
        while True:
            job.say("Waiting for the Space's GPU")
            last: StepReport | None = None
            for report in one_slice(self._lent, flag, key, run.id, resume):
                last = report
                yield report
            if last is None or last.step >= last.total_steps:
                return
            resume = True

    def _slice(self, flag: str, key: str, run_id: str, resume: bool) -> Stream:
        """Learn until the loan ends. In the lent process."""
        loan = Loan(flag)
        run = next(run for run in self.sessions.find(key).runs if run.id == run_id)
        with closing(self._learn(loan, key, run, resume)) as reports:
            for report in reports:
                yield report
                if loan.stopping or loan.over:
                    return

    def _note(self, key: str, run: StoredRun, step: int) -> None:
        try:
            with self.sessions.changing(key) as session:
                for stored in session.runs:
                    if stored.id == run.id:
                        stored.step = step
                        if (session.run_folder(run) / "adapter" / "subject.safetensors").is_file():
                            session.run = (
                                run.id
                            )  # portraits of an older one may have been looked at meanwhile
        except Problem:
            log.info("session %s was deleted during its training", self.sessions.owner(key))

    def _remember(self, model: str, resolution: int, paces: Mapping[str, list[float]]) -> None:
        """Keep how long a step takes per item on this machine, for estimates; says nothing about anybody."""
        with self._pace_lock:
            everything = self._paces()
            entry = everything.setdefault(f"{model} {resolution}", {})
            for phase, seconds in paces.items():
                entry[phase] = sorted(seconds)[len(seconds) // 2]
            with atomic_file(self.sessions.root / "pace.json") as path:
                path.write_text(json.dumps(everything), encoding="utf-8")

    def _paces(self) -> dict[str, dict[str, float]]:
        try:
            values: dict[str, dict[str, float]] = json.loads(
                (self.sessions.root / "pace.json").read_text(encoding="utf-8")
            )
        except (OSError, ValueError):
            return {}
        return values


def _check_shared(config: TrainConfig) -> None:
    """On a server for others: nothing that would hold the one queue for hours within a single step."""
    for name, most in SHARED_MOST.items():
        if getattr(config, name) > most:
            raise Problem(f"On this server {name} may be {most} at most, got {getattr(config, name)}.")


def status(session: Session, job: Job | None) -> dict[str, Any]:
    """How a session's training stands, as plain values."""
    run = session.chosen_run()
    values: dict[str, Any] = {"state": "none", "run": run.id if run else None}
    if job is None:
        return {**values, "state": "saved" if run else "none", "step": run.step if run else 0}
    snapshot = job.snapshot()
    values |= {
        "state": snapshot.state, "ahead_in_queue": snapshot.ahead, "doing": snapshot.stage,
        "problem": snapshot.problem, "cut_off": snapshot.cut_off,
    }  # fmt: skip
    if snapshot.reports:
        report = snapshot.reports[-1]
        values |= {
            "phase": report.phase, "step": report.step, "total_steps": report.total_steps,
            "losses": report.losses, "seconds_left": report.seconds_left,
        }  # fmt: skip
    return values
