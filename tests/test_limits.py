"""What one visitor may take of a server, and what happens where the disk has no more to give."""

from __future__ import annotations

import errno
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from toy import save_toy

from magicapture_core.config import GenerateConfig
from magicapture_core.problems import Problem, as_problem
from magicapture_core.ui.cards import failure
from magicapture_core.ui.jobs import Job, Jobs, Stream
from magicapture_core.ui.limits import Limits, size_of
from magicapture_core.ui.sample_people import sample_people
from magicapture_core.ui.studio import Studio
from magicapture_core.ui.training_view import progress

PATIENCE = 120
SHORT = {
    "resolution": 64, "ti_steps": 3, "lora_steps": 3, "gradient_accumulation": 1, "attention_resolution": 8,
    "attention_every": 0, "sample_every": 0, "checkpoint_every": 1,
}  # fmt: skip


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Callable[..., tuple[Studio, str]]]:
    """Makes a server's inside on the toy model with limits, and a session that may add photos."""
    made: list[Studio] = []

    def open_studio(**limits: Any) -> tuple[Studio, str]:
        model = save_toy(tmp_path / "toy")
        studio = Studio(tmp_path / "runs", model=str(model), limits=Limits(**limits))
        made.append(studio)
        key, _ = studio.sessions.create()
        studio.photos.consent(key, True)
        return studio, key

    yield open_studio
    for studio in made:
        studio.close()


def with_photos(studio: Studio, key: str, count: int = 2) -> list[str]:
    """Add photos of a person and of a style; what was refused."""
    refused = []
    for role, person in zip(("subject", "style"), sample_people(), strict=False):
        files = [(path, path.name) for path in person.photos[:count]]
        refused += studio.photos.add(key, role, files)[1]  # type: ignore[arg-type]
    return refused


def ended(job: Job | None) -> Any:
    assert job is not None
    assert job.wait(PATIENCE)
    return job.snapshot()


@pytest.mark.parametrize("name", ["photos", "megapixels", "disk_mb", "minutes", "waiting"])
@pytest.mark.parametrize("value", [0, -1, float("nan")])
def test_limits_that_nothing_could_keep(name: str, value: float) -> None:
    with pytest.raises(Problem, match=name.replace("_", "-")):
        Limits(**{name: value})


def test_no_more_photos_than_allowed(opened: Callable[..., tuple[Studio, str]]) -> None:
    studio, key = opened(photos=1)
    assert [line for line in with_photos(studio, key) if "1 photos are the most" in line]
    assert [len(photos) for photos in studio.sessions.find(key).photos.values()] == [1, 1]


def test_no_larger_photos_than_allowed(opened: Callable[..., tuple[Studio, str]], tmp_path: Path) -> None:
    studio, key = opened(megapixels=0.5)
    large = tmp_path / "large.png"
    Image.fromarray(np.zeros((800, 800, 3), np.uint8)).save(large)
    refused = studio.photos.add(key, "subject", [(large, large.name)])[1]
    assert "at most 0.5 megapixels, got 800×800 pixels" in refused[0]
    assert with_photos(studio, key) == []


def test_no_more_disk_than_allowed(opened: Callable[..., tuple[Studio, str]]) -> None:
    studio, key = opened(disk_mb=1000)
    with_photos(studio, key)
    studio.training_jobs.start(key, None, "custom", SHORT)
    session = studio.sessions.find(key)
    assert ended(studio.training_jobs.job(session)).state == "done"
    used = size_of(session.folder) + size_of(session.shown)
    assert used > 100_000

    object.__setattr__(studio.sessions.limits, "disk_mb", used / 1e6)
    begin: list[Callable[[], Any]] = [
        lambda: studio.training_jobs.start(key, None, "custom", SHORT),
        lambda: studio.training_jobs.resume(key),
        lambda: studio.portrait_jobs.start(key, GenerateConfig(count=1)),
        lambda: studio.runs.export(key, "kohya"),
        lambda: studio.comparison_jobs.start(key),
        lambda: studio.finishing_jobs.start(key, None, {}),
    ]
    for each in begin:
        with pytest.raises(Problem, match=r"MB is the most\. Delete past trainings"):
            each()
    assert "MB is the most" in studio.photos.add(key, "subject", [(Path("a.jpg"), "a.jpg")])[1][0]
    run = session.chosen_run()
    assert run is not None
    studio.runs.discard(key, run.id)
    assert with_photos(studio, key, 1) == []


def test_a_training_that_fills_its_share_stops_and_is_kept(
    opened: Callable[..., tuple[Studio, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("magicapture_core.ui.training_jobs.ROOM_EVERY", 1)
    studio, key = opened(disk_mb=1000)
    with_photos(studio, key)
    session = studio.sessions.find(key)
    now = (size_of(session.folder) + size_of(session.shown)) / 1e6
    object.__setattr__(studio.sessions.limits, "disk_mb", now + 0.3)
    run = studio.training_jobs.start(
        key, None, "custom", {**SHORT, "lora_steps": 5000, "keep_checkpoints": 5000}
    )
    snapshot = ended(studio.training_jobs.job(studio.sessions.find(key)))
    assert snapshot.state == "failed"
    assert "MB is the most" in snapshot.problem
    assert studio.runs.saved_step(session, run) == snapshot.reports[-1].step > 0


@pytest.mark.long
def test_a_job_that_takes_too_long_is_cut_off() -> None:
    jobs, closed = Jobs(longest=0.2), threading.Event()

    def endless(_: Job) -> Stream:
        try:
            while True:
                time.sleep(0.01)
                yield 1
        finally:
            closed.set()

    snapshot = ended(jobs.start("ann", "training", endless))
    assert snapshot.state == "failed"
    assert "longer than each job may take here (0.2 seconds)" in snapshot.problem
    assert snapshot.cut_off
    assert closed.is_set()

    def deaf(job: Job) -> Stream:
        """Reports nothing, but looks whether it should stop, as drawing does."""
        while not job.stopping:
            time.sleep(0.01)
        yield from ()

    snapshot = ended(jobs.start("ann", "portraits", deaf))
    assert (snapshot.state, snapshot.cut_off) == ("failed", True)

    def broken(_: Job) -> Stream:
        raise Problem("Something else.")
        yield

    snapshot = ended(jobs.start("ann", "portraits", broken))
    assert (snapshot.state, snapshot.cut_off) == ("failed", False)
    assert "mc-bad" in failure("Portraits", snapshot)

    def brief(_: Job) -> Stream:
        yield 1

    assert ended(jobs.start("ann", "portraits", brief)).state == "done"
    assert jobs.close(PATIENCE)


def test_a_training_out_of_time_can_go_on(opened: Callable[..., tuple[Studio, str]]) -> None:
    studio, key = opened()
    with_photos(studio, key)
    studio.jobs.longest = 0.5
    run = studio.training_jobs.start(key, None, "custom", {**SHORT, "lora_steps": 3000})
    snapshot = ended(studio.training_jobs.job(studio.sessions.find(key)))
    assert snapshot.state == "failed"
    assert "can be resumed" in snapshot.problem
    said = progress(snapshot, None, 0)
    assert "mc-warn" in said
    assert "can be resumed" in said
    before = studio.runs.saved_step(studio.sessions.find(key), run)
    studio.jobs.longest = None
    studio.training_jobs.resume(key)
    job = studio.training_jobs.job(studio.sessions.find(key))
    assert job is not None
    first = next(snapshot for snapshot in job.follow(0.05) if snapshot.reports).reports[0]
    job.stop()
    assert ended(job).state == "stopped"
    assert first.step == before + 1


def test_too_many_waiting_jobs_are_refused_and_nothing_is_lost() -> None:
    jobs, gate = Jobs(most=2), threading.Event()

    def waits(_: Job) -> Stream:
        gate.wait(PATIENCE)
        yield 1

    running, waiting = (jobs.start(name, "training", waits) for name in ("ann", "bob"))
    with pytest.raises(Problem, match="Too many people are waiting"):
        jobs.start("cleo", "training", waits)
    gate.set()
    assert ended(running).state == ended(waiting).state == "done"
    assert ended(jobs.start("cleo", "training", waits)).state == "done"
    assert jobs.close(PATIENCE)


def test_a_full_disk_is_said_in_words() -> None:
    assert "disk is full" in str(as_problem(OSError(errno.ENOSPC, "No space left on device")))
    assert as_problem(OSError(errno.EIO, "broken")) is None
    assert as_problem(ValueError("a bug")) is None


ON_A_SMALL_DISK = """
import os, shutil, sys
from pathlib import Path
sys.path[:0] = [{tests!r}, {root!r}]
from test_limits import SHORT, ended, with_photos
from magicapture_core.config import GenerateConfig
from magicapture_core.problems import Problem
from magicapture_core.ui.studio import Studio

runs = Path({disk!r})
studio = Studio(runs, model={model!r})
key, _ = studio.sessions.create()
studio.photos.consent(key, True)
with_photos(studio, key)
# The look at the disk before a training is for another test: here it fills up on the way.
studio.training_jobs._check_disk = lambda session: None
endless = {{**SHORT, "lora_steps": 100_000, "keep_checkpoints": 100_000}}
run = studio.training_jobs.start(key, None, "custom", endless)
session = studio.sessions.find(key)
snapshot = ended(studio.training_jobs.job(session))
assert snapshot.state == "failed", snapshot
assert "disk" in snapshot.problem.lower() or "No space" in snapshot.problem, snapshot.problem
print("training:", snapshot.problem)

(runs / "stuffing").write_bytes(b"")
with (runs / "stuffing").open("ab", buffering=0) as stuffing:
    try:
        while stuffing.write(bytes(4096)):
            pass
    except OSError:
        pass
for act in (
    lambda: with_photos(studio, key, 6),
    lambda: studio.portrait_jobs.start(key, GenerateConfig(count=1, steps=1)).wait(60),
):
    try:
        act()
    except (Problem, OSError) as problem:
        print("then:", type(problem).__name__, problem)
photos = studio.sessions.find(key).photos["subject"]
assert len(photos) >= 2
assert all((session.folder / "photos" / photo.file).stat().st_size for photo in photos[:2])

(runs / "stuffing").unlink()
saved = studio.runs.saved_step(session, run)
for old in sorted(session.run_folder(run).glob("checkpoint-*"))[:-1]:
    shutil.rmtree(old)
studio.training_jobs.resume(key)
job = studio.training_jobs.job(studio.sessions.find(key))
first = next(s for s in job.follow(0.05) if s.reports or s.ended)
assert first.reports, first
assert first.reports[0].step == saved + 1, (first.reports[0].step, saved)
studio.close()
print("resumed after", saved, flush=True)
os._exit(0)  # the face networks' own threads sometimes abort a leaving interpreter
"""


@pytest.mark.long
def test_a_disk_that_fills_up(tmp_path: Path) -> None:
    """On a real one of 4 MB: a file system in memory, where the system lets a user make one."""
    disk, model = tmp_path / "disk", save_toy(tmp_path / "toy")
    disk.mkdir()
    mount = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c"]
    small = f"mount -t tmpfs -o size=4m none '{disk}'"
    if shutil.which("unshare") is None or subprocess.run([*mount, small], capture_output=True).returncode:
        pytest.skip("this system lets no user mount a file system (unshare, tmpfs)")
    script = tmp_path / "script.py"
    here = Path(__file__).parent
    script.write_text(
        ON_A_SMALL_DISK.format(tests=str(here), root=str(here.parent), disk=str(disk), model=str(model)),
        encoding="utf-8",
    )
    done = subprocess.run(
        [*mount, f"{small} && exec '{sys.executable}' '{script}'"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "resumed after" in done.stdout
    assert "Traceback" not in done.stdout + done.stderr
