"""The learned embeddings of the two placeholder tokens, as files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from magicapture_core.adapters.files import EMBEDDING_FILES
from magicapture_core.files import read_tensors
from magicapture_core.languages import _
from magicapture_core.models import ModelBundle
from magicapture_core.problems import RunProblem


def save_embeddings(models: ModelBundle, embeddings: Tensor, folder: Path) -> None:
    """Write the embeddings of both tokens (2, width), each in parts for the model's text encoders."""
    for (token, name), row in zip(EMBEDDING_FILES.items(), embeddings.detach().cpu(), strict=True):
        parts = models.embedding_parts(token)
        shape = (-1,) if len(parts) == 1 else (1, -1)
        cut = row.split(list(parts.values()))
        tensors = {part: each.clone().reshape(shape) for part, each in zip(parts, cut, strict=True)}
        save_file(tensors, folder / name)


def read_embeddings(models: ModelBundle, folder: Path) -> Tensor:
    """(2, width) float32 embeddings of both tokens. Raises RunProblem if they are not there or do not fit."""
    rows = []
    for token, name in EMBEDDING_FILES.items():
        path = folder / name
        if not path.exists():
            raise RunProblem(
                _(
                    "{folder} has no {name} yet: it was not trained. Train it first.",
                    folder=folder.parent,
                    name=name,
                )
            )
        tensors, parts = read_tensors(path), models.embedding_parts(token)
        found = {part: tensor.numel() for part, tensor in tensors.items()}
        if found != parts:
            raise RunProblem(
                _(
                    "{path} holds {found} numbers, but this model's words have {wanted}: the run was trained on a "
                    "model of another kind. Use that one.",
                    path=path,
                    found=_listed(found),
                    wanted=_listed(parts),
                )
            )
        rows.append(torch.cat([tensors[part].flatten().float() for part in parts]))
    return torch.stack(rows)


def _listed(widths: Mapping[str, int]) -> str:
    listed = ""
    for part, width in widths.items():
        each = f"{width} ({part})"
        listed = _("{first} and {second}", first=listed, second=each) if listed else each
    return listed or _("no")
