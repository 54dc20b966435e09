"""How long work tells where it stands, and how it is stopped: one way for downloads, drawing and finishing."""

from __future__ import annotations

from collections.abc import Callable


class StoppedError(Exception):
    """A progress callback raises it to end the work; what was finished before is kept."""


Progress = Callable[[str, float, float | None], None]
"""Called with (what is being done, how much of it is done, how much there is in all or None where nobody knows).

The unit is the work's own: bytes, denoising steps, pixels. It may raise StoppedError.
"""
