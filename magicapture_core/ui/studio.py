"""Everything a visitor can do, in one place for the page and the named endpoints."""

from __future__ import annotations

import logging
import threading
from pathlib import Path

from magicapture_core.ui.comparison_jobs import ComparisonJobs
from magicapture_core.ui.drafting import Drafter
from magicapture_core.ui.finishing_jobs import FinishingJobs
from magicapture_core.ui.jobs import Jobs
from magicapture_core.ui.lent_gpu import remember_visitor
from magicapture_core.ui.limits import Limits
from magicapture_core.ui.portrait_jobs import PortraitJobs
from magicapture_core.ui.portrait_sheets import PortraitSheets
from magicapture_core.ui.server_models import ModelFacts, ServerModels
from magicapture_core.ui.session_jobs import Parts
from magicapture_core.ui.session_masks import SessionMasks
from magicapture_core.ui.session_photos import SessionPhotos
from magicapture_core.ui.session_portraits import SessionPortraits
from magicapture_core.ui.session_runs import SessionRuns
from magicapture_core.ui.sessions import Sessions
from magicapture_core.ui.stored_session import Session
from magicapture_core.ui.training_jobs import TrainingJobs

log = logging.getLogger(__name__)

SWEEP_SECONDS = 60.0
DELETE_PATIENCE = 10.0
"""Seconds that a visitor waits for a training to stop. If it takes longer, its files are removed later."""


class Studio:
    """One server's sessions, jobs and models."""

    def __init__(
        self,
        runs: Path,
        *,
        model: str | None = None,
        any_model: bool = True,
        keep_days: float = 7.0,
        limits: Limits | None = None,
    ) -> None:
        limits = limits or Limits()
        self.sessions = Sessions(runs, keep_days, limits)
        self.jobs = Jobs(longest=60 * limits.minutes, most=limits.waiting)
        self._closing = threading.Event()
        self.models = ServerModels(model, any_model=any_model)
        self.photos = SessionPhotos(self.sessions, self.facts)
        self.masks = SessionMasks(self.sessions, self.photos)
        self.portraits = SessionPortraits(self.sessions)
        self.sheets = PortraitSheets(self.sessions, self.portraits)
        self.runs = SessionRuns(self.sessions, self.jobs, self.models)
        parts = Parts(self.sessions, self.jobs, self.models, self.photos, self.masks, self.portraits)
        self.drafts = Drafter(parts)
        self.training_jobs = TrainingJobs(parts, self.drafts.working)
        self.portrait_jobs = PortraitJobs(parts)
        self.comparison_jobs = ComparisonJobs(parts)
        self.finishing_jobs = FinishingJobs(parts)

    def sweep_now_and_then(self) -> None:
        """From now on, remove what is too old, in the background, once a minute."""

        def sweep() -> None:
            while not self._closing.wait(SWEEP_SECONDS):
                try:
                    for owner in self.sessions.sweep():
                        self._forget(owner)
                        self.photos.looks.forget(owner)
                except OSError:
                    log.exception("could not remove old files")

        threading.Thread(target=sweep, name="sweep", daemon=True).start()

    def facts(self, session: Session) -> ModelFacts:
        """Facts of the model that the session uses."""
        return self.models.facts(self.models.of(session))

    def choose_model(self, key: str, name: str | None) -> Session:
        """Use another model from now on."""
        checked = self.models.checked(name)
        with self.sessions.changing(key) as session:
            changed = self.models.facts(checked).resolution != self.facts(session).resolution
            session.model = checked
            if changed:
                for role in ("subject", "style"):
                    self.photos.judge(session, role)  # type: ignore[arg-type]
        return session

    def visited(self, key: str) -> None:
        """A visitor looks at their page, or asks: what works for them is asked for in the name that they have now."""
        owner = self.sessions.owner(key)
        remember_visitor(owner, self.jobs.active(owner) is not None)

    def busy(self, session: Session) -> bool:
        """Whether anything of the session is under way that a page shows."""
        return (
            self.jobs.active(session.id) is not None
            or self.drafts.working(session)
            or self.training_jobs.probe.working(session)
            or bool(self.training_jobs.coming(session))
        )

    def stale(self, session: Session) -> bool:
        """Whether what is learned from was changed since the chosen run began."""
        run = session.chosen_run()
        return run is not None and run.fingerprint != session.fingerprint(run.look)

    def delete(self, key: str) -> None:
        """Stop whatever the session has under way and remove everything of it."""
        owner = self.sessions.check(key)
        job = self.jobs.active(owner)
        ended = self._forget(owner)
        self.sessions.delete(key)
        self.photos.looks.forget(owner)
        if not ended and job is not None:
            # A step takes long on a slow machine; what it still writes is removed as soon as it ends.
            def remove_later() -> None:
                job.wait()
                self.sessions.delete(key)

            threading.Thread(target=remove_later, name="delete", daemon=True).start()

    def _forget(self, owner: str) -> bool:
        """Stop what works for a session and forget the jobs. Returns whether everything ended in time."""
        self.drafts.forget(owner)
        self.training_jobs.probe.forget(owner)
        remember_visitor(owner, False)
        return self.jobs.forget(owner, DELETE_PATIENCE)

    def close(self, timeout: float = 60.0) -> None:
        """Stop every job, so that each saves where it stands."""
        self._closing.set()
        self.drafts.close()
        if not self.jobs.close(timeout):
            log.warning("a job did not stop within %.0f s; it goes on from its last checkpoint", timeout)


def facts_of(session: Session) -> dict[str, int]:
    """What is stored of a session, in numbers."""
    return {
        "photos": sum(map(len, session.photos.values())),
        "trainings": len(session.runs),
        "portraits": len(session.portraits),
    }
