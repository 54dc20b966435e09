"""What tells models apart: a run goes on with the model that it began with."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable

import torch
from torch import nn

from magicapture_core.models.bundle import ModelBundle


def fingerprint(models: ModelBundle, tiny: nn.Module | None = None) -> str:
    """A short hash that tells models apart: configuration and the beginning of every weight.

    tiny: Eq. 7's decoder; its own hash follows after a "+".
    """
    # Without what diffusers adds of its own: the folder it was loaded from and its version do not make a model.
    config = {name: value for name, value in models.unet.config.items() if not name.startswith("_")}
    digest = _digest(json.dumps(config, sort_keys=True, default=str), models.networks)
    return digest if tiny is None else f"{digest}+{_digest('', [tiny])}"


def is_of(stored: str, models: ModelBundle) -> bool:
    """Whether a stored fingerprint is of these models, whatever decoder Eq. 7 had."""
    return stored.partition("+")[0] == fingerprint(models)


def _digest(beginning: str, networks: Iterable[nn.Module]) -> str:
    digest = hashlib.sha256(beginning.encode())
    for network in networks:
        # In bf16, so that the same model in another precision is the same model.
        heads = [p.detach().flatten()[:64].to(torch.bfloat16).float().cpu() for p in network.parameters()]
        digest.update(torch.cat(heads).numpy().tobytes())
    return digest.hexdigest()[:16]
