"""Runs the cells of identities × styles × methods: in this process, or on a Ray cluster.

OUT/settings.json   what must be the same when an evaluation is continued
OUT/cells/          see cells.py
OUT/failed.json     cells that failed, and why; the next run tries them again
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from magicapture_core.config import GenerateConfig
from magicapture_core.evaluation.benchmark import Benchmark
from magicapture_core.evaluation.cells import is_done, models_for, portrait_settings, run_cell
from magicapture_core.evaluation.methods import METHODS, Method, in_order
from magicapture_core.evaluation.tasks import Setup, Task
from magicapture_core.files import atomic_file
from magicapture_core.models import ModelBundle
from magicapture_core.models.fingerprint import fingerprint
from magicapture_core.models.words import FILE as WORDS_FILE
from magicapture_core.postprocess.networks import enlarging_file
from magicapture_core.problems import MissingFiles, Problem
from magicapture_core.progress import Progress

RETRIES = 3
"""How often a task is given to another worker after its worker died."""
FREE = ("pictures", "edited_pictures", "other_people", "keep_runs", "encoder", "judged_by")
"""Settings that may change when an evaluation is continued: they add to the results and do not change them."""
PHOTOS = ("identities", "styles")
BESIDE = "beside_networks"
"""What decides the results and is no network of the fingerprint. Evaluations begun before it was written go on."""


@dataclass(frozen=True)
class Done:
    """One cell is finished or has failed."""

    task: Task
    number: int
    total: int
    seconds: float
    problem: str | None
    """The error in a sentence; None without an error."""


def plan(benchmark: Benchmark, methods: Sequence[Method]) -> list[Task]:
    """All cells, in an order that leaves a balanced table wherever it is cut off.

    Every method of a pair comes before the next pair, and the pairs run along the diagonals of people × styles, so that
    no person, and no style, has more than two pairs more than another.
    """
    people, styles = list(benchmark.identities), list(benchmark.styles)
    few, many = sorted((people, styles), key=len)
    pairs = [(one, few[(n + turn) % len(few)]) for turn in range(len(few)) for n, one in enumerate(many)]
    if many is styles:
        pairs = [(person, style) for style, person in pairs]
    return [Task(person, style, method.name) for person, style in pairs for method in methods]


class Budget:
    """Gives out the cells, as long as all of a pair (a person in a style) are expected to end in time."""

    def __init__(self, seconds: float | None, tasks: Sequence[Task]) -> None:
        self.seconds = seconds
        self._next = deque(tasks)
        self._cells = Counter(task.pair for task in tasks)
        self._started = time.monotonic()
        self._begun: set[tuple[str, str]] = set()
        self._taken = self._done = 0

    def count(self) -> None:
        """A cell has ended."""
        self._done += 1

    def take(self, most: int) -> list[Task]:
        """The next cells, `most` at most, that may begin now. Fewer where the next pair may not; ask again when a cell
        has ended."""
        taken: list[Task] = []
        while self._next and len(taken) < most and self._allows(self._next[0]):
            taken.append(self._next.popleft())
            self._taken += 1
        return taken

    def _allows(self, task: Task) -> bool:
        """Whether a cell may begin. The first pair always may; a pair that has begun goes on to its last cell."""
        if self.seconds is not None and self._begun and task.pair not in self._begun:
            if not self._done:  # with more workers than cells of a pair: nobody knows yet how long one takes
                return False
            elapsed = time.monotonic() - self._started
            before_its_end = self._taken - self._done + self._cells[task.pair]
            if elapsed + elapsed / self._done * before_its_end > self.seconds:
                return False
        self._begun.add(task.pair)
        return True


def open_evaluation(out: Path, setup: Setup, benchmark: Benchmark, methods: Sequence[Method]) -> list[Method]:
    """Start an evaluation in `out`, or check that the one there is the same. Raises Problem that names the differences.

    Returns all methods of the evaluation: `methods`, and methods of earlier calls whose settings are still the same.
    """
    models = models_for(setup.model)
    portraits = portrait_settings(models, setup)

    def config(method: Method) -> Any:
        return json.loads(json.dumps(method.config(setup.schedule, models, setup.seed).__dict__))

    settings = {
        **{name: value for name, value in asdict(setup).items() if name not in FREE},
        "model_fingerprint": fingerprint(models),
        BESIDE: _beside_networks(models, portraits),
        "portraits": asdict(portraits),
        "methods": {method.name: config(method) for method in methods},
        "benchmark_photos": {
            what: {name: _digest(photos) for name, photos in getattr(benchmark, what).items()}
            for what in PHOTOS
        },
    }
    settings = json.loads(json.dumps(settings))
    path = out / "settings.json"
    if path.exists():
        before = _read(path)
        _check_same(path, before, settings)
        for part in ("methods", "benchmark_photos"):
            settings[part] = _merged(before[part], settings[part])
    elif out.exists() and any(out.iterdir()):
        raise Problem(f"{out} is not empty and holds no evaluation. Choose another folder for --out.")
    with atomic_file(path) as temporary:
        temporary.write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
    known = [name for name in settings["methods"] if name.partition("@")[0] in METHODS]
    return [method for method in in_order(known) if settings["methods"][method.name] == config(method)]


def _beside_networks(models: ModelBundle, portraits: GenerateConfig) -> dict[str, Any]:
    """Hashes of the files that make words and enlarge portraits, and what `magicapture.json` says beside schedules."""
    enlarges = enlarging_file(portraits.enlarge or 1.0, models.device)
    return {
        "words": _file_digest(Path(models.source) / WORDS_FILE),
        "upscaler": _file_digest(enlarges) if enlarges else None,
        "strength_with": dict(models.strength_with),
        "framing": models.framing,
    }


def _file_digest(path: Path) -> str | None:
    """A short hash of a file; None where there is none."""
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16] if path.is_file() else None


def _digest(photos: Sequence[Path]) -> str:
    """A hash of the names and bytes of photos."""
    found = hashlib.sha256()
    for photo in photos:
        found.update(photo.name.encode() + b"\0" + hashlib.sha256(photo.read_bytes()).digest())
    return found.hexdigest()[:16]


def _merged(before: Any, now: Any) -> Any:
    """Two trees of settings as one; the values of `now` replace those of `before`."""
    if not (isinstance(before, dict) and isinstance(now, dict)):
        return now
    return {**before, **{name: _merged(before.get(name), value) for name, value in now.items()}}


def _check_same(path: Path, before: dict[str, Any], settings: dict[str, Any]) -> None:
    differing = [
        f"{name} was {before.get(name)!r}, now {value!r}"
        for name, value in settings.items()
        if name not in ("methods", "benchmark_photos", BESIDE) and before.get(name) != value
    ]
    beside, known = settings[BESIDE], before.get(BESIDE, settings[BESIDE])
    differing += [
        f"the model's {name} was {known.get(name)!r}, now {value!r}"
        for name, value in beside.items()
        if known.get(name, value) != value
    ]
    for name, config in settings["methods"].items():
        old = before["methods"].get(name, config)
        differing += [
            f"{name}'s {key} was {old.get(key)!r}, now {config[key]!r}"
            for key in config
            if old.get(key) != config[key]
        ]
    differing += [
        f"the photos in {what}/{name} changed"
        for what in PHOTOS
        for name, digest in settings["benchmark_photos"][what].items()
        if before["benchmark_photos"].get(what, {}).get(name, digest) != digest
    ]
    if differing:
        raise Problem(
            f"{path.parent} holds another evaluation: {'; '.join(differing)}. Go on with the same settings, or "
            "choose another folder for --out."
        )


def _read(path: Path) -> dict[str, Any]:
    try:
        settings: dict[str, Any] = json.loads(path.read_text(encoding="utf-8-sig"))
        for part in ("methods", "benchmark_photos"):
            for values in settings[part].values():
                values.items()
        settings.get(BESIDE, {}).items()
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise Problem(f"{path} cannot be read ({error}). Choose another folder for --out.") from error
    return settings


Outcome = tuple[Task, float, str | None]
"""A task, its seconds, and the error (None without one)."""


def attempt(task: Task, setup: Setup, out: Path, progress: Progress | None = None) -> Outcome:
    """Run one cell. A Problem is returned as a sentence; any other error is a fault of the program and is raised."""
    started = time.monotonic()
    try:
        run_cell(task, setup, out, progress)
    except Problem as problem:
        return task, time.monotonic() - started, str(problem)
    return task, time.monotonic() - started, None


def run(
    tasks: Sequence[Task],
    setup: Setup,
    out: Path,
    *,
    ray: str | None = None,
    work: Callable[[Task, Setup, Path], Outcome] = attempt,
    progress: Progress | None = None,
    budget: float | None = None,
) -> Iterator[Done]:
    """Run every cell that is not finished, and report each. After a failed cell the others are still run.

    budget: seconds after which no further pair of a person and a style begins (see `Budget`); None: no limit.

    ray: None for this process; "local" for as many workers as this machine has cores; else a cluster's address, all
    of whose machines see `out` under the same path (and the model and weights, too). work: what a Ray worker does.
    progress: see `run_cell`; it is not called with Ray.
    """
    missing = [task for task in tasks if not is_done(task, setup, out)]
    failed: dict[str, str] = {}
    limit = Budget(budget, missing)
    one_by_one = _here(limit, setup, out, progress) if ray is None else _on_ray(limit, setup, out, ray, work)
    for number, (task, seconds, problem) in enumerate(one_by_one, 1 + len(tasks) - len(missing)):
        limit.count()
        if problem is not None:
            failed[str(task)] = problem
        yield Done(task, number, len(tasks), seconds, problem)
    _write_failures(out, {**_failures_of_others(out, tasks), **failed})


def _failures_of_others(out: Path, tasks: Sequence[Task]) -> dict[str, str]:
    """Entries of failed.json from earlier calls, for cells that are not in `tasks`."""
    try:
        before = json.loads((out / "failed.json").read_text(encoding="utf-8-sig"))
        return {task: why for task, why in before.items() if task not in set(map(str, tasks))}
    except (OSError, ValueError, AttributeError):
        return {}


def _write_failures(out: Path, failed: dict[str, str]) -> None:
    path = out / "failed.json"
    if not failed:
        path.unlink(missing_ok=True)
        return
    with atomic_file(path) as temporary:
        temporary.write_text(json.dumps(failed, indent=2) + "\n", encoding="utf-8")


def _here(limit: Budget, setup: Setup, out: Path, progress: Progress | None) -> Iterator[Outcome]:
    while tasks := limit.take(1):
        yield attempt(tasks[0], setup, out, progress)


def _on_ray(
    limit: Budget, setup: Setup, out: Path, address: str, work: Callable[[Task, Setup, Path], Outcome]
) -> Iterator[Outcome]:
    """Ray gives a task to another worker if its worker dies; the cell then continues from its last file."""
    if importlib.util.find_spec("ray") is None:
        raise MissingFiles(
            "--ray needs Ray, which is not installed. Install it (pip install -r requirements-ray.txt), or leave "
            "--ray out: then everything runs in this process."
        )
    import ray
    import torch

    root = str(Path(__file__).resolve().parents[2])
    path = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH", "")]))
    kept = {
        name: os.environ[name] for name in ("MAGICAPTURE_WEIGHTS", "HF_HUB_OFFLINE") if name in os.environ
    }
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # Ray would report every start to its developers
    started = not ray.is_initialized()
    if started:
        local = address == "local"
        try:
            ray.init(
                address=None if local else address,
                runtime_env={"env_vars": {**kept, "PYTHONPATH": path}},
                log_to_driver=False,
                **({"include_dashboard": False} if local else {}),
            )
        except Exception as error:  # Ray raises plain Exception where a part of it does not start in time
            where = "started on this machine" if local else f"reached at {address}"
            raise Problem(
                f"Ray could not be {where} ({error}). Correct the address, wait until the machine is less busy, or "
                "leave --ray out: then everything runs in this process."
            ) from error
    try:
        gpus = 1 if torch.cuda.is_available() else 0
        remote = ray.remote(num_cpus=1, num_gpus=gpus, max_retries=RETRIES)(work)
        slots = max(1, int(ray.cluster_resources().get("GPU" if gpus else "CPU", 1)))
        waiting: dict[Any, Task] = {}
        while True:
            # No more than can run: whether a cell may still begin is known when its turn comes.
            for task in limit.take(slots - len(waiting)):
                waiting[remote.remote(task, setup, out.resolve())] = task
            if not waiting:
                return
            ready, _ = ray.wait(list(waiting), num_returns=1)
            task = waiting.pop(ready[0])
            try:
                yield ray.get(ready[0])
            except (ray.exceptions.WorkerCrashedError, ray.exceptions.OutOfMemoryError) as error:
                yield task, 0.0, f"its worker died {RETRIES + 1} times ({type(error).__name__})."
    finally:
        if started:
            ray.shutdown()
