"""Portraits from a trained run, `for portrait in generate(...)`, and drafts before it, `draft(...)`."""

from magicapture_core.generation.loop import Progress, draft, generate
from magicapture_core.generation.portrait import Portrait, best_first

__all__ = ["Portrait", "Progress", "best_first", "draft", "generate"]
