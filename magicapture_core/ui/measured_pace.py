"""How long a training takes on this machine, from trainings before it. Says nothing about any visitor."""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

from magicapture_core.config import TrainConfig
from magicapture_core.files import atomic_file

SAMPLE = "sample"
"""Beside the phases: what is drawn, looked at and saved after a step that has a sample."""


class MeasuredPace:
    """Seconds that a step took, by model and resolution, in a file, so that the next start knows them."""

    def __init__(self, file: Path) -> None:
        self._file, self._lock = file, threading.Lock()

    def seconds(self, model: str, config: TrainConfig) -> float | None:
        """Seconds that such a training takes here at most; None if nothing like it was measured."""
        measured = self._read().get(f"{model} {config.resolution}")
        if measured is None:
            return None
        items = config.items_per_step
        steps = config.ti_steps * measured.get("textual_inversion", 0) + config.lora_steps * measured.get(
            "lora", 0
        )
        samples = (config.ti_steps + config.lora_steps) // config.sample_every if config.sample_every else 0
        beside = samples * config.sample_pictures * measured.get(SAMPLE, 0)
        return float(steps * items + beside) if steps else None

    def knows(self, model: str, config: TrainConfig) -> bool:
        """Whether every phase that such a training has was measured."""
        measured = self._read().get(f"{model} {config.resolution}", {})
        wanted = {"textual_inversion": config.ti_steps, "lora": config.lora_steps}
        return all(phase in measured for phase, steps in wanted.items() if steps)

    def keep(self, model: str, resolution: int, seconds: Mapping[str, Sequence[float]]) -> None:
        """Keep the median of what was measured.

        seconds: by phase, of each step, for one item of it; by `SAMPLE`, of each sample, for one picture of it.
        """
        with self._lock:
            everything = self._read()
            entry = everything.setdefault(f"{model} {resolution}", {})
            for what, measured in seconds.items():
                if measured:
                    entry[what] = sorted(measured)[len(measured) // 2]
            with atomic_file(self._file) as path:
                path.write_text(json.dumps(everything), encoding="utf-8")

    def _read(self) -> dict[str, dict[str, float]]:
        try:
            values: dict[str, dict[str, float]] = json.loads(self._file.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return values
