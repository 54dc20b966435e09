"""A loaded model of any family, and the sampler that it generates with.

A family is a kind of model that is called in its own way. Training, generation and evaluation call every model through
`ModelBundle` and never ask for its family; a new family is a subclass (`stable_diffusion.py` is the first) and an entry
in `families.py`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from magicapture_core.attention import nearest_side
from magicapture_core.config import Framing, TrainConfig
from magicapture_core.models.conditioning import Conditioning
from magicapture_core.models.kernels import Kernels
from magicapture_core.models.placeholders import initial_embeddings
from magicapture_core.models.words import Words
from magicapture_core.problems import Problem


@dataclass(kw_only=True)
class ModelBundle(ABC):
    """A diffusion model, frozen, on its device."""

    # --- of the family, known without loading a model ---------------------------------------------
    family: ClassVar[str]
    """Name in run folders."""
    half_decodes: ClassVar[bool] = True
    """Whether the decoder keeps its quality in half precision, so that Eq. 7 may use it so."""
    pipeline_class: ClassVar[str]
    """diffusers' class for text to image."""
    kohya_prefixes: ClassVar[Mapping[str, str]]
    """Name of an adapted network in a diffusers LoRA file -> its prefix in kohya's key names."""

    # --- of this model ----------------------------------------------------------------------------
    name: str
    """What `load` takes, from any folder: "mini", an absolute path or a hub id."""
    source: str
    """Folder or file the weights came from."""
    tokenizer: Any
    unet: Any
    vae: Any
    """In the precision that the family's needs; on a CUDA GPU in float32, whatever the UNet computes in."""
    noise_scheduler: Any
    """A DDPMScheduler with the model's own noise schedule and prediction type."""
    device: torch.device
    dtype: torch.dtype
    """Of the frozen weights."""
    safety_checker: Any | None = None
    feature_extractor: Any | None = None
    schedules: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """TrainConfig overrides by name ("quick"), from `magicapture.json` beside the weights."""
    generate_defaults: Mapping[str, Any] = field(default_factory=dict)
    """GenerateConfig overrides that suit this model, from the same file."""
    framing: Framing = "photo"
    """How its training pictures were framed: as `prepare_concept` takes it."""
    vocabulary: frozenset[str] = frozenset()
    """Every word of the captions that it was trained with, in small letters; empty: too many to be listed."""
    words: Words | None = None
    """What makes words of photos, where the model brings it."""
    kernels: Kernels = field(default_factory=Kernels)
    """How it computes. Change it by `Kernels.apply`."""

    # --- what a family says -----------------------------------------------------------------------

    @property
    @abstractmethod
    def text_encoders(self) -> dict[str, Any]:
        """The text encoders by their names in diffusers' pipeline."""

    @abstractmethod
    def encode(
        self, input_ids: Tensor, token_ids: tuple[int, int] | None = None, embeddings: Tensor | None = None
    ) -> Conditioning:
        """Encode prompts, (b, tokens) ids of `tokenizer` on any device.

        token_ids, embeddings: ids of the placeholder tokens and what they are read as, (2, `embedding_width`); the
        gradient goes through. None: the prompts hold no placeholders.
        """

    @abstractmethod
    def predict(self, noisy_latents: Tensor, timesteps: Tensor, conditioning: Conditioning) -> Tensor:
        """The network's prediction, see `prediction_type`. noisy_latents: (b, c, h, w); timesteps: (b,). float32."""

    @abstractmethod
    def pipeline(self, scheduler: str = "euler_ancestral") -> Any:
        """diffusers' pipeline for text to image, which shares these modules.

        scheduler: "euler_ancestral", "dpm++", "unipc" or "ddim"; Problem on any other.
        """

    @abstractmethod
    def prompt_arguments(self, prompt: Conditioning, negative: Conditioning | None) -> dict[str, Tensor]:
        """How the pipeline's call takes encoded prompts."""

    @classmethod
    @abstractmethod
    def kohya_metadata(cls, width: int) -> dict[str, str]:
        """What kohya's files say of the base model. width: of its learned embeddings. Empty where it is unknown."""

    # --- what is the same for all of them so far ----------------------------------------------------

    @property
    def networks(self) -> list[Any]:
        """All that has weights, but for the safety checker."""
        return [self.unet, self.vae, *self.text_encoders.values()]

    @property
    def embedding_widths(self) -> list[int]:
        """Numbers in a token's embedding, for each text encoder."""
        return [each.get_input_embeddings().weight.shape[1] for each in self.text_encoders.values()]

    @property
    def embedding_width(self) -> int:
        """Numbers that are learned for a token: of all text encoders, one after the other."""
        return sum(self.embedding_widths)

    def initial_embeddings(self, config: TrainConfig, generator: torch.Generator) -> Tensor:
        """Where the paper lets both tokens start: (2, `embedding_width`) float32 on the CPU."""
        parts = [
            initial_embeddings(self.tokenizer, text_encoder, config, generator)
            for text_encoder in self.text_encoders.values()
        ]
        return torch.cat(parts, dim=1)

    def listened_side(self, latent_side: int, config: TrainConfig) -> int:
        """Side of the cross-attention maps of Eq. 8, for square latents."""
        return config.attention_resolution or nearest_side(self.unet, latent_side, config.attention_side)

    def encode_pictures(self, pictures: Tensor) -> Tensor:
        """E: (b, 3, h, w) in [-1, 1] → latents (b, c, h, w), scaled; the posterior's mean, float32."""
        posterior = self.vae.encode(pictures.to(self.device, self.vae.dtype)).latent_dist
        latents: Tensor = posterior.mean.float() * self.vae.config.scaling_factor
        return latents

    def decode(self, latents: Tensor) -> Tensor:
        """D: scaled latents (b, c, h, w) → pictures (b, 3, h, w) in about [-1, 1]; the gradient goes through."""
        pictures: Tensor = self.vae.decode(
            (latents / self.vae.config.scaling_factor).to(self.vae.dtype)
        ).sample
        return pictures

    @property
    def vae_scale_factor(self) -> int:
        """Pixels per latent cell, along each side."""
        return 2 ** (len(self.vae.config.block_out_channels) - 1)

    @property
    def resolution(self) -> int:
        """Side of the square pictures the model was made for, in pixels."""
        return int(self.unet.config.sample_size) * self.vae_scale_factor

    @property
    def resolution_multiple(self) -> int:
        """Pixels by which a side must be divisible: a halving that is not even breaks the UNet's skip connections."""
        return self.vae_scale_factor * 2 ** (len(self.unet.config.block_out_channels) - 1)

    @property
    def prediction_type(self) -> Literal["epsilon", "v_prediction"]:
        """What the network predicts."""
        predicts: Literal["epsilon", "v_prediction"] = self.noise_scheduler.config.prediction_type
        return predicts


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
