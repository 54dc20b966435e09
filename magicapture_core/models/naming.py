"""How a model is named in what is shared: never by a path of this machine."""

from __future__ import annotations

from pathlib import Path


def model_title(model: str) -> str:
    """A hub id as it is; of a path the name alone: a folder means nothing elsewhere, and may name its owner."""
    path = Path(model)
    return path.name if path.is_absolute() or path.exists() else model


def how_to_load(model: str) -> str:
    """How a diffusers pipeline loads the base model: the call, without the class."""
    if model == "mini":
        return 'from_pretrained("assets/mini")  # the folder in MagiCapture\'s source'
    name = model_title(model)
    if Path(model).suffix == ".safetensors":
        return f'from_single_file("/path/to/{name}")  # where your copy of this model is'
    return f'from_pretrained("{model}")' if name == model else (
        f'from_pretrained("/path/to/{name}")  # where your copy of this model is'
    )  # fmt: skip
