"""What the training stages share: device, draws, course of the learning rate, the loop itself, checkpoints."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

REPORT_EVERY = 10.0
"""Seconds between two lines of a training."""


def pick_device(name: str | None) -> torch.device:
    return torch.device(name or ("cuda" if torch.cuda.is_available() else "cpu"))


def free_memory() -> None:
    """Give the GPU's unused memory back, for the other process."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def half(device: torch.device) -> torch.dtype:
    """In what the networks compute: pure bfloat16 on a GPU (autocast keeps group norms in float32)."""
    return torch.bfloat16 if device.type == "cuda" else torch.float32


class Clock:
    """Progress of a stage from 0 to 1, by minutes of training (all sessions together), by steps, or by both."""

    def __init__(self, minutes: float | None, steps: int | None) -> None:
        """Given both, whichever ends first counts."""
        if minutes is None and steps is None:
            raise ValueError("give --minutes or --steps")
        self.minutes, self.steps = minutes, steps
        self.step, self.seconds, self._last = 0, 0.0, time.monotonic()

    @property
    def progress(self) -> float:
        by_steps = self.step / self.steps if self.steps else 0.0
        by_time = self.seconds / 60 / max(self.minutes, 1e-9) if self.minutes is not None else 0.0
        return min(1.0, max(by_steps, by_time))

    def restart(self) -> None:
        """Count from now on: what was prepared before is not training."""
        self._last = time.monotonic()

    def tick(self) -> None:
        now = time.monotonic()
        self.seconds, self._last, self.step = self.seconds + now - self._last, now, self.step + 1


class Part(Protocol):
    """What a checkpoint holds: a network, an optimizer, running errors."""

    def state_dict(self) -> Mapping[str, Any]: ...

    def load_state_dict(self, state: Any, /) -> object: ...


Step = Callable[[int, float], Mapping[str, Tensor]]
"""(step's number, progress 0..1) -> numbers to report."""


def train(
    path: Path, parts: Mapping[str, Part], step: Step, *, seconds: float, steps: int | None = None,
    save_every: float = 60.0, saved: Callable[[], None] | None = None, say: Callable[..., None] = print,
) -> int:  # fmt: skip
    """Train until `seconds` from now have passed or `steps` are done; go on from the checkpoint where there is one.

    Saves `parts` at `path` every `save_every` seconds and at the end; `saved` is called after it. Returns the number
    of steps, all sessions together.
    """
    clock = Clock(0.0, steps)
    if state := load_checkpoint(path, clock):
        for name, part in parts.items():
            part.load_state_dict(state[name])
    clock.minutes = (clock.seconds + seconds) / 60
    clock.restart()
    reported = last = time.monotonic()
    while clock.progress < 1:
        numbers = step(clock.step, clock.progress)
        clock.tick()
        now = time.monotonic()
        if now - reported > REPORT_EVERY:
            text = " ".join(f"{name} {float(value):.4f}" for name, value in numbers.items())
            say(f"{path.stem} step {clock.step} ({clock.step / clock.seconds:.2f} a second) {text}")
            reported = now
        if now - last > save_every and clock.progress < 1:
            _save(path, clock, parts, saved)
            last = time.monotonic()
    _save(path, clock, parts, saved)
    say(f"{path.stem}: {clock.step} steps in {clock.seconds:.0f} s")
    return clock.step


def _save(path: Path, clock: Clock, parts: Mapping[str, Part], saved: Callable[[], None] | None) -> None:
    save_checkpoint(path, clock, **{name: part.state_dict() for name, part in parts.items()})
    if saved:
        saved()


def draws(device: torch.device, seed: int, step: int) -> torch.Generator:
    """Random numbers of one step, on the device: a training that goes on draws what it would have drawn."""
    return torch.Generator(device).manual_seed(seed * 1_000_003 + step)


def learning_rate(base: float, step: int, progress: float, warmup: int, decay_from: float) -> float:
    """Linear warm-up, constant, then a half cosine to 2 % of `base` from `decay_from` of the way on."""
    if step < warmup:
        return base * (step + 1) / warmup
    if progress <= decay_from:
        return base
    left = (progress - decay_from) / (1 - decay_from)
    return base * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * left)))


def shuffled(count: int, batch: int, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """Batches of indices for ever, every index once an epoch."""
    while True:
        order = rng.permutation(count)
        for start in range(0, count - batch + 1, batch):
            yield order[start : start + batch]


class Batches:
    """`shuffled`, asked by the step's number instead of in turn, so that a training can go on anywhere."""

    def __init__(self, count: int, batch: int, seed: int) -> None:
        self.count, self.batch, self.seed = count, min(batch, count), seed
        self._epoch, self._order = -1, np.zeros(0, np.int64)

    def __call__(self, step: int) -> np.ndarray:
        epoch, place = divmod(step, self.count // self.batch)
        if epoch != self._epoch:
            self._epoch, self._order = (
                epoch,
                np.random.default_rng((self.seed, epoch)).permutation(self.count),
            )
        return self._order[place * self.batch : (place + 1) * self.batch]


def fastest(name: str, function: Callable[..., Tensor], example: Callable[[], tuple[Any, ...]],
            say: Callable[..., None]) -> Callable[..., Tensor]:  # fmt: skip
    """`function`, compiled where that is faster on a GPU, tried with made-up inputs of the true shapes.

    Both take turns: another process may use the GPU more at one time than at another. Leaves gradients behind in what
    `function` computes with.
    """
    if not torch.cuda.is_available():
        return function
    try:
        began, compiled = time.monotonic(), torch.compile(function, dynamic=False)
        plain, fast = turns((function, compiled), example)
    except Exception as error:  # noqa: BLE001 - whatever the compiler dislikes, the plain function works
        say(f"{name} is not compiled: {error!r}"[:300])
        return function
    say(
        f"{name}: {plain * 1e3:.0f} ms a step, compiled {fast * 1e3:.0f} ms ({time.monotonic() - began:.0f} s)"
    )
    return compiled if fast < 0.97 * plain else function


def turns(functions: Sequence[Callable[..., Tensor]], example: Callable[[], tuple[Any, ...]]) -> list[float]:
    """Median seconds of a call of each with its gradients, in turns; the first two calls of each are not counted."""
    seconds: list[list[float]] = [[] for _ in functions]
    for turn in range(9):
        for function, mine in zip(functions, seconds, strict=True):
            _wait()
            began = time.monotonic()
            function(*example()).float().square().mean().backward()
            _wait()
            if turn > 1:
                mine.append(time.monotonic() - began)
    return [statistics.median(mine) for mine in seconds]


def _wait() -> None:
    """For what the GPU has still to do."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def save_checkpoint(path: Path, clock: Clock, **state: Any) -> None:
    """Write a checkpoint whole or not at all."""
    part = path.with_suffix(".part")
    torch.save({"step": clock.step, "seconds": clock.seconds, **state}, part)
    part.replace(path)


def load_checkpoint(path: Path, clock: Clock) -> dict[str, Any] | None:
    """The state saved at `path`, with the clock set to it; None where there is none."""
    if not path.exists():
        return None
    state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    clock.step, clock.seconds = state["step"], state["seconds"]
    return state
