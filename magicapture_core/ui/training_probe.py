"""Two steps of a training, made before the first one, to tell how long it takes on this machine."""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Callable, Generator
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from magicapture_core.config import TrainConfig
from magicapture_core.languages import N_
from magicapture_core.problems import Problem
from magicapture_core.ui.jobs import Job, Stream
from magicapture_core.ui.lent_gpu import lending
from magicapture_core.ui.measured_pace import SAMPLE, MeasuredPace
from magicapture_core.ui.server_models import ModelFacts
from magicapture_core.ui.session_jobs import Parts, SessionJobs
from magicapture_core.ui.stored_session import Session

if TYPE_CHECKING:
    from magicapture_core.training import StepReport

log = logging.getLogger(__name__)

PROBE = N_("measurement")
PATIENCE = 5.0
"""Seconds that it waits for drafts: beside them a step would seem slower than it is."""


class TrainingProbe(SessionJobs):
    """Measures a model's pace with a visitor's photos, once for each model. It gives way to every other job."""

    kind = PROBE

    def __init__(self, parts: Parts, pace: MeasuredPace, drafting: Callable[[Session], bool]) -> None:
        """drafting: whether drafts of a session are being made."""
        super().__init__(parts)
        self.pace, self._drafting = pace, drafting
        self._failed: set[str] = set()

    def wanted(self, session: Session, facts: ModelFacts, config: TrainConfig) -> bool:
        """Whether it is worth a measurement: nothing is known yet, and a step takes seconds at most."""
        complete = session.usable("subject") and session.usable("style")
        return (
            bool(complete) and facts.measurable and not lending() and not self.pace.knows(facts.name, config)
        )

    def start(self, key: str, facts: ModelFacts, config: TrainConfig) -> Job | None:
        """Begin to measure, if that is wanted and no try of this model has failed. Raises nothing."""
        session = self.sessions.find(key)
        if not self.wanted(session, facts, config) or facts.name in self._failed:
            return None
        if self.jobs.active(session.id) is not None or self.working(session):
            return None
        try:
            owner = f"{session.id} {PROBE}"  # the visitor may begin anything meanwhile
            return self.jobs.start(
                owner, PROBE, lambda job: self._stream(job, key, facts, config), gives_way=True
            )
        except Problem:  # the queue is full
            return None

    def working(self, session: Session) -> bool:
        """Whether a measurement for this visitor is under way."""
        job = self.jobs.newest(f"{session.id} {PROBE}", PROBE)
        return job is not None and job.active

    def forget(self, owner: str) -> None:
        """Stop measuring for a session that is deleted. owner: its id."""
        self.jobs.forget(f"{owner} {PROBE}", PATIENCE)

    def _stream(self, job: Job, key: str, facts: ModelFacts, config: TrainConfig) -> Stream:
        session, began = self.sessions.find(key), time.monotonic()
        while self._drafting(session) and time.monotonic() - began < PATIENCE and not job.stopping:
            time.sleep(0.2)
        if job.stopping or self.pace.knows(facts.name, config):
            return
        try:
            measured = yield from self._steps(job, session, facts, config)
        except Exception:
            if not job.stopping:  # one that gave way may be tried again
                self._failed.add(facts.name)
            raise
        if not job.stopping:
            self.pace.keep(facts.name, config.resolution, measured)

    def _steps(
        self, job: Job, session: Session, facts: ModelFacts, config: TrainConfig
    ) -> Generator[StepReport, None, dict[str, list[float]]]:
        """Make the steps; returns what MeasuredPace.keep takes."""
        from magicapture_core.training import train

        models = self.models.load(facts.name, job)
        subject, style = (
            self.masks.concept(session, role, config.resolution, models.framing)  # type: ignore[arg-type]
            for role in ("subject", "style")
        )
        analyser = self.photos.analyser()[0] if session.kind == "person" else None
        with TemporaryDirectory(prefix="magicapture-") as folder:
            reports = train(models, subject, style, _short(config), Path(folder) / "run", analyser=analyser)
            with closing(reports):
                return (yield from _measured(reports, config))


def _short(config: TrainConfig) -> TrainConfig:
    """Two steps of each phase that the training has, and a sample."""
    ti_steps, lora_steps = min(config.ti_steps, 2), min(config.lora_steps, 2)
    return dataclasses.replace(
        config, ti_steps=ti_steps, lora_steps=lora_steps, sample_every=ti_steps + lora_steps, attention_every=0,
        sample_pictures=1, checkpoint_every=100, prior_weight=0.0, stop_when_settled=0, keep_best=False,
    )  # fmt: skip


def _measured(
    reports: Generator[StepReport], config: TrainConfig
) -> Generator[StepReport, None, dict[str, list[float]]]:
    """What MeasuredPace.keep takes. The last step of each phase counts: the first one warms up."""
    seconds: dict[str, list[float]] = {}
    began = time.monotonic()
    for report in reports:
        seconds[report.phase] = [report.seconds / config.items_per_step]
        if report.sample is not None:
            seconds[SAMPLE] = [beside_a_step(report, began)]
        yield report
        began = time.monotonic()
    return seconds


def beside_a_step(report: StepReport, began: float) -> float:
    """Seconds that a report took without its step, since `began`, when the one before was given."""
    return max(0.0, time.monotonic() - began - report.seconds)
