"""The learned embeddings of the two placeholder tokens, as files."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from magicapture_core.adapters.files import EMBEDDING_FILES
from magicapture_core.files import read_tensors
from magicapture_core.problems import RunProblem


def save_embeddings(embeddings: Tensor, folder: Path) -> None:
    """Write the embeddings of both tokens (2, width)."""
    for (token, name), row in zip(EMBEDDING_FILES.items(), embeddings.detach().cpu(), strict=True):
        save_file({token: row.clone().contiguous()}, folder / name)


def read_embeddings(folder: Path, width: int) -> Tensor:
    """(2, width) float32 embeddings of both tokens. Raises RunProblem if they are not there or do not fit."""
    rows = []
    for token, name in EMBEDDING_FILES.items():
        path = folder / name
        if not path.exists():
            raise RunProblem(f"{folder.parent} has no {name} yet: it was not trained. Train it first.")
        try:
            row = read_tensors(path)[token]
        except KeyError as error:
            raise RunProblem(f"{path} does not hold {error}. Train the run again.") from error
        if row.shape != (width,):
            raise RunProblem(
                f"{path} holds {tuple(row.shape)} numbers, but this model's words have {width}: the run was "
                "trained on a model of another kind. Use that one."
            )
        rows.append(row.float())
    return torch.stack(rows)
