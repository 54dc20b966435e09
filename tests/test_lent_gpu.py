"""Work on a lent GPU (ZeroGPU), with a stand-in of the package `spaces` that keeps its contract: a decorated generator
function takes and yields only what can be pickled, for it runs in another process."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from toy import save_toy

from magicapture_core.config import GenerateConfig
from magicapture_core.gpu import has_gpu
from magicapture_core.problems import OutOfMemory, Problem
from magicapture_core.ui import lent_gpu
from magicapture_core.ui.sample_people import sample_people
from magicapture_core.ui.studio import Studio

PATIENCE = 120.0
SPACES = """
import functools, pickle
import gradio
from gradio.context import LocalContext

DURATIONS, MOST, LEFT, REQUESTS = [], 1000, 10_000, []

def GPU(task=None, *, duration=60):
    def decorate(task):
        @functools.wraps(task)
        def called(*values):
            if len(DURATIONS) >= MOST:
                raise gradio.Error("You have exceeded your GPU quota")
            seconds = duration(*values) if callable(duration) else duration
            if seconds > LEFT:
                raise gradio.Error(f"You have exceeded your quota ({seconds}s requested vs. {LEFT}s left).")
            DURATIONS.append(seconds)
            REQUESTS.append(LocalContext.request.get(None))
            try:
                for report in task(*pickle.loads(pickle.dumps(values))):
                    yield pickle.loads(pickle.dumps(report))
            except Exception as error:
                raise gradio.Error(type(error).__name__)
        return called
    return decorate if task is None else decorate(task)
"""
SHORT = {
    "ti_steps": 3, "lora_steps": 3, "attention_resolution": 8, "gradient_accumulation": 1, "sample_every": 4,
    "sample_steps": 2, "attention_every": 4,
}  # fmt: skip


@pytest.fixture
def spaces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The stand-in, importable as `spaces`, as in a Space that lends its GPU."""
    (tmp_path / "packages" / "spaces").mkdir(parents=True)
    (tmp_path / "packages" / "spaces" / "__init__.py").write_text(SPACES, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path / "packages"))
    monkeypatch.setenv("SPACES_ZERO_GPU", "true")
    monkeypatch.setattr(lent_gpu, "WORKING", 0.0)  # one step a loan
    sys.modules.pop("spaces", None)
    import spaces

    yield spaces
    sys.modules.pop("spaces", None)


@pytest.fixture
def studio(spaces: Any, tmp_path: Path) -> Iterator[tuple[Studio, str]]:
    """A server's inside on the toy model, and the key of a session with photos."""
    assert lent_gpu.lending(), spaces
    made = Studio(tmp_path / "runs", model=str(save_toy(tmp_path / "toy")))
    key, _ = made.sessions.create()
    made.photos.consent(key, True)
    for role, person in zip(("subject", "style"), sample_people(), strict=False):
        made.photos.add(key, role, [(path, path.name) for path in person.photos[:2]])  # type: ignore[arg-type]
    yield made, key
    made.close()


def trained(studio: Studio, key: str) -> Any:
    """The job of a short training, ended."""
    studio.training_jobs.start(key, None, "custom", SHORT)
    job = studio.training_jobs.job(studio.sessions.find(key))
    assert job is not None
    assert job.wait(PATIENCE)
    return job


def test_elsewhere_nothing_is_lent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SPACES_ZERO_GPU", raising=False)
    assert lent_gpu.lent(lambda: iter(())) is None
    monkeypatch.setenv("SPACES_ZERO_GPU", "true")  # the variable alone is no Space
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    assert lent_gpu.lent(lambda: iter(())) is None


@pytest.mark.long
def test_training_and_portraits_go_from_loan_to_loan(
    studio: tuple[Studio, str], spaces: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    server, key = studio
    snapshot = trained(server, key).snapshot()
    assert (snapshot.state, snapshot.problem) == ("done", None)
    assert [report.step for report in snapshot.reports] == [1, 2, 3, 4, 5, 6]
    # Each loan asks for what is left: a few seconds, and those for loading and saving.
    assert len(spaces.DURATIONS) == 6
    assert list(spaces.DURATIONS) == sorted(spaces.DURATIONS, reverse=True)
    assert lent_gpu.LOADING < min(spaces.DURATIONS) <= max(spaces.DURATIONS) <= lent_gpu.LOADING + 2
    session = server.sessions.find(key)
    run = session.chosen_run()
    assert run is not None
    assert [row["step"] for row in server.runs.losses(session, run)] == [1, 2, 3, 4, 5, 6]

    spaces.DURATIONS.clear()
    monkeypatch.setattr(lent_gpu, "DRAWING", 10.0)
    job = server.portrait_jobs.start(key, GenerateConfig(count=5, steps=2, seed=7))
    assert job.wait(PATIENCE)
    assert job.snapshot().problem is None
    seeds = [portrait.seed for portrait in server.sessions.find(key).portraits]
    assert seeds == [7, 8, 9, 10, 11]
    assert list(spaces.DURATIONS) == [lent_gpu.SECONDS, lent_gpu.LOADING + 20]  # four portraits, and one


def test_a_loan_is_as_long_as_its_work() -> None:
    assert lent_gpu.drawing_seconds(4, 50) == lent_gpu.LOADING + 12
    assert lent_gpu.drawing_seconds(1000, 50) == lent_gpu.SECONDS
    assert lent_gpu.portraits_at_once(50) >= 10  # of the two minutes that visitors without an account have
    assert lent_gpu.portraits_at_once(100_000) == 1
    assert lent_gpu.training_seconds({"textual_inversion": 100, "lora": 100}, 4) == lent_gpu.LOADING + 49
    assert lent_gpu.training_seconds({"textual_inversion": 1200, "lora": 1500}, 4) == lent_gpu.SECONDS
    assert lent_gpu.training_seconds({"textual_inversion": 0, "lora": 0}, 4) == lent_gpu.LOADING
    assert lent_gpu.drawing_seconds(4, 50, standing=True) == lent_gpu.STANDING + 12
    assert lent_gpu.portraits_at_once(50, lent_gpu.LOADING + 10) == 3


def test_a_visitor_with_few_seconds_left_gets_a_loan_of_those(spaces: Any, tmp_path: Path) -> None:
    task = lent_gpu.lent(lambda _flag, seconds, *_: iter([seconds]))
    assert task is not None
    spaces.LEFT = 40
    assert list(lent_gpu.one_slice(task, tmp_path / "stop", 110)) == [40]
    spaces.LEFT = lent_gpu.LOADING + lent_gpu.LEAST - 1
    with pytest.raises(Problem, match="34s left"):
        list(lent_gpu.one_slice(task, tmp_path / "stop", 110))
    assert list(lent_gpu.one_slice(task, tmp_path / "stop", 110, standing=True)) == [34]
    assert spaces.DURATIONS == [40, 34]


def test_loans_are_asked_for_by_the_newest_request(studio: tuple[Studio, str], spaces: Any) -> None:
    from contextvars import copy_context

    from gradio.context import LocalContext

    server, key = studio
    owner = server.sessions.owner(key)
    task = lent_gpu.lent(lambda *_: iter([1]))
    assert task is not None

    def calls(request: Any, works: bool) -> None:
        LocalContext.request.set(request)
        lent_gpu.remember_visitor(owner, works)

    def loan() -> None:
        LocalContext.request.set("at the beginning")
        lent_gpu.ask_in_the_name_of(owner)
        list(lent_gpu.one_slice(task, server.sessions.find(key).folder / "stop", 60))

    copy_context().run(loan)
    copy_context().run(calls, "a minute later", True)
    copy_context().run(loan)
    copy_context().run(calls, "when all is done", False)
    copy_context().run(loan)
    assert spaces.REQUESTS == ["at the beginning", "a minute later", "at the beginning"]


@pytest.mark.long
@pytest.mark.real_faces
def test_a_forked_process_looks_at_faces_anew() -> None:
    """MediaPipe's threads do not come along: with the server's own networks a lent process would wait forever."""
    import multiprocessing

    import numpy as np
    from PIL import Image

    from magicapture_core.faces import choice, choose_analyser

    pixels = np.asarray(Image.open(sample_people()[0].photos[0]).convert("RGB"))
    here = choose_analyser("bundled")[0]
    found = len(here.detect(pixels))
    assert found == 1
    context = multiprocessing.get_context("fork")
    answers = context.SimpleQueue()

    def look() -> None:
        there = choose_analyser("bundled")[0]
        answers.put((there is here, len(there.detect(pixels))))

    with choice._building:  # as if another thread were building one
        process = context.Process(target=look, daemon=True)
        process.start()
    process.join(PATIENCE)
    process.kill()
    assert process.exitcode == 0, "the forked process did not end"
    assert answers.get() == (False, found)


def test_only_a_loan_has_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(
        torch.cuda, "is_available", lambda: True
    )  # as `spaces` has it in the server's process
    monkeypatch.delenv("SPACES_ZERO_GPU", raising=False)
    assert has_gpu()
    monkeypatch.setenv("SPACES_ZERO_GPU", "true")
    assert not has_gpu()
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    assert has_gpu()


@pytest.mark.long
def test_a_used_up_quota_is_said_and_what_was_learned_stays(studio: tuple[Studio, str], spaces: Any) -> None:
    server, key = studio
    spaces.MOST = 2
    job = trained(server, key)
    assert job.snapshot().state == "failed"
    for words in ("exceeded your GPU quota", "kept", "go on later"):
        assert words in str(job.snapshot().problem)
    spaces.MOST = 1000
    server.training_jobs.resume(key)
    resumed = server.training_jobs.job(server.sessions.find(key))
    assert resumed is not None
    assert resumed.wait(PATIENCE)
    assert [report.step for report in resumed.snapshot().reports] == [3, 4, 5, 6]


def test_stopping_reaches_the_lent_process(
    studio: tuple[Studio, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    server, key = studio
    monkeypatch.setattr(lent_gpu, "WORKING", 1.0)
    server.training_jobs.start(key, None, "custom", {**SHORT, "ti_steps": 100_000})
    job = server.training_jobs.job(server.sessions.find(key))
    assert job is not None
    next(snapshot for snapshot in job.follow(0.05) if snapshot.reports)
    job.stop()
    assert job.wait(PATIENCE)
    session = server.sessions.find(key)
    run = session.chosen_run()
    assert run is not None
    assert job.snapshot().state == "stopped"
    assert server.runs.saved_step(session, run) >= job.snapshot().reports[-1].step
    assert not (session.folder / "stop").exists()


def test_what_fails_in_the_lent_process_is_told_in_its_own_words(
    studio: tuple[Studio, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from magicapture_core import training

    def full(*_: Any, **__: Any) -> Any:
        raise OutOfMemory("The device ran out of memory.", {"items_per_call": 1})
        yield

    monkeypatch.setattr(training, "train", full)
    assert trained(*studio).snapshot().problem == "The device ran out of memory."
