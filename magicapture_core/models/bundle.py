"""A loaded model of any family, and the sampler that it generates with.

A family is a kind of model that is called in its own way. Training, generation and evaluation call every model through
`ModelBundle` and never ask for its family; a new family is a subclass (`stable_diffusion.py` is the first) and an entry
in `families.py`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple

import torch
from torch import Tensor

from magicapture_core.attention import nearest_side
from magicapture_core.config import Framing, TrainConfig
from magicapture_core.languages import _
from magicapture_core.models.conditioning import Conditioning
from magicapture_core.models.kernels import Kernels
from magicapture_core.models.placeholders import initial_embeddings
from magicapture_core.models.words import Words
from magicapture_core.problems import Problem

if TYPE_CHECKING:
    from PIL import Image


FULL_SIZE = 1024


class Drawn(NamedTuple):
    """Generated pictures."""

    images: list[Image.Image]
    unsafe: list[bool]
    """Which of them the safety checker blacked out; all False where there is none."""


@dataclass(kw_only=True)
class ModelBundle(ABC):
    """A diffusion model, frozen, on its device."""

    # --- of the family, known without loading a model ---------------------------------------------
    family: ClassVar[str]
    """Name in run folders."""
    tiny_decoder: ClassVar[str]
    """Name of its tiny decoder (TAESD), which is a folder's in `weights_dir()` and a repository's on the hub."""
    pipeline_class: ClassVar[str]
    """diffusers' class for text to image."""
    sizes: ClassVar[tuple[tuple[int, int], ...]] = ()
    """(width, height) of pictures that suit the family's models of FULL_SIZE pixels; empty: any size will do."""

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
    strength_with: Mapping[str, float] = field(default_factory=dict)
    """Word -> share of `adapter_scale`, 0 to 1, at which a run is used for a prompt that has the word: at its whole
    strength the picture would not show it. From the same file."""
    words: Words | None = None
    """What makes words of photos, where the model brings it."""
    kernels: Kernels = field(default_factory=Kernels)
    """How it computes. Change it by `Kernels.apply`."""

    @property
    def drawing_dtype(self) -> torch.dtype:
        """Of the latents between denoising steps: the UNet's, or float32 where the autoencoder has that."""
        return torch.float32 if self.vae.dtype != self.dtype else self.dtype

    # --- what a family says -----------------------------------------------------------------------

    @property
    def half_decodes(self) -> bool:
        """Whether the decoder can be used in `dtype`, where that is half precision, for Eq. 7."""
        return True

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

    def framed(self, conditioning: Conditioning, cuts: Tensor) -> Conditioning:  # noqa: ARG002
        """The prompts with what the network is told of the photos that the pictures were cut from.

        cuts: (b, 4), each of `concepts.Cut.told`. A family whose network takes nothing of it returns `conditioning`.
        """
        return conditioning

    @abstractmethod
    def predict(self, noisy_latents: Tensor, timesteps: Tensor, conditioning: Conditioning) -> Tensor:
        """The network's prediction, see `prediction_type`. noisy_latents: (b, c, h, w); timesteps: (b,). float32."""

    @abstractmethod
    def pipeline(self, scheduler: str = "euler_ancestral") -> Any:
        """diffusers' pipeline for text to image, which shares these modules.

        scheduler: one of `config.Scheduler`; Problem on any other.
        """

    @abstractmethod
    def prompt_arguments(self, prompt: Conditioning, negative: Conditioning | None) -> dict[str, Tensor]:
        """How the pipeline's call takes encoded prompts."""

    @abstractmethod
    def draw(
        self, pipeline: Any, prompt: Conditioning, negative: Conditioning | None, **options: Any
    ) -> Drawn:
        """Pictures by `pipeline`, which is one of this model's. options: of its call, without output_type."""

    def drawn_side(self, trained: int) -> int:
        """Side in pixels of the pictures that suit an adapter trained at `trained` pixels."""
        return trained

    @classmethod
    @abstractmethod
    def parts_of(cls, pipeline: Any, name: str) -> dict[str, Any]:
        """What of a loaded pipeline only this family has, by the names of its fields.

        name: of the model, for messages. Raises Problem for parts that do not belong together.
        """

    @classmethod
    @abstractmethod
    def embedding_names(cls, token: str) -> tuple[str, ...]:
        """Names of the parts of a token's learned embedding in its file, one for each text encoder."""

    @classmethod
    @abstractmethod
    def shared_embedding(cls, rows: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The content of an embedding's file for A1111, Forge and ComfyUI. rows: by `embedding_names`."""

    @classmethod
    @abstractmethod
    def how_to_load_words(cls, folder: str) -> dict[str, str]:
        """Lines of Python that load an adapter's embeddings from `folder` into diffusers' pipeline `pipe`.

        "imports": what they need beside diffusers, "load_words": the lines. Each ends its last line.
        """

    @classmethod
    @abstractmethod
    def kohya_name(cls, network: str, module: str) -> str | None:
        """kohya's name of an adapted module; None for a network that the family does not have.

        network: its name in a diffusers LoRA file ("unet", "text_encoder", …). module: its path in the network, a text
        encoder's beginning with "text_model.".
        """

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

    def embedding_parts(self, token: str) -> dict[str, int]:
        """Names of the parts of a token's learned embedding in its file, with their widths."""
        return dict(zip(self.embedding_names(token), self.embedding_widths, strict=True))

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

    def unet_share(self, recomputed: str) -> float:  # noqa: ARG002
        """How much the UNet keeps of an item for its backward pass, by what Stable Diffusion 1.5's keeps of latents of
        the same size. recomputed: which parts are computed again ("nothing", "largest", "all")."""
        return sum(parameter.numel() for parameter in self.unet.parameters()) / 860e6

    @property
    def resolution(self) -> int:
        """Side of the square pictures the model was made for, in pixels."""
        return int(self.unet.config.sample_size) * self.vae_scale_factor

    def suiting_sizes(self) -> list[tuple[int, int]]:
        """`sizes` for this model's own resolution."""
        scale, multiple = self.resolution / FULL_SIZE, self.resolution_multiple
        return [
            (round(width * scale / multiple) * multiple, round(height * scale / multiple) * multiple)
            for width, height in self.sizes
        ]

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
        "euler_trailing": (diffusers.EulerDiscreteScheduler, {"timestep_spacing": "trailing"}),
        "lcm": (diffusers.LCMScheduler, {}),
    }
    if name not in samplers:
        raise Problem(
            _("scheduler must be one of {known}, got {got!r}.", known=", ".join(samplers), got=name)
        )
    scheduler_class, options = samplers[name]
    return scheduler_class.from_config(noise_config, **options)
