"""What a run was started with, and what of it may differ when it goes on."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from magicapture_core.config import TrainConfig, from_dict, to_dict
from magicapture_core.languages import _
from magicapture_core.problems import RunProblem

FREE_ON_RESUME = {
    "checkpoint_every",
    "keep_checkpoints",
    "sample_every",
    "sample_steps",
    "sample_pictures",
    "keep_best",
    "stop_when_settled",
    "attention_every",
    "items_per_call",
    "gradient_checkpointing",
}
"""Settings that may differ when a run goes on: they change what is shown, kept or held in memory and when the run ends,
and what is learned at most by rounding."""

FIRST_FAMILY = "stable-diffusion"
"""Family of runs whose config.json names none: version 0.1 wrote them, which had only this one."""


def in_last_phase(step: int, config: TrainConfig) -> bool:
    """Whether a step is one of the last phase that has steps: what is used comes from there."""
    return step > config.ti_steps or config.lora_steps == 0


@dataclass(frozen=True)
class RunFacts:
    """What a run was started with; a resumed run must be the same in all of it."""

    config: TrainConfig
    model: str
    """What `models.load` takes: "mini", the absolute path of a folder or file, or a hub id."""
    family: str
    """Family of the model, as in `ModelBundle.family`."""
    model_fingerprint: str
    """Short hash of the model's weights, by `models.fingerprint`."""
    likeness: str
    """Name of the network of Eq. 7."""
    subject: tuple[str, ...]
    """name:digest of each subject photo (picture and mask)."""
    style: tuple[str, ...]
    """name:digest of each style photo."""

    def as_dict(self) -> dict[str, Any]:
        """Plain values for config.json."""
        values = {
            name: getattr(self, name)
            for name in ("model", "family", "model_fingerprint", "likeness", "subject", "style")
        }
        return {"config": to_dict(self.config), **json.loads(json.dumps(values))}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> RunFacts:
        """The inverse of `as_dict`. Raises Problem on unknown or missing settings."""
        try:
            return cls(
                from_dict(TrainConfig, values["config"]),
                str(values["model"]),
                str(values.get("family", FIRST_FAMILY)),
                str(values["model_fingerprint"]),
                str(values["likeness"]),
                tuple(values["subject"]),
                tuple(values["style"]),
            )
        except (AttributeError, KeyError, TypeError) as error:
            raise RunProblem(
                _("config.json lacks {error}. Was it edited? Start a new run.", error=error)
            ) from error
