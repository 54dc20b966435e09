"""How long work reports its progress and how it is stopped: one way for downloads, generation and finishing."""

from __future__ import annotations

from collections.abc import Callable


class StoppedError(Exception):
    """Raised by a progress callback to stop the work. What was finished before is kept."""


Progress = Callable[[str, float, float | None], None]
"""Called with (what is being done, how much of it is done, the total or None where it is not known).

The unit depends on the work: bytes, denoising steps, tiles. The callback may raise StoppedError.
"""


def share(done: float, total: float | None) -> float:
    """How much is done, 0 to 1; 0 where the total is not known."""
    return done / total if total else 0.0


def duration(seconds: float) -> str:
    """Seconds as m:ss or h:mm:ss."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"
