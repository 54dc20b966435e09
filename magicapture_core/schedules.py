"""The schedules of training: named sets of TrainConfig values that a user can start from, for every model.

A model can have schedules of its own, in `magicapture.json` beside its weights (`ModelBundle.schedules`). The functions
here take them as `own`; an empty mapping means that the model has none.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from magicapture_core.config import TrainConfig, from_dict
from magicapture_core.languages import _
from magicapture_core.problems import Problem

Schedules = Mapping[str, Mapping[str, Any]]
"""By name: TrainConfig values over the defaults."""

PAPER = "paper"
"""The defaults of TrainConfig, unless the model has a schedule of this name."""
QUICK = "quick"
FOR_EVERY_MODEL: Schedules = {QUICK: {"ti_steps": 400, "lora_steps": 500, "gradient_accumulation": 2}}
"""For models without schedules of their own: a third of the paper's steps, with half the items each."""


def known_schedules(own: Schedules) -> dict[str, Mapping[str, Any]]:
    """Every schedule of a model, the recommended one first and the paper's last."""
    others = {name: values for name, values in (own or FOR_EVERY_MODEL).items() if name != PAPER}
    return {**others, PAPER: own.get(PAPER, {})}


def fitting_schedules(own: Schedules) -> list[str]:
    """Which schedules to recommend: the model's own, since no other was tried on it; where it has none, every one."""
    return list(own or known_schedules(own))


def usual_schedule(own: Schedules) -> str:
    """The schedule that the command line starts from: the model's own, the quick one first; else the paper's."""
    return QUICK if QUICK in own else next(iter(own), PAPER)


def schedule_values(name: str, own: Schedules) -> Mapping[str, Any]:
    """The values of one schedule. Raises Problem for a name that the model does not have."""
    known = known_schedules(own)
    if name not in known:
        raise Problem(
            _(
                "The schedule must be one of {known} for this model, got {name}.",
                known=", ".join(known),
                name=repr(name),
            )
        )
    return known[name]


def scheduled_config(name: str, own: Schedules, resolution: int, *over: Mapping[str, Any]) -> TrainConfig:
    """The settings of a schedule.

    resolution: the model's, in pixels; the schedule can have another one. over: values of a preset, values that the
    user chose; later ones replace earlier ones. Raises Problem for an unknown schedule or setting.
    """
    values: dict[str, Any] = {"resolution": resolution, **schedule_values(name, own)}
    for more in over:
        values |= more
    return from_dict(TrainConfig, values)
