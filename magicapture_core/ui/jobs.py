"""Jobs: long work in a thread, one at a time on each device. Each has an owner and gives a stream of reports.

A browser event must not run for hours: a reload of the page would end it. So the work runs here. Whoever has the
owner's key can look at the job, follow it or stop it at any time, from any page.
"""

from __future__ import annotations

import contextvars
import ctypes
import gc
import logging
import secrets
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass
from typing import Any, Literal

from magicapture_core.languages import N_, _, again, n_
from magicapture_core.problems import Problem, as_problem, forget_frames
from magicapture_core.progress import StoppedError

log = logging.getLogger(__name__)

State = Literal["waiting", "preparing", "running", "stopping", "stopped", "done", "failed"]
ENDED: tuple[State, ...] = ("stopped", "done", "failed")
UNEXPECTED = N_(
    "Something went wrong here, and it is not your doing. What was saved before is kept: try again. "
    "If it happens again, tell whoever runs this server the reference {reference}."
)
TOO_LONG = N_(
    "This took longer than each job may take here ({limit}), so it was stopped. "
    "What was done until then is kept; a training can be resumed."
)


Stream = Generator[Any, None, None]
"""Yields reports. Closing it saves what is worth saving. It may raise StoppedError where it was asked to stop and has
nothing to save."""


@dataclass(frozen=True)
class Snapshot:
    """How a job stands at one moment."""

    state: State
    ahead: int
    """Jobs that the device does first; 0 unless waiting."""
    stage: str
    """What is being done, in words for people; may be empty."""
    share: float
    """How much of that is done, 0 to 1."""
    reports: tuple[Any, ...]
    """All reports so far."""
    problem: str | None
    """Why it failed, for the user."""
    cut_off: bool = False
    """Whether that is the limit of time alone: nothing went wrong, and what was done is kept."""

    @property
    def ended(self) -> bool:
        """Whether nothing more will come."""
        return self.state in ENDED


class Job:
    """One stream of reports. Made by `Jobs.start`; every method may be called from any thread."""

    def __init__(
        self, owner: str, kind: str, stream: Callable[[Job], Stream], jobs: Jobs, device: str, about: str,
        after: Callable[[Job], None] | None = None, gives_way: bool = False,
    ) -> None:  # fmt: skip
        self.id = secrets.token_hex(8)
        self.gives_way = gives_way
        self.owner, self.kind, self.device, self.about = owner, kind, device, about
        self._after = after
        self._stream, self._jobs = stream, jobs
        self._changed = threading.Condition()
        self._state: State = "waiting"
        self._stage, self._share = "", 0.0
        self._reports: list[Any] = []
        self._problem: str | None = None
        self._version = 0
        self._stop = threading.Event()
        self._cut_off = False
        self._deadline: float | None = None
        self._context = contextvars.copy_context()  # of whoever asked: a Space lends its GPU by visitor
        self.failure: Problem | None = None
        """Why it failed, if that is something the user can mend."""

    @property
    def active(self) -> bool:
        """Whether it has not ended yet."""
        return self._state not in ENDED

    @property
    def stopping(self) -> bool:
        """Whether it should end: somebody asked, or its time is over. A stream may look at this between reports."""
        return self._stop.is_set() or self._late

    @property
    def _late(self) -> bool:
        return self._deadline is not None and time.monotonic() > self._deadline

    def say(self, text: str, share: float = 0.0) -> None:
        """Say what is being done, in words for people, and how much of it is done (0 to 1). The stream calls it."""
        with self._changed:
            self._stage, self._share = text, share
            self._announce()

    def snapshot(self) -> Snapshot:
        """How it stands now, in the language of who looks."""
        ahead = self._jobs.ahead(self)
        with self._changed:
            # Said in the language of whoever started it; somebody else may look, or on another page.
            stage, problem = again(self._stage), None if self._problem is None else again(self._problem)
            return Snapshot(
                self._state, ahead, stage, self._share, tuple(self._reports), problem, self._cut_off
            )

    def stop(self) -> None:
        """Ask it to end after the report it is working on (at once if it waits). Does not wait for that."""
        self._stop.set()
        if self._jobs.withdraw(self):
            self._set(state="stopped")
            return
        with self._changed:
            if self._state in ("preparing", "running"):
                self._state = "stopping"
                self._announce()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until it has ended. Returns whether it has."""
        with self._changed:
            return self._changed.wait_for(lambda: self._state in ENDED, timeout)

    def follow(self, every: float = 0.5) -> Iterator[Snapshot]:
        """Yield a snapshot now, then one whenever something is new (looked at every `every` seconds).

        Ends with the job. Leaving it early does nothing to the job.
        """
        seen = (-1, -1)
        while True:
            snapshot = self.snapshot()
            now = (self._version, snapshot.ahead)
            if now != seen or snapshot.ended:
                yield snapshot
            if snapshot.ended:
                return
            seen = now
            with self._changed:
                self._changed.wait_for(lambda: self._state in ENDED, every)

    def _run(self) -> None:
        """Consume the stream, in the device's thread."""
        self._set(state="preparing")
        if self._jobs.longest is not None:
            self._deadline = time.monotonic() + self._jobs.longest
        try:
            finished = self._consume()
        except StoppedError:
            self._end_early()
        except Exception as error:  # noqa: BLE001 - a fault of the program is logged by _fail
            self._fail(error)
        else:
            if finished:
                self._set(state="done")
            else:
                self._end_early()

    def _follow_up(self) -> None:
        """Do what is to be done when it has ended, in the device's thread."""
        try:
            if self._after is not None:
                self._after(self)
        except Exception:
            log.exception("what follows job %s (%s) failed", self.id, self.kind)

    def _fail(self, error: Exception) -> None:
        """Store what to tell the user. Nothing is kept that would hold the failed work's memory."""
        self.failure = as_problem(error)
        level = logging.ERROR if self.failure is None else logging.INFO
        # As text: a handler may keep an exception as long as it likes.
        text = "".join(traceback.format_exception(error))
        log.log(level, "job %s (%s) failed\n%s", self.id, self.kind, text)
        if self.failure is not None:
            forget_frames(self.failure)
        unexpected = _(UNEXPECTED, reference=self.id)
        self._set(state="failed", problem=unexpected if self.failure is None else str(self.failure))

    def _end_early(self) -> None:
        """End as stopped by somebody, or as cut off by the limit. The stream is closed, so everything is saved."""
        if self._stop.is_set():
            self._set(state="stopped")
        else:
            self._cut_off = True
            self._set(state="failed", problem=_(TOO_LONG, limit=_in_words(self._jobs.longest or 0)))

    def _consume(self) -> bool:
        """Returns whether the stream came to its own end."""
        if self.stopping:
            return False
        with closing(self._stream(self)) as stream:
            for report in stream:
                self._take(report)
                if self.stopping:
                    return False
        return not self.stopping

    def _take(self, report: Any) -> None:
        with self._changed:
            self._reports.append(report)
            if self._state == "preparing":
                self._state = "running"
            self._announce()

    def _set(self, *, state: State, problem: str | None = None) -> None:
        with self._changed:
            if state == "preparing" and self._stop.is_set():
                state = "stopping"
            self._state, self._problem, self._stage, self._share = state, problem, "", 0.0
            self._announce()

    def _announce(self) -> None:
        """Notify all who wait for a change. The caller holds the condition."""
        self._version += 1
        self._changed.notify_all()


class Jobs:
    """The queues of all devices, and the owner of each job.

    longest: seconds that a job may work; None: as long as it takes. most: jobs that run or wait at once.
    """

    def __init__(self, *, longest: float | None = None, most: int | None = None) -> None:
        self.longest, self._most = longest, most
        self._lock = threading.Lock()
        self._queues: dict[str, deque[Job]] = {}
        self._newest: dict[tuple[str, str], Job] = {}
        self._closed = False

    def start(
        self,
        owner: str,
        kind: str,
        stream: Callable[[Job], Stream],
        *,
        device: str = "device",
        about: str = "",
        after: Callable[[Job], None] | None = None,
        gives_way: bool = False,
    ) -> Job:
        """Queue a job; `about` is the owner's own note on it, `after` is called once it has ended and may start
        another. gives_way: it is stopped as soon as another one waits.

        Raises Problem if they have one that has not ended, or if too many wait.
        """
        with self._lock:
            if self._closed:
                raise Problem(_("The server is about to stop. Try again in a few minutes."))
            busy = next((job for job in self._of(owner) if job.active), None)
            if busy is not None:
                raise Problem(
                    _(
                        "Your {kind} is still under way, and one thing is done at a time. "
                        "Wait for it, or stop it first.",
                        kind=_(busy.kind),
                    )
                )
            if self._most is not None and sum(map(len, self._queues.values())) >= self._most:
                raise Problem(
                    n_(
                        "Too many people are waiting ({n} job). Nothing is lost: try again in a few minutes.",
                        "Too many people are waiting ({n} jobs). Nothing is lost: try again in a few minutes.",
                        self._most,
                    )
                )
            job = Job(owner, kind, stream, self, device, about, after, gives_way)
            self._newest[owner, kind] = job
            if device in self._queues:
                for other in self._queues[device]:
                    if other.gives_way:
                        other._stop.set()
                self._queues[device].append(job)
            else:
                self._queues[device] = deque([job])
                threading.Thread(
                    target=self._work, args=(device,), name=f"jobs-{device}", daemon=True
                ).start()
        return job

    @property
    def idle(self) -> bool:
        """Whether nobody's job works or waits."""
        with self._lock:
            return not self._queues

    def newest(self, owner: str, kind: str) -> Job | None:
        """The owner's newest job of a kind, ended or not."""
        with self._lock:
            return self._newest.get((owner, kind))

    def active(self, owner: str) -> Job | None:
        """The owner's job that waits or works."""
        with self._lock:
            return next((job for job in self._of(owner) if job.active), None)

    def refuse_if_busy(self, owner: str) -> None:
        """Raises Problem if the owner has a job that has not ended."""
        busy = self.active(owner)
        if busy is not None:
            raise Problem(
                _("Your {kind} is still under way. Wait for it, or stop it first.", kind=_(busy.kind))
            )

    def ahead(self, job: Job) -> int:
        """How many jobs the device does before this one; 0 if it runs or has ended. One that gives way is none."""
        with self._lock:
            queue = list(self._queues.get(job.device, ()))
            before = queue[: queue.index(job)] if job in queue else []
            return sum(not each.gives_way for each in before)

    def withdraw(self, job: Job) -> bool:
        """Take a job out of the queue if it has not begun. Returns whether it was taken out."""
        with self._lock:
            queue = self._queues.get(job.device, deque())
            if job not in queue or queue[0] is job:
                return False
            queue.remove(job)
            return True

    def forget(self, owner: str, timeout: float | None = None) -> bool:
        """Stop the owner's jobs and forget them. Returns whether everything ended in time."""
        with self._lock:
            mine = self._of(owner)
            for job in mine:
                self._newest.pop((owner, job.kind), None)
        for job in mine:
            job.stop()
        ended = [job.wait(timeout) for job in mine]
        return all(ended)

    def close(self, timeout: float | None = None) -> bool:
        """Take nothing more, stop everything, wait for it. Returns whether everything ended in time."""
        with self._lock:
            self._closed = True
            everything = [job for queue in self._queues.values() for job in queue]
        for job in reversed(everything):  # the waiting ones first, so that none begins
            job.stop()
        ended = [job.wait(timeout) for job in everything]
        return all(ended)

    def _of(self, owner: str) -> list[Job]:
        return [job for (whose, _), job in self._newest.items() if whose == owner]

    def _work(self, device: str) -> None:
        """Do the device's jobs until none is left. The first in the queue is the one being done."""
        while True:
            with self._lock:
                job = self._queues[device][0]
            job._context.run(job._run)
            job._context.run(job._follow_up)
            _give_memory_back()
            with self._lock:
                self._queues[device].popleft()
                if not self._queues[device]:
                    del self._queues[device]
                    return


def _in_words(seconds: float) -> str:
    if seconds < 120:
        return n_("{seconds:g} second", "{seconds:g} seconds", round(seconds), seconds=seconds)
    return n_("{n} minute", "{n} minutes", round(seconds / 60))


def _give_memory_back() -> None:
    """Return what the job freed to the system: glibc kept 55 MB more with every visitor (benchmarks/soak.py)."""
    gc.collect()
    if "torch" in sys.modules:  # a GPU's memory is kept by torch for itself, and others wait for it
        from accelerate.utils.memory import clear_device_cache

        clear_device_cache()
    with suppress(OSError, AttributeError):  # another C library
        ctypes.CDLL("libc.so.6").malloc_trim(0)
