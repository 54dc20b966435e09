"""Portraits from a trained run, `for portrait in generate(...)`, and drafts before it, `draft(...)`."""

from magicapture_core.generation.loop import draft, generate
from magicapture_core.generation.portrait import Portrait, best_first

__all__ = ["Portrait", "best_first", "draft", "generate"]
