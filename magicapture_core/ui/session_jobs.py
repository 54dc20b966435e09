"""How a session's jobs are started and found again. Every kind of job has a class of its own, based on these."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

from magicapture_core.ui.jobs import Job, Jobs, Stream
from magicapture_core.ui.lent_gpu import Task, Told, ask_in_the_name_of, lent, one_slice
from magicapture_core.ui.server_models import ServerModels
from magicapture_core.ui.session_masks import SessionMasks
from magicapture_core.ui.session_photos import SessionPhotos
from magicapture_core.ui.session_portraits import SessionPortraits
from magicapture_core.ui.sessions import Sessions
from magicapture_core.ui.stored_session import Session, StoredRun


@dataclass(frozen=True)
class Parts:
    """The parts of a server that jobs work with."""

    sessions: Sessions
    jobs: Jobs
    models: ServerModels
    photos: SessionPhotos
    masks: SessionMasks
    portraits: SessionPortraits


class SessionJobs:
    """One kind of job."""

    kind: ClassVar[str]
    """What visitors call it, marked by N_: “Your {kind} is still under way.”"""

    def __init__(self, parts: Parts) -> None:
        self.sessions, self.jobs, self.models = parts.sessions, parts.jobs, parts.models
        self.photos, self.masks, self.portraits = parts.photos, parts.masks, parts.portraits

    def newest(self, session: Session) -> Job | None:
        """The session's newest job of this kind, ended or not. Jobs are forgotten when the server ends."""
        return self.jobs.newest(session.id, self.kind)

    def _begin(self, key: str, run_id: str, stream: Callable[..., Stream], *values: Any) -> Job:
        """Queue `stream(job, key, *values)` as a job of this kind; the limits of time and number are those of Jobs.

        run_id: the training that the job makes, or works with. Raises Problem if the session has another job that
        has not ended, or if too many jobs wait.
        """
        return self.jobs.start(
            self.sessions.owner(key), self.kind, lambda job: stream(job, key, *values), about=run_id,
            after=lambda job: self._ended(job, key),
        )  # fmt: skip

    def _ended(self, job: Job, key: str) -> None:
        """What a kind of job does once one has ended."""


class SlicedJobs(SessionJobs):
    """A kind of job that a Space's lent GPU can do, too: in slices (lent_gpu.py). Elsewhere it is done in one go.

    `asked` is what the visitor asked for, as plain values: it goes to the lent process with every slice.
    """

    def __init__(self, parts: Parts) -> None:
        super().__init__(parts)
        self._server = os.getpid()
        self._lent: Task | None = lent(self._there)

    def _reports(self, job: Told, key: str, run: StoredRun, asked: Any) -> Stream:
        """What the work yields, wherever it is done."""
        work = self._in_one_go if self._lent is None else self._in_slices
        return work(job, key, run, asked)

    def _one_loan(self, key: str, run: StoredRun, asked: Any, seconds: int) -> Iterator[Any]:
        """Have the lent process do one slice, of so many seconds at most: what `_slice` yields there."""
        assert self._lent is not None
        ask_in_the_name_of(self.sessions.owner(key))
        flag = self.sessions.find(key).folder / "stop"
        standing = self.models.stands(run.model)
        return one_slice(self._lent, flag, seconds, key, run.id, asked, standing=standing)

    def _there(self, *values: Any) -> Iterator[Any]:
        """`_slice` in the lent process: a copy of the server without its other threads, which may have held locks."""
        if os.getpid() != self._server:
            for part in (self.sessions, self.models, self.photos):
                part.begin_anew()
        yield from self._slice(*values)

    def _run(self, key: str, run_id: str) -> StoredRun:
        """The session's run. The lent process is told only its id."""
        return next(run for run in self.sessions.find(key).runs if run.id == run_id)

    def _in_one_go(self, job: Told, key: str, run: StoredRun, asked: Any) -> Stream:
        """All of the work, in this process."""
        raise NotImplementedError

    def _in_slices(self, job: Told, key: str, run: StoredRun, asked: Any) -> Stream:
        """All of the work, one loan of the GPU after the other."""
        raise NotImplementedError

    def _slice(self, flag: str, seconds: int, key: str, run_id: str, asked: Any) -> Iterator[Any]:
        """The work of one loan, in the lent process. flag: the file that tells it to stop; seconds: of the loan."""
        raise NotImplementedError
