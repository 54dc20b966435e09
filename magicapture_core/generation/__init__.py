"""Portraits from a trained run: `for portrait in generate(...)`."""

from magicapture_core.generation.loop import Progress, generate
from magicapture_core.generation.portrait import Portrait, best_first

__all__ = ["Portrait", "Progress", "best_first", "generate"]
