"""Models of the Hugging Face hub: from the local cache, or downloaded."""

from __future__ import annotations

import errno
import itertools
from pathlib import Path
from typing import Any

import torch

from magicapture_core.languages import N_, _
from magicapture_core.models.files import WEIGHT_NAMES, weight_variant
from magicapture_core.models.words import FILE as WORDS_FILE
from magicapture_core.problems import MissingFiles, Problem
from magicapture_core.progress import Progress

HUB_ID = "stable-diffusion-v1-5/stable-diffusion-v1-5"
"""The paper's model."""
SDXL_ID = "stabilityai/stable-diffusion-xl-base-1.0"
"""What Stable Diffusion XL's descendants come from."""
HUB_SIZE = N_(
    "Stable Diffusion 1.5 is about 4.3 GB, 2.1 GB in half precision; XL is 13.9 GB, 6.9 GB in half precision"
)


def from_hub(hub_id: str, dtype: torch.dtype, progress: Progress | None) -> Path:
    """The snapshot folder of a hub id: from the cache if it is complete there, else downloaded.

    progress: called with bytes; a StoppedError that it raises ends the download.
    """
    import huggingface_hub
    from huggingface_hub import constants

    constants.HF_HUB_DISABLE_TELEMETRY = True
    # The hub's folders have the same weights in several formats; for half precision the fp16 files are enough.
    variants = ("", ".fp16") if dtype == torch.float32 else (".fp16", "")
    reason: Exception = MissingFiles("nothing was tried")
    for offline, variant in itertools.product((True, False), variants):
        weights = [
            f"{part}/{name}" for part, stem in WEIGHT_NAMES.items() for name in _patterns(stem, variant)
        ]
        small = ["model_index.json", "magicapture.json", WORDS_FILE, "*/*.json", "*/*.txt"]
        try:
            folder = Path(
                huggingface_hub.snapshot_download(
                    hub_id,
                    allow_patterns=[*small, *weights],
                    local_files_only=offline,
                    tqdm_class=None if progress is None else _telling(progress),
                )
            )
            weight_variant(folder)
        except (OSError, ValueError) as error:
            if isinstance(error, OSError) and error.errno == errno.ENOSPC:
                raise Problem(
                    _(
                        "There is no room on the disk for {model} ({size}); the hub's cache is {cache}. Make room and "
                        "try again: what has arrived is kept.",
                        model=hub_id,
                        size=_(HUB_SIZE),
                        cache=constants.HF_HUB_CACHE,
                    )
                ) from error
            reason = error
        else:
            return folder
    raise MissingFiles(
        _(
            "The model {model} is not on this computer (neither as a folder nor in the hub's cache), and it could not "
            "be downloaded from the Hugging Face hub ({reason}). {size}. Go online once, or copy the model's diffusers "
            "folder (or its .safetensors file) here and give its path as the model. The cache is {cache}.",
            model=hub_id,
            reason=first_line(reason),
            size=_(HUB_SIZE),
            cache=constants.HF_HUB_CACHE,
        )
    )


def _patterns(stem: str, variant: str) -> list[str]:
    """Names of a part's weights: in one file or in several, whose number stands before or after the variant."""
    shards = [f"{stem}{variant}-*-of-?????.safetensors", f"{stem}-*-of-?????{variant}.safetensors"]
    return [f"{stem}{variant}.safetensors", *dict.fromkeys(shards)]


def _telling(progress: Progress) -> Any:
    """A tqdm class for the hub's library that draws nothing and calls `progress` with the bytes.

    The library shows one bar for all files or one for each file, depending on its version. The largest number of bytes
    of all bars is reported.
    """
    from tqdm.auto import tqdm

    most = 0

    class Telling(tqdm):  # type: ignore[misc]
        def display(self, *_: Any, **__: Any) -> None:
            """Nothing is drawn."""

        def update(self, n: float | None = 1) -> bool | None:
            nonlocal most
            moved = super().update(n)
            if self.unit == "B" and self.n > most:
                most = int(self.n)
                progress("Downloading the model", most, int(self.total) if self.total else None)
            return moved

    return Telling


def first_line(error: Exception) -> str:
    """The first line of the error, without a full stop."""
    return f"{type(error).__name__}: {error}".partition("\n")[0].rstrip(".: ")
