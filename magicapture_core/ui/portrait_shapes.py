"""Shapes of portraits: which ones a model draws well, and their sizes in pixels."""

from __future__ import annotations

from magicapture_core.languages import N_
from magicapture_core.ui.server_models import ModelFacts

SQUARE = "1:1"
SHAPES = {SQUARE: (1.0, 1.0), "4:5": (1.0, 1.25), "3:4": (0.9375, 1.25), "9:16": (0.84375, 1.5)}
"""Width and height in sides of the model's own square: nothing is so long that a second head appears in it."""
ONLY_SQUARE = N_("Portraits are square: this model has seen only square pictures of faces.")


def shapes(facts: ModelFacts) -> list[str]:
    """What can be chosen. A model that frames every face alike (`framing` "aligned") has seen only squares."""
    return [SQUARE] if facts.framing == "aligned" else list(SHAPES)


def size_of(shape: str, resolution: int) -> dict[str, int]:
    """GenerateConfig's width and height, multiples of 8; empty for a square: the size the run was trained at."""
    if shape == SQUARE or shape not in SHAPES:
        return {}
    width, height = (8 * round(share * resolution / 8) for share in SHAPES[shape])
    return {"width": width, "height": height}
