"""Class pictures for prior preservation (DreamBooth): what the untrained model generates for "a photo of a person"."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from accelerate import PartialState
from safetensors.torch import load_file, save_file
from torch import Tensor

from magicapture_core.config import GenerateConfig, TrainConfig, from_dict
from magicapture_core.files import atomic_file
from magicapture_core.models import ModelBundle
from magicapture_core.prompts import templates

FILE = "prior.safetensors"
PER_CALL = 4
"""Pictures generated together; each has its own seed, so that this decides nothing."""


def class_latents(models: ModelBundle, config: TrainConfig) -> Callable[[Path], Tensor]:
    """What `train` takes as `class_latents`: it keeps the pictures' latents in the run folder, for resuming.

    One process generates them and all read the file, so that every process trains on the same.
    """

    def of_run(folder: Path) -> Tensor:
        processes = PartialState(cpu=models.device.type == "cpu")
        path = folder / FILE
        if processes.is_main_process and not path.exists():
            generated = _generated(models, config)
            with atomic_file(path) as temporary:
                save_file({"latents": generated}, temporary)
        processes.wait_for_everyone()
        return load_file(path)["latents"]

    return of_run


@torch.no_grad()
def _generated(models: ModelBundle, config: TrainConfig) -> Tensor:
    """(n, c, h, w) latents, by the model's own sampler settings, on the CPU in fp32."""
    settings = from_dict(GenerateConfig, dict(models.generate_defaults))
    prompts = templates("prior", config.noun)
    pipeline, latents = models.pipeline(), []
    for start in range(0, config.prior_pictures, PER_CALL):
        numbers = range(start, min(start + PER_CALL, config.prior_pictures))
        asked = [prompts[n % len(prompts)] for n in numbers]
        prompt, nothing = (
            models.encode(_ids(models, each)).to(models.dtype) for each in (asked, [""] * len(numbers))
        )
        output = pipeline(
            **models.prompt_arguments(prompt, nothing),
            num_inference_steps=settings.steps,
            guidance_scale=settings.guidance_scale,
            width=config.resolution,
            height=config.resolution,
            generator=[torch.Generator().manual_seed(config.seed + n) for n in numbers],
            output_type="latent",
        )
        latents.append(output.images.float().cpu())
    return torch.cat(latents)


def _ids(models: ModelBundle, prompts: list[str]) -> Tensor:
    tokenizer = models.tokenizer
    ids: Tensor = tokenizer(
        prompts,
        padding="max_length",
        max_length=tokenizer.model_max_length,
        truncation=True,
        return_tensors="pt",
    ).input_ids
    return ids
