"""Stable Diffusion 1.x and 2.x: one text encoder (CLIP or OpenCLIP), a UNet that reads its last hidden states."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from magicapture_core.models.bundle import Drawn, ModelBundle, sampler
from magicapture_core.models.conditioning import Conditioning
from magicapture_core.models.placeholders import learned_embeddings
from magicapture_core.models.precision import draw_in_float32

BASE_VERSIONS = {768: "sd_v1", 1024: "sd_v2"}
"""kohya's names of the base models, by the width of their text encoders."""


@dataclass(kw_only=True)
class StableDiffusion(ModelBundle):
    """A Stable Diffusion 1.x or 2.x."""

    family: ClassVar[str] = "stable-diffusion"
    tiny_decoder: ClassVar[str] = "taesd"
    pipeline_class: ClassVar[str] = "StableDiffusionPipeline"

    text_encoder: Any

    @classmethod
    def parts_of(cls, pipeline: Any, name: str) -> dict[str, Any]:  # noqa: ARG003
        """See `ModelBundle.parts_of`."""
        return {"text_encoder": pipeline.text_encoder}

    @property
    def text_encoders(self) -> dict[str, Any]:
        """The one."""
        return {"text_encoder": self.text_encoder}

    def encode(
        self, input_ids: Tensor, token_ids: tuple[int, int] | None = None, embeddings: Tensor | None = None
    ) -> Conditioning:
        """See `ModelBundle.encode`."""
        with ExitStack() as stack:
            if token_ids is not None and embeddings is not None:
                placed = embeddings.to(self.device)
                stack.enter_context(learned_embeddings(self.text_encoder, token_ids, placed))
            return Conditioning(self.text_encoder(input_ids.to(self.device))[0])

    def predict(self, noisy_latents: Tensor, timesteps: Tensor, conditioning: Conditioning) -> Tensor:
        """See `ModelBundle.predict`."""
        hidden_states = conditioning.encoder_hidden_states.to(self.dtype)
        prediction: Tensor = self.unet(
            noisy_latents.to(self.dtype), timesteps, encoder_hidden_states=hidden_states
        ).sample
        return prediction.float()

    def pipeline(self, scheduler: str = "euler_ancestral") -> Any:
        """See `ModelBundle.pipeline`."""
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
        return pipeline if self.drawing_dtype == self.dtype else draw_in_float32(pipeline)

    def prompt_arguments(self, prompt: Conditioning, negative: Conditioning | None) -> dict[str, Tensor]:
        """See `ModelBundle.prompt_arguments`."""
        arguments = {"prompt_embeds": prompt.encoder_hidden_states}
        if negative is not None:
            arguments["negative_prompt_embeds"] = negative.encoder_hidden_states
        return arguments

    def draw(
        self, pipeline: Any, prompt: Conditioning, negative: Conditioning | None, **options: Any
    ) -> Drawn:
        """See `ModelBundle.draw`."""
        output = pipeline(**self.prompt_arguments(prompt, negative), **options)
        return Drawn(output.images, output.nsfw_content_detected or [False] * len(output.images))

    @classmethod
    def embedding_names(cls, token: str) -> tuple[str, ...]:
        """See `ModelBundle.embedding_names`: the token, as diffusers' `load_textual_inversion` expects it."""
        return (token,)

    @classmethod
    def shared_embedding(cls, rows: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """See `ModelBundle.shared_embedding`."""
        (row,) = rows.values()
        return {"emb_params": row.float().reshape(1, -1).contiguous()}

    @classmethod
    def how_to_load_words(cls, folder: str) -> dict[str, str]:
        """See `ModelBundle.how_to_load_words`."""
        lines = [
            f'pipe.load_textual_inversion("{folder}", weight_name="{word}.safetensors", token="<{word}>")\n'
            for word in ("subject", "style")
        ]
        return {"imports": "", "load_words": "".join(lines)}

    @classmethod
    def kohya_name(cls, network: str, module: str) -> str | None:
        """See `ModelBundle.kohya_name`."""
        prefix = {"unet": "lora_unet", "text_encoder": "lora_te"}.get(network)
        return f"{prefix}_{module.replace('.', '_')}" if prefix else None

    @classmethod
    def kohya_metadata(cls, width: int) -> dict[str, str]:
        """See `ModelBundle.kohya_metadata`."""
        if width not in BASE_VERSIONS:
            return {}
        return {"ss_base_model_version": BASE_VERSIONS[width], "ss_v2": str(width == 1024)}
