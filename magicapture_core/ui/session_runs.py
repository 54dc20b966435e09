"""A session's trained runs: choose one, what it saved, export it, delete it."""

from __future__ import annotations

import secrets
import shutil
from pathlib import Path
from typing import Any

from magicapture_core.adapters.files import FOLDER, has_embeddings
from magicapture_core.checkpoints import Run
from magicapture_core.config import GenerateConfig
from magicapture_core.languages import N_, _
from magicapture_core.problems import Problem
from magicapture_core.ui.jobs import Jobs
from magicapture_core.ui.run_pictures import shown_pictures
from magicapture_core.ui.server_models import ServerModels
from magicapture_core.ui.session_portraits import (
    best_first,
    drop_portrait,
    forget_archive,
    forget_pictures,
    of_run,
)
from magicapture_core.ui.sessions import Sessions
from magicapture_core.ui.stored_session import Session, StoredRun

SUITING = ("steps", "guidance_scale", "adapter_scale", "adapter_start")
"""Settings whose best value depends on the model and the run."""
GONE = N_("This training is no longer here. Choose another one.")


class SessionRuns:
    """What can be done with trained runs."""

    def __init__(self, sessions: Sessions, jobs: Jobs, models: ServerModels) -> None:
        self.sessions, self.jobs, self.models = sessions, jobs, models

    def choose(self, key: str, run_id: str) -> Session:
        """Use another past run."""
        with self.sessions.changing(key) as session:
            if not any(run.id == run_id for run in session.runs):
                raise Problem(_(GONE))
            session.run, session.trained = run_id, None
            session.looked_at = not_ready(session, session.chosen_run()) is None
        return session

    def take_ready(self, key: str) -> Session:
        """Somebody goes to the portraits: where the chosen run has saved nothing, choose the newest one that has."""
        with self.sessions.changing(key) as session:
            ready = [run for run in session.runs if not_ready(session, run) is None]
            if ready and session.chosen_run() not in ready:
                session.run = ready[-1].id
            session.looked_at = session.chosen_run() in ready
        return session

    def leave_portraits(self, key: str) -> Session:
        """Somebody goes to the trainings: choose the one that began, or ended, while they looked at portraits."""
        with self.sessions.changing(key) as session:
            if any(run.id == session.trained for run in session.runs):
                session.run = session.trained
            session.looked_at, session.trained = False, None
        return session

    def suiting(self, model: str, run: StoredRun | None) -> dict[str, Any]:
        """steps, guidance_scale and adapter_scale as they suit a model and what was chosen for a run."""
        default = GenerateConfig()
        suits: dict[str, Any] = {name: getattr(default, name) for name in SUITING}
        suits |= {name: value for name, value in self.models.facts(model).generate.items() if name in SUITING}
        if run is not None and run.adapter_scale is not None:
            suits["adapter_scale"] = run.adapter_scale
        return suits

    def discard(self, key: str, run_id: str) -> Session:
        """Delete a past training and its portraits."""
        with self.sessions.changing(key) as session:
            self.jobs.refuse_if_busy(session.id)
            for run in [run for run in session.runs if run.id == run_id]:
                forget_pictures(shown_pictures(session, session.run_folder(run)))
                shutil.rmtree(session.run_folder(run), ignore_errors=True)
                session.runs.remove(run)
                for folder in run.exported.values():
                    shutil.rmtree(folder, ignore_errors=True)
                forget_pictures([row["picture"] for row in (run.choice or {}).get("rows", ())])
            # What was deleted a moment ago goes with it; of other trainings it can still be brought back.
            session.portraits += [portrait for portrait in session.removed if portrait.run == run_id]
            session.removed = [portrait for portrait in session.removed if portrait.run != run_id]
            for portrait in [portrait for portrait in session.portraits if portrait.run == run_id]:
                drop_portrait(session, portrait)
            if session.archive_run == run_id:
                forget_archive(session)
            if session.run == run_id:
                session.run = session.runs[-1].id if session.runs else None
                session.looked_at = False
        return session

    def losses(self, session: Session, run: StoredRun) -> list[dict[str, Any]]:
        """What a run has logged so far, a row per step."""
        return Run(session.run_folder(run)).losses()

    def saved_step(self, session: Session, run: StoredRun) -> int:
        """The step of a run's newest checkpoint; 0 if it has none. It is right even if the server was killed."""
        found = [path.name.rpartition("-")[2] for path in session.run_folder(run).glob("checkpoint-*")]
        return max((int(step) for step in found if step.isdigit()), default=0)

    def export(self, key: str, format: str) -> list[Path]:
        """The chosen run's adapter for other programs, as files that can be downloaded."""
        from magicapture_core.export import export_run

        if format not in ("diffusers", "kohya"):
            raise Problem(_('The format must be "diffusers" or "kohya", got {got!r}.', got=format))
        session = self.sessions.find(key)
        run = session.chosen_run()
        lacking = not_ready(session, run)
        if lacking or run is None:
            raise Problem(lacking or "")
        self.sessions.check_room(session)
        session.shown.mkdir(parents=True, exist_ok=True)
        folder = session.shown / secrets.token_hex(12)
        try:
            files = export_run(
                session.run_folder(run), format, folder / f"magicapture-{format}",  # type: ignore[arg-type]
                adapter_scale=run.adapter_scale,
            )  # fmt: skip
            self._note_export(key, run.id, format, folder)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        return files

    def _note_export(self, key: str, run_id: str, format: str, folder: Path) -> None:
        """The newest files of a format replace those before, and go with their run."""
        with self.sessions.changing(key) as session:
            run = next((run for run in session.runs if run.id == run_id), None)
            if run is None:  # deleted meanwhile
                raise Problem(_(GONE))
            if format in run.exported:
                shutil.rmtree(run.exported[format], ignore_errors=True)
            run.exported[format] = str(folder)

    def keep(self, key: str, repository: str, token: str, *, consent: bool) -> str:
        """Upload the chosen run's adapter and its best portraits to the hub (see sharing.upload_run). Its address."""
        from magicapture_core.sharing import MOST_PORTRAITS, upload_run

        session = self.sessions.find(key)
        run = session.chosen_run()
        lacking = not_ready(session, run)
        if lacking or run is None:
            raise Problem(lacking or "")
        if not token:  # else the hub's library would take that of whoever runs this server
            raise Problem(_("Give an access token that may write: huggingface.co, Settings, Access Tokens."))
        portraits = [Path(portrait.picture) for portrait in best_first(of_run(session, run))[:MOST_PORTRAITS]]
        return upload_run(
            session.run_folder(run), repository, consent=consent, portraits=portraits, token=token
        )


def not_ready(session: Session, run: StoredRun | None) -> str | None:
    """What is missing before portraits can be made with a run, or None."""
    if run is None:
        return _("There is no trained run yet. Go back to the step “Learn”.")
    if not has_embeddings(session.run_folder(run) / FOLDER):
        return _(
            "This training has saved nothing yet. Go back to the step “Learn” and let it run for a while."
        )
    return None
