"""The one clock of a making: how long each stage may take, and what lies in the work folder already."""

from __future__ import annotations

import multiprocessing
import time
from pathlib import Path

from tools.mini.store import write_text

PLAN = {
    "measured": (0.0, 0.16),
    "faces": (0.0, 0.14),
    "labels": (0.15, 0.22),
    "pictures": (0.22, 0.30),
    "vae": (0.14, 0.42),
    "decoder": (0.42, 0.50),
    "unet": (0.50, 1.0),
}
"""Stage -> (begin, end) as shares of the whole time, when all is on time. See README.md for what they come from."""


class RunClock:
    """Seconds since the making began, without the time between a stop and the next start.

    A stage that begins late gets less, so that those after it keep their share; one that begins early gets more.
    """

    def __init__(self, work: Path, minutes: float, began: float | None = None) -> None:
        """began: on time.time()'s scale, the same in all processes of a making; None goes on from the last stop."""
        self.folder, self.total = work / "clock", minutes * 60
        self.folder.mkdir(parents=True, exist_ok=True)
        elapsed = self.folder / "elapsed"
        passed = float(elapsed.read_text()) if elapsed.exists() else 0.0
        self.began = time.time() - passed if began is None else began

    @property
    def seconds(self) -> float:
        return time.time() - self.began

    def keep(self) -> None:
        """Remember how much time has passed, for the next start."""
        write_text(self.folder / "elapsed", f"{self.seconds:.1f}")

    def until(self, stage: str) -> float:
        """When the stage ends, in seconds since the beginning; what was said first holds.

        The last stage ends with the whole, so that a longer making trains it on.
        """
        begin, end = PLAN[stage]
        if end == 1:
            return self.total
        path = self.folder / stage
        if not path.exists():
            now = self.seconds
            write_text(path, str(now + max(0.0, self.total - now) * (end - begin) / (1 - begin)))
        return float(path.read_text())

    def left(self, stage: str) -> float:
        """Seconds that the stage still has."""
        return max(0.0, self.until(stage) - self.seconds)

    def deadline(self, stage: str) -> float:
        """The end of the stage on time.time()'s scale, for other processes."""
        return self.began + self.until(stage)

    def say(self, *what: object) -> None:
        print(f"[{self.seconds:6.1f}]", *what, flush=True)

    def wait_for(self, path: Path) -> None:
        """Until another process has written `path`. (If that one fails, the parent ends this one, too.)"""
        parent = multiprocessing.parent_process()
        while not path.exists():
            if parent and not parent.is_alive():
                raise SystemExit(f"{path} will not come: the making was stopped.")
            time.sleep(0.2)
