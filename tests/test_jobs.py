"""Jobs: a stream in a thread, one per device, each with an owner."""

from __future__ import annotations

import gc
import gettext
import threading
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from trainings import short, start, weights_of

from magicapture_core import languages
from magicapture_core.languages import speaking
from magicapture_core.problems import OutOfMemory, Problem, RunProblem
from magicapture_core.ui.jobs import Job, Jobs, Stream

PATIENCE = 30


class Gate:
    """A stream whose every report waits to be let through; notes whether it was closed."""

    def __init__(self, reports: int = 1000) -> None:
        self.reports = reports
        self.open = threading.Semaphore(0)
        self.begun, self.closed = threading.Event(), threading.Event()

    def __call__(self, _job: Job) -> Stream:
        try:
            self.begun.set()
            for number in range(self.reports):
                assert self.open.acquire(timeout=PATIENCE)
                yield number
        finally:
            self.closed.set()

    def let(self, count: int) -> None:
        for _ in range(count):
            self.open.release()


@pytest.fixture
def jobs() -> Iterator[Jobs]:
    jobs = Jobs()
    yield jobs
    assert jobs.close(PATIENCE)


def numbers(count: int) -> Any:
    """A stream of `count` reports that never waits."""

    def stream(job: Job) -> Stream:
        job.say("counting")
        yield from range(count)

    return stream


def test_a_stream_runs_to_its_end_and_keeps_every_report(jobs: Jobs) -> None:
    job = jobs.start("ann", "training", numbers(5))
    assert job.wait(PATIENCE)
    snapshot = job.snapshot()
    assert (snapshot.state, snapshot.reports, snapshot.problem) == ("done", (0, 1, 2, 3, 4), None)
    assert not job.active


def test_following_again_finds_the_job_as_it_stands(jobs: Jobs) -> None:
    gate = Gate(4)
    job = jobs.start("ann", "training", gate)
    gate.let(2)
    first = job.follow(every=0.01)
    assert any(snapshot.reports == (0, 1) for snapshot in first)
    first.close()  # a page reload
    gate.let(2)
    found = jobs.newest("ann", "training")
    assert found is job
    snapshots = list(found.follow(every=0.01))
    assert snapshots[0].reports[:2] == (0, 1)
    assert snapshots[-1].state == "done"
    assert snapshots[-1].reports == (0, 1, 2, 3)


def test_following_ends_at_once_when_the_job_has_ended(jobs: Jobs) -> None:
    job = jobs.start("ann", "training", numbers(1))
    assert job.wait(PATIENCE)
    assert [snapshot.state for snapshot in job.follow()] == ["done"]


def test_stopping_closes_the_stream(jobs: Jobs) -> None:
    gate = Gate()
    job = jobs.start("ann", "training", gate)
    assert gate.begun.wait(PATIENCE)
    gate.let(1)
    job.stop()
    gate.let(1)
    assert job.wait(PATIENCE)
    assert gate.closed.is_set()
    assert job.snapshot().state == "stopped"


def test_a_stream_can_see_that_it_is_to_stop(jobs: Jobs) -> None:
    begun = threading.Event()

    def stream(job: Job) -> Stream:
        begun.set()
        while not job.stopping:
            threading.Event().wait(0.001)
        return
        yield

    job = jobs.start("ann", "portraits", stream)
    assert begun.wait(PATIENCE)
    job.stop()
    assert job.wait(PATIENCE)
    assert job.snapshot().state == "stopped"


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (Problem(languages._("The disk is full.")), "THE DISK IS FULL."),
        (KeyError("a fault"), "SOMETHING WENT WRONG HERE"),
    ],
)
def test_whoever_looks_is_told_in_their_language(
    jobs: Jobs, monkeypatch: pytest.MonkeyPatch, error: Exception, says: str
) -> None:
    class Loud(gettext.NullTranslations):
        def gettext(self, message: str) -> str:
            return message.upper().replace("{REFERENCE}", "{reference}")

    plain = gettext.NullTranslations()
    monkeypatch.setattr(languages, "_catalogue", lambda code: Loud() if code == "de" else plain)
    told, go = threading.Event(), threading.Event()

    def stream(job: Job) -> Stream:
        job.say(languages._("Loading the model"))
        told.set()
        assert go.wait(PATIENCE)
        yield 1
        raise error

    job = jobs.start("ann", "training", stream)
    assert told.wait(PATIENCE)
    with speaking("de"):
        assert job.snapshot().stage == "LOADING THE MODEL"
    assert job.snapshot().stage == "Loading the model"
    go.set()
    assert job.wait(PATIENCE)
    with speaking("de"):
        assert str(job.snapshot().problem).startswith(says)
    assert not str(job.snapshot().problem).isupper()


def test_what_is_being_done_is_told_in_words(jobs: Jobs) -> None:
    told, go = threading.Event(), threading.Event()

    def stream(job: Job) -> Stream:
        job.say("Loading the model")
        told.set()
        assert go.wait(PATIENCE)
        yield 1

    job = jobs.start("ann", "training", stream)
    assert told.wait(PATIENCE)
    assert (job.snapshot().state, job.snapshot().stage) == ("preparing", "Loading the model")
    go.set()
    assert job.wait(PATIENCE)


def test_one_job_at_a_time_per_owner(jobs: Jobs) -> None:
    gate = Gate(1)
    job = jobs.start("ann", "training", gate)
    with pytest.raises(Problem, match=r"Your training is still under way.*stop it first"):
        jobs.start("ann", "portraits", numbers(1))
    gate.let(1)
    assert job.wait(PATIENCE)
    assert jobs.start("ann", "portraits", numbers(1)).wait(PATIENCE)


def test_one_job_at_a_time_per_device_and_the_place_in_the_queue_is_known(jobs: Jobs) -> None:
    gate = Gate(1)
    first = jobs.start("ann", "training", gate)
    second = jobs.start("bob", "training", numbers(1))
    third = jobs.start("cleo", "training", numbers(1))
    assert gate.begun.wait(PATIENCE)
    assert [job.snapshot().ahead for job in (first, second, third)] == [0, 1, 2]
    assert second.snapshot().state == third.snapshot().state == "waiting"
    second.stop()  # leaves the queue
    assert second.snapshot().state == "stopped"
    assert third.snapshot().ahead == 1
    gate.let(1)
    assert third.wait(PATIENCE)
    assert second.snapshot().reports == ()


def test_other_devices_do_not_wait(jobs: Jobs) -> None:
    gate = Gate(1)
    busy = jobs.start("ann", "training", gate, device="cuda:0")
    assert jobs.start("bob", "training", numbers(3), device="cuda:1").wait(PATIENCE)
    assert busy.active
    gate.let(1)


@pytest.mark.parametrize("when", ["at once", "later"])
def test_a_problem_reaches_the_user_as_it_is(jobs: Jobs, when: str) -> None:
    def stream(_job: Job) -> Stream:
        if when == "later":
            yield 1
        raise RunProblem("The disk is full. Make room, then resume.")

    job = jobs.start("ann", "training", stream)
    assert job.wait(PATIENCE)
    assert job.snapshot().problem == "The disk is full. Make room, then resume."
    assert job.snapshot().state == "failed"


def test_anything_else_is_logged_and_told_in_general_words(
    jobs: Jobs, caplog: pytest.LogCaptureFixture
) -> None:
    def stream(_job: Job) -> Stream:
        yield 1
        raise ZeroDivisionError("secret detail")

    job = jobs.start("ann", "training", stream)
    assert job.wait(PATIENCE)
    problem = job.snapshot().problem or ""
    assert job.id in problem
    assert "secret" not in problem
    assert "secret detail" in caplog.text
    assert jobs.start("bob", "training", numbers(1)).wait(PATIENCE), "the device goes on after a failure"


def test_failing_to_save_while_stopping_is_told(jobs: Jobs) -> None:
    gate, begun = threading.Semaphore(0), threading.Event()

    def stream(_job: Job) -> Stream:
        try:
            begun.set()
            while True:
                assert gate.acquire(timeout=PATIENCE)
                yield 1
        finally:
            raise RunProblem("Could not write the checkpoint.")

    job = jobs.start("ann", "training", stream)
    assert begun.wait(PATIENCE)
    job.stop()
    gate.release()
    assert job.wait(PATIENCE)
    assert job.snapshot().problem == "Could not write the checkpoint."


def test_forgetting_stops_and_leaves_no_trace(jobs: Jobs) -> None:
    gate = Gate()
    jobs.start("ann", "training", gate)
    assert gate.begun.wait(PATIENCE)
    threading.Timer(0.05, gate.let, [2]).start()
    assert jobs.forget("ann", PATIENCE)
    assert gate.closed.is_set()
    assert jobs.newest("ann", "training") is None
    assert jobs.active("ann") is None


def test_owners_see_only_their_own(jobs: Jobs) -> None:
    job = jobs.start("ann", "training", numbers(1))
    assert jobs.newest("bob", "training") is None
    assert jobs.forget("bob", PATIENCE)
    assert job.wait(PATIENCE)
    assert jobs.newest("ann", "training") is job


def test_closing_stops_everything_and_takes_nothing_more() -> None:
    jobs, gate = Jobs(), Gate()
    running = jobs.start("ann", "training", gate)
    waiting = jobs.start("bob", "training", numbers(1))
    assert gate.begun.wait(PATIENCE)
    threading.Timer(0.05, gate.let, [2]).start()
    assert jobs.close(PATIENCE)
    assert (running.snapshot().state, waiting.snapshot().state) == ("stopped", "stopped")
    with pytest.raises(Problem, match="about to stop"):
        jobs.start("cleo", "training", numbers(1))


@pytest.mark.long
def test_many_owners_at_once_never_overlap(jobs: Jobs) -> None:
    inside, most = [0], [0]
    lock = threading.Lock()

    def stream(_job: Job) -> Stream:
        for _ in range(5):
            with lock:
                inside[0] += 1
                most[0] = max(most[0], inside[0])
            yield 1
            with lock:
                inside[0] -= 1

    found: list[Job] = []

    def visit(number: int) -> None:
        found.append(jobs.start(f"owner {number}", "training", stream))

    visitors = [threading.Thread(target=visit, args=(number,)) for number in range(12)]
    for visitor in visitors:
        visitor.start()
    for visitor in visitors:
        visitor.join()
    assert all(job.wait(PATIENCE) for job in found)
    assert most == [1]


@pytest.mark.long
def test_a_real_training_is_paused_and_resumed_to_the_same_weights(
    toy: Any, tmp_path: Path, jobs: Jobs
) -> None:
    config = short(ti_steps=2, lora_steps=3)

    def training(folder: Path, resume: bool) -> Any:
        def stream(_job: Job) -> Stream:
            yield from start(toy, config, folder, resume=resume)

        return stream

    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert jobs.start("ann", "training", training(whole, False)).wait(120)

    job = jobs.start("ann", "training", training(parts, False))
    for snapshot in job.follow(every=0.005):
        if len(snapshot.reports) >= 2:
            job.stop()
            break
    assert job.wait(120)
    assert 2 <= job.snapshot().reports[-1].step <= 5
    resumed = jobs.start("ann", "training", training(parts, True))
    assert resumed.wait(120)
    assert resumed.snapshot().problem is None

    expected, got = weights_of(whole), weights_of(parts)
    assert expected.keys() == got.keys()
    for name in expected:
        assert (expected[name] == got[name]).all(), name


class Exploding:
    """Makes the UNet run out of memory at its `call`th call; knows that call's tensors without keeping them alive."""

    def __init__(self, unet: Any, call: int) -> None:
        self.calls, self.call = 0, call
        self.tensors: list[weakref.ref[torch.Tensor]] = []
        self.handle = unet.register_forward_pre_hook(self, with_kwargs=True)

    def __call__(self, _unet: Any, values: tuple[Any, ...], named: dict[str, Any]) -> None:
        self.calls += 1
        if self.calls == self.call:
            noisy, hidden = values[0], named["encoder_hidden_states"]
            assert hidden.grad_fn is not None  # a part of the step's graph
            self.tensors = [weakref.ref(noisy), weakref.ref(hidden)]
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    def alive(self) -> int:
        gc.collect()
        assert self.tensors
        return sum(tensor() is not None for tensor in self.tensors)


def test_a_job_that_ran_out_of_memory_keeps_none_of_it(
    toy: Any, tmp_path: Path, jobs: Jobs, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    exploding = Exploding(toy.unet, 3)

    def training(_job: Job) -> Stream:
        yield from start(toy, short(), tmp_path / "run")

    job = jobs.start("ann", "training", training)
    assert job.wait(120)
    assert jobs.start("bob", "portraits", numbers(1)).wait(PATIENCE)
    assert exploding.alive() == 0
    assert isinstance(job.failure, OutOfMemory)
    assert "ran out of memory" in (job.snapshot().problem or "")
    assert "Tried to allocate 2.00 GiB" in caplog.text, "the log still tells where and why"


def test_an_error_that_a_caller_keeps_holds_nothing_of_the_failed_step(toy: Any, tmp_path: Path) -> None:
    exploding = Exploding(toy.unet, 3)
    with pytest.raises(OutOfMemory) as kept:
        list(start(toy, short(), tmp_path / "run"))
    assert exploding.alive() == 0
    assert kept.value.__cause__ is not None


def test_what_an_unexpected_error_held_is_let_go_while_its_log_is_kept(
    jobs: Jobs, caplog: pytest.LogCaptureFixture
) -> None:
    class Large:
        pass

    seen: list[weakref.ref[Large]] = []

    def stream(_job: Job) -> Stream:
        large = Large()
        seen.append(weakref.ref(large))
        yield 1
        raise ZeroDivisionError("a fault of the program")

    job = jobs.start("ann", "training", stream)
    assert job.wait(PATIENCE)
    assert jobs.start("bob", "training", numbers(1)).wait(PATIENCE)
    gc.collect()
    assert seen[0]() is None
    assert "ZeroDivisionError: a fault of the program" in caplog.text


def test_memory_that_ran_out_anywhere_is_told_as_such(jobs: Jobs) -> None:
    def stream(_job: Job) -> Stream:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        yield

    job = jobs.start("ann", "portraits", stream)
    assert job.wait(PATIENCE)
    assert "Memory ran out" in (job.snapshot().problem or "")


def test_a_job_that_gives_way_is_not_waited_for(jobs: Jobs) -> None:
    measuring = Gate()
    first = jobs.start("visitor measurement", "measurement", measuring, gives_way=True)
    assert measuring.begun.wait(PATIENCE)
    second = jobs.start("visitor", "training", numbers(2))
    assert jobs.ahead(second) == 0
    assert first.stopping
    measuring.let(1)
    assert second.wait(PATIENCE)
    assert second.snapshot().state == "done"
    assert first.snapshot().state == "stopped"
    assert measuring.closed.is_set()
