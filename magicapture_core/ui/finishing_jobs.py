"""Finishing of a session's portraits as jobs: larger, sharper, the face restored."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from magicapture_core.config import PostprocessConfig, from_dict
from magicapture_core.languages import N_, _
from magicapture_core.problems import Problem
from magicapture_core.progress import StoppedError, share
from magicapture_core.ui.jobs import Job, Stream
from magicapture_core.ui.session_jobs import SessionJobs
from magicapture_core.ui.session_portraits import FINISHED_FILES, forget_pictures
from magicapture_core.ui.stored_session import Session, StoredPortrait

if TYPE_CHECKING:
    from magicapture_core.faces import FaceAnalyser

FINISHING = N_("finishing")
UPSCALES = (1, 2, 4)


class FinishingJobs(SessionJobs):
    """Super-resolution and face restoration, of the session's own portraits only."""

    kind = FINISHING

    def start(
        self, key: str, portrait_id: str | None, values: dict[str, Any], others: Sequence[str] = ()
    ) -> Job:
        """Begin to finish a portrait, and others after it. values: PostprocessConfig's, as a form gives them."""
        session = self.sessions.find(key)
        self.jobs.refuse_if_busy(session.id)
        self.sessions.check_room(session)
        portraits = [self.portraits.of(session, each) for each in (portrait_id, *others)]
        config = from_dict(PostprocessConfig, values)
        if config.upscale not in UPSCALES:
            raise Problem(_("The size must be ×1, ×2 or ×4, got {got}.", got=repr(config.upscale)))
        self._check_weights(config)
        return self._begin(key, portraits[0].run, self._stream, portraits, config)

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
            raise Problem(
                _("This server does not have {file}. Choose another restoration, or none.", file=file)
            )

    def _stream(
        self, job: Job, key: str, portraits: Sequence[StoredPortrait], config: PostprocessConfig
    ) -> Stream:
        for number, portrait in enumerate(portraits, 1):
            here = {each.id for each in self.sessions.find(key).portraits}
            if portrait.id in here:  # it may have been deleted while those before it were finished
                yield from self._one(job, key, portrait, config, (number, len(portraits)))

    def _one(
        self, job: Job, key: str, portrait: StoredPortrait, config: PostprocessConfig, which: tuple[int, int]
    ) -> Stream:
        """which: the number of the portrait, and of how many."""
        from magicapture_core.photos import read_photo
        from magicapture_core.postprocess import finish

        pixels = read_photo(portrait.picture).pixels
        analyser = self.photos.analyser()[0]

        def progress(what: str, now: float, total: float | None) -> None:
            job.say(_stage(which, what), share(now, total))
            if job.stopping:
                raise StoppedError

        job.say(_stage(which, _("Preparing")))
        done = finish(
            pixels,
            config,
            analyser=analyser,
            identity=self._identity(self.sessions.find(key), portrait, analyser),
            progress=progress,
        )
        kept = self._keep(key, portrait, pixels, done)
        if kept is not None:
            yield kept

    def _identity(
        self, session: Session, portrait: StoredPortrait, analyser: FaceAnalyser
    ) -> np.ndarray | None:
        """The person's embedding, if the portrait's run stored one by the same face recognition; else None."""
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

    def _keep(
        self, key: str, portrait: StoredPortrait, before: np.ndarray, done: Any
    ) -> dict[str, Any] | None:
        """Store what finishing made of a portrait; nothing, and None, where it was deleted meanwhile."""
        from magicapture_core.postprocess.tiling import resize
        from magicapture_core.provenance import save_picture

        height, width = done.pixels.shape[:2]
        with self.sessions.changing(key) as session:
            if portrait.id not in {each.id for each in session.portraits}:
                return None
            file, shown, plain = (session.new_shown(suffix) for suffix in (".png", ".jpg", ".jpg"))
            finished = {**portrait.settings, **done.settings}
            # All with the mark: a browser saves what it shows, too.
            for pixels, path, settings in (
                (done.pixels, file, finished),
                (done.pixels, shown, finished),
                (resize(before, (width, height)), plain, portrait.settings),
            ):
                save_picture(
                    Image.fromarray(pixels), path, prompt=portrait.prompt, seed=portrait.seed,
                    settings=settings,
                )  # fmt: skip
            stored = {
                "file": str(file), "after": str(shown), "before": str(plain), "size": [width, height],
                "faces": [dataclasses.asdict(face) for face in done.faces], "notes": done.notes,
            }  # fmt: skip
            before_it = session.finished.pop(portrait.id, {})
            forget_pictures(before_it[name] for name in FINISHED_FILES if name in before_it)
            session.finished[portrait.id] = stored
        return stored


def _stage(which: tuple[int, int], what: str) -> str:
    """What is done of which portrait, where there are several."""
    number, count = which
    return what if count == 1 else _("{number} of {count}: {what}", number=number, count=count, what=what)
