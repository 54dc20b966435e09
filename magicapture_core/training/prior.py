"""DreamBooth's prior preservation: what the untrained model draws of any person, which it must go on to draw."""

from __future__ import annotations

import torch
from accelerate import PartialState
from safetensors.torch import load_file, save_file
from torch import Tensor

from magicapture_core.checkpoints import Run
from magicapture_core.config import GenerateConfig, from_dict
from magicapture_core.files import atomic_file
from magicapture_core.prompts import templates
from magicapture_core.training.data import Encoded
from magicapture_core.training.objective import Objective

PRIOR_FILE = "prior.safetensors"
PER_CALL = 4
"""Pictures drawn together; each has its own seed, so that this decides nothing."""


def prior_pictures(run: Run, objective: Objective, processes: PartialState) -> Encoded:
    """The class pictures as latents, from the run folder or else made now, before anything is trained.

    One process makes them and all read the file, so that every process trains on the same.
    """
    path = run.folder / PRIOR_FILE
    if processes.is_main_process and not path.exists():
        drawn = _draw(objective)
        with atomic_file(path) as temporary:
            save_file({"latents": drawn}, temporary)
    processes.wait_for_everyone()
    latents = load_file(path)["latents"].to(objective.models.device)
    nowhere = torch.zeros(len(latents), 1, *latents.shape[-2:], device=latents.device)
    return Encoded(latents, nowhere, torch.full((len(latents), 5, 2), float("nan")), ())


@torch.no_grad()
def _draw(objective: Objective) -> Tensor:
    """(n, c, h, w) latents of "a photo of a person", by the model's own sampler settings, on the CPU in fp32."""
    models, config = objective.models, objective.config
    settings = from_dict(GenerateConfig, dict(models.generate_defaults))
    prompts = templates("prior", objective.texts.noun)
    objective.store.positions = None
    pipeline, latents = models.pipeline(), []
    for start in range(0, config.prior_pictures, PER_CALL):
        numbers = range(start, min(start + PER_CALL, config.prior_pictures))
        embeds = objective.texts.encode(
            objective.texts.tokenize([prompts[n % len(prompts)] for n in numbers])
        )
        nothing = objective.texts.encode(objective.texts.tokenize([""] * len(numbers)))
        output = pipeline(
            prompt_embeds=embeds.to(models.dtype),
            negative_prompt_embeds=nothing.to(models.dtype),
            num_inference_steps=settings.steps,
            guidance_scale=settings.guidance_scale,
            width=config.resolution,
            height=config.resolution,
            generator=[torch.Generator().manual_seed(config.seed + n) for n in numbers],
            output_type="latent",
        )
        latents.append(output.images.float().cpu())
    return torch.cat(latents)
