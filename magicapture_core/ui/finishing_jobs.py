"""What can be done with one portrait of a session: finish it, and make a passport-style sheet of it."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from magicapture_core.config import PostprocessConfig, from_dict
from magicapture_core.formats import paper as known_paper
from magicapture_core.formats import photo_spec
from magicapture_core.problems import Problem
from magicapture_core.ui.jobs import Job, Jobs, Stream
from magicapture_core.ui.portrait_jobs import FINISHED_FILES, forget_pictures
from magicapture_core.ui.server_models import ServerModels
from magicapture_core.ui.session_photos import SessionPhotos
from magicapture_core.ui.sessions import Session, Sessions, StoredPortrait

if TYPE_CHECKING:
    from magicapture_core.faces import FaceAnalyser

FINISHING = "finishing"
UPSCALES = (1, 2, 4)


class FinishingJobs:
    """Super-resolution, face restoration and sheets, of the session's own portraits only."""

    def __init__(self, sessions: Sessions, jobs: Jobs, models: ServerModels, photos: SessionPhotos) -> None:
        self.sessions, self.jobs, self.models, self.photos = sessions, jobs, models, photos

    def portrait(self, session: Session, portrait_id: str | None) -> StoredPortrait:
        """The session's portrait of that id. Problem if it has none."""
        found = next((portrait for portrait in session.portraits if portrait.id == portrait_id), None)
        if found is None:
            raise Problem("Choose one of your portraits first.")
        return found

    def job(self, session: Session) -> Job | None:
        """The newest finishing of this server's life."""
        return self.jobs.newest(session.id, FINISHING)

    def start(self, key: str, portrait_id: str | None, values: dict[str, Any]) -> Job:
        """Begin to finish a portrait. values: PostprocessConfig's, as a form gives them."""
        session = self.sessions.find(key)
        busy = self.jobs.active(session.id)
        if busy is not None:
            raise Problem(f"Your {busy.kind} is still under way. Wait for it, or stop it first.")
        self.sessions.check_room(session)
        portrait = self.portrait(session, portrait_id)
        config = from_dict(PostprocessConfig, values)
        if config.upscale not in UPSCALES:
            raise Problem(f"The size must be ×1, ×2 or ×4, got {config.upscale!r}.")
        self._check_weights(config)
        return self.jobs.start(session.id, FINISHING, lambda job: self._stream(job, key, portrait, config))

    def restorers(self) -> dict[str, str]:
        """What can restore a face, with the size of what must be downloaded first; empty: it is here.

        On a server for others no visitor starts a download of hundreds of megabytes.
        """
        from magicapture_core.postprocess.networks import RESTORER_WEIGHTS
        from magicapture_core.weights import find_weight, weight

        found = {}
        for name, file in RESTORER_WEIGHTS.items():
            here = find_weight(file) is not None
            if here or self.models.any_model:
                found[name] = "" if here else weight(file).readable_size
        return found

    def _check_weights(self, config: PostprocessConfig) -> None:
        """Raises Problem for a restoration that visitors cannot have here."""
        from magicapture_core.postprocess.networks import RESTORER_WEIGHTS
        from magicapture_core.weights import weight

        if config.restore in RESTORER_WEIGHTS and config.restore not in self.restorers():
            file = weight(RESTORER_WEIGHTS[config.restore]).filename
            raise Problem(f"This server does not have {file}. Choose another restoration, or none.")

    def _stream(self, job: Job, key: str, portrait: StoredPortrait, config: PostprocessConfig) -> Stream:
        from magicapture_core.photos import read_photo
        from magicapture_core.postprocess import finish

        pixels = read_photo(portrait.picture).pixels
        analyser = self.photos.analyser()[0]

        def progress(what: str, share: float) -> None:
            job.say(f"{what}: {100 * share:.0f} %")
            if job.stopping:
                raise _StoppedError

        job.say("Preparing")
        try:
            done = finish(
                pixels,
                config,
                analyser=analyser,
                identity=self._identity(self.sessions.find(key), portrait, analyser),
                progress=progress,
            )
        except _StoppedError:
            return
        yield self._keep(key, portrait, pixels, done)

    def _identity(
        self, session: Session, portrait: StoredPortrait, analyser: FaceAnalyser
    ) -> np.ndarray | None:
        """The person the portrait shows, where the run knows them as `analyser` does."""
        from magicapture_core.checkpoints import Run

        run = next((run for run in session.runs if run.id == portrait.run), None)
        try:
            stored = Run.open(session.run_folder(run)).identity() if run else None
        except Problem:
            return None  # a run that is gone takes nothing from its portraits
        if stored is None or stored[1] != analyser.embedder().name:
            return None
        identity: np.ndarray = stored[0].numpy()
        return identity

    def _keep(self, key: str, portrait: StoredPortrait, before: np.ndarray, done: Any) -> dict[str, Any]:
        from magicapture_core.postprocess.tiling import resize
        from magicapture_core.provenance import save_picture

        height, width = done.pixels.shape[:2]
        with self.sessions.changing(key) as session:
            file, shown, plain = (session.new_shown(suffix) for suffix in (".png", ".webp", ".webp"))
            save_picture(
                Image.fromarray(done.pixels), file, prompt=portrait.prompt, seed=portrait.seed,
                settings={**portrait.settings, **done.settings},
            )  # fmt: skip
            Image.fromarray(done.pixels).save(shown, quality=90)
            Image.fromarray(resize(before, (width, height))).save(plain, quality=90)
            stored = {
                "file": str(file), "after": str(shown), "before": str(plain), "size": [width, height],
                "faces": [dataclasses.asdict(face) for face in done.faces], "notes": done.notes,
            }  # fmt: skip
            before_it = session.finished.pop(portrait.id, {})
            forget_pictures(before_it[name] for name in FINISHED_FILES if name in before_it)
            session.finished[portrait.id] = stored
        return stored

    def sheet(
        self, key: str, portrait_id: str | None, spec: str, paper: str, *, replace: bool, force: bool
    ) -> dict[str, Any]:
        """A passport-style photo of the portrait as it stands, finished or not, checked and on a sheet.

        Returns {"photo": shown picture, "checks": [Check], "files": [sheet paths], "passed": bool}; no files where
        checks failed and `force` is not set.
        """
        from magicapture_core.formats.passport import make_passport_photo
        from magicapture_core.formats.sheet import write_sheet
        from magicapture_core.photos import read_photo

        session = self.sessions.find(key)
        self.sessions.check_room(session)
        portrait = self.portrait(session, portrait_id)
        finished = session.finished.get(portrait.id)
        source = finished["file"] if finished else portrait.picture
        photo = make_passport_photo(read_photo(source).pixels, photo_spec(spec), replace=replace)
        shown = session.new_shown(".webp")
        Image.fromarray(photo.pixels).save(shown, quality=90)
        files = []
        if photo.passed or force:
            for suffix in (".pdf", ".png"):
                files.append(session.new_shown(suffix))
                write_sheet(
                    photo, known_paper(paper), files[-1], prompt=portrait.prompt, seed=portrait.seed,
                    settings=portrait.settings,
                )  # fmt: skip
        return {"photo": shown, "checks": photo.checks, "files": files, "passed": photo.passed}


class _StoppedError(Exception):
    """The visitor asked to stop."""
