"""The safety checker of Stable Diffusion for families whose pipelines have none."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from PIL import Image

from magicapture_core.languages import _
from magicapture_core.models.bundle import Drawn
from magicapture_core.models.hub import first_line
from magicapture_core.problems import Problem, ran_out_of_memory
from magicapture_core.weights import weights_dir

FOLDER = "safety_checker"
"""In `weights_dir()`: the folder of that name of Stable Diffusion 1.5, with the preprocessor_config.json of its
feature_extractor."""


def local_checker(dtype: torch.dtype) -> tuple[Any, Any]:
    """The checker and what prepares pictures for it; (None, None) where they are not on this computer.

    Raises Problem for files that cannot be read.
    """
    folder = weights_dir() / FOLDER
    if not (folder / "config.json").is_file():
        return None, None
    from diffusers.pipelines.stable_diffusion import StableDiffusionSafetyChecker
    from transformers import CLIPImageProcessor

    try:
        checker = StableDiffusionSafetyChecker.from_pretrained(
            folder, dtype=dtype, use_safetensors=True, local_files_only=True
        )
        return checker, CLIPImageProcessor.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # the libraries raise all kinds for damaged files, even the bare class
        if ran_out_of_memory(error):
            raise
        raise Problem(
            _(
                "The safety checker in {folder} cannot be read ({reason}). Copy it again, or remove the folder.",
                folder=folder,
                reason=first_line(error),
            )
        ) from error


@torch.no_grad()
def black_out(images: list[Image.Image], checker: Any | None, extractor: Any | None) -> Drawn:
    """The pictures, those that the checker finds unsafe in black."""
    if checker is None or extractor is None:
        return Drawn(images, [False] * len(images))
    weight = next(checker.parameters())
    prepared = extractor(images, return_tensors="pt").pixel_values.to(weight.device, weight.dtype)
    _, unsafe = checker(clip_input=prepared, images=[np.asarray(each) for each in images])
    shown = [
        Image.new("RGB", image.size) if found else image for image, found in zip(images, unsafe, strict=True)
    ]
    return Drawn(shown, [bool(found) for found in unsafe])
