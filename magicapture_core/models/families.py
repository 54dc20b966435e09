"""Which family a model is of."""

from __future__ import annotations

from typing import Any

from magicapture_core.languages import _
from magicapture_core.models.bundle import ModelBundle
from magicapture_core.models.stable_diffusion import StableDiffusion
from magicapture_core.models.stable_diffusion_xl import StableDiffusionXL
from magicapture_core.problems import Problem

FAMILIES: dict[str, type[ModelBundle]] = {each.family: each for each in (StableDiffusion, StableDiffusionXL)}


def family_called(name: str) -> type[ModelBundle]:
    """The family of that name. Raises Problem if there is none."""
    if name not in FAMILIES:
        raise Problem(
            _(
                "The run was made for a model of the family {name!r}; expected one of {known}. Use the version of "
                "MagiCapture that it was made with.",
                name=name,
                known=", ".join(FAMILIES),
            )
        )
    return FAMILIES[name]


def family_of(pipeline: Any) -> type[ModelBundle]:
    """The family of a loaded diffusers pipeline, by its class."""
    classes = {each.pipeline_class: each for each in FAMILIES.values()}
    return classes[type(pipeline).__name__]
