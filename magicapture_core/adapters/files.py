"""An adapter's files in a folder: a run's adapter/, a checkpoint, an export. Without torch, for a quick first page."""

from __future__ import annotations

import shutil
from pathlib import Path

from magicapture_core.files import atomic_file

FOLDER = "adapter"
"""In a run folder."""
LORA_FILE = "pytorch_lora_weights.safetensors"
"""As diffusers' `load_lora_weights` expects it."""
UNET_FILE = "unet.safetensors"
"""Weights of the UNet itself, by their names in it: what other methods than the paper's train."""
EMBEDDING_FILES = {"<subject>": "subject.safetensors", "<style>": "style.safetensors"}
"""One token a file, as diffusers' `load_textual_inversion` expects it."""
ADAPTER_FILES = (LORA_FILE, *EMBEDDING_FILES.values(), UNET_FILE)


def missing_embeddings(folder: Path) -> list[str]:
    """Names of the embeddings' files that are not in the folder yet."""
    return [name for name in EMBEDDING_FILES.values() if not (folder / name).is_file()]


def has_embeddings(folder: Path) -> bool:
    """Whether the embeddings of both tokens are there, as they are from the first checkpoint on."""
    return not missing_embeddings(folder)


def has_lora(folder: Path) -> bool:
    """Whether LoRA weights are there."""
    return (folder / LORA_FILE).is_file()


def has_unet_weights(folder: Path) -> bool:
    """Whether weights of the UNet itself are there."""
    return (folder / UNET_FILE).is_file()


def has_weights(folder: Path) -> bool:
    """Whether anything beside the embeddings is there: a training that ended in its first phase has nothing."""
    return has_lora(folder) or has_unet_weights(folder)


def copy_adapter(source: Path, target: Path) -> list[Path]:
    """Copy the adapter's files, as many as there are yet, into another folder. Returns the copies."""
    names = [name for name in ADAPTER_FILES if (source / name).exists()]
    for name in names:
        with atomic_file(target / name) as path:
            shutil.copyfile(source / name, path)
    return [target / name for name in names]
