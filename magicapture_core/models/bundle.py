"""A loaded model, and the sampler it draws with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch

from magicapture_core.config import Framing
from magicapture_core.models.words import Words
from magicapture_core.problems import Problem


@dataclass
class ModelBundle:
    """A diffusion model, frozen, on its device."""

    name: str
    """What `load` takes, from any folder: "mini", an absolute path or a hub id."""
    source: str
    """Folder or file the weights came from."""
    tokenizer: Any
    text_encoder: Any
    unet: Any
    vae: Any
    noise_scheduler: Any
    """A DDPMScheduler with the model's own noise schedule and prediction type."""
    safety_checker: Any | None
    feature_extractor: Any | None
    device: torch.device
    dtype: torch.dtype
    """Of the frozen weights."""
    schedules: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """TrainConfig overrides by name ("quick"), from `magicapture.json` beside the weights."""
    generate_defaults: Mapping[str, Any] = field(default_factory=dict)
    """GenerateConfig overrides that suit this model, from the same file."""
    framing: Framing = "photo"
    """How its training pictures were framed: as `prepare_concept` takes it."""
    words: Words | None = None
    """What makes words of photos, where the model brings it."""

    @property
    def vae_scale_factor(self) -> int:
        """Pixels per latent cell, along each side."""
        return 2 ** (len(self.vae.config.block_out_channels) - 1)

    @property
    def resolution(self) -> int:
        """Side of the square pictures the model was made for, in pixels."""
        return int(self.unet.config.sample_size) * self.vae_scale_factor

    @property
    def prediction_type(self) -> Literal["epsilon", "v_prediction"]:
        """What the UNet predicts."""
        predicts: Literal["epsilon", "v_prediction"] = self.noise_scheduler.config.prediction_type
        return predicts

    def pipeline(self, scheduler: str = "euler_ancestral") -> Any:
        """A StableDiffusionPipeline that shares these modules.

        scheduler: "euler_ancestral", "dpm++", "unipc" or "ddim"; Problem on any other.
        """
        from diffusers import StableDiffusionPipeline

        pipeline = StableDiffusionPipeline(
            vae=self.vae,
            text_encoder=self.text_encoder,
            tokenizer=self.tokenizer,
            unet=self.unet,
            scheduler=sampler(scheduler, self.noise_scheduler.config),
            safety_checker=self.safety_checker,
            feature_extractor=self.feature_extractor,
            requires_safety_checker=self.safety_checker is not None,
        )
        pipeline.set_progress_bar_config(disable=True)
        return pipeline


def sampler(name: str, noise_config: Mapping[str, Any]) -> Any:
    """The diffusers scheduler called `name`, on the noise schedule of `noise_config`."""
    import diffusers

    samplers: dict[str, tuple[Any, dict[str, Any]]] = {
        "euler_ancestral": (diffusers.EulerAncestralDiscreteScheduler, {}),
        "dpm++": (diffusers.DPMSolverMultistepScheduler, {"use_karras_sigmas": True}),
        "unipc": (diffusers.UniPCMultistepScheduler, {}),
        "ddim": (diffusers.DDIMScheduler, {"set_alpha_to_one": False}),
    }
    if name not in samplers:
        raise Problem(f"scheduler must be one of {', '.join(samplers)}, got {name!r}.")
    scheduler_class, options = samplers[name]
    return scheduler_class.from_config(noise_config, **options)
