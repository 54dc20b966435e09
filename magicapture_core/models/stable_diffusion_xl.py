"""Stable Diffusion XL: two text encoders (CLIP-L and OpenCLIP-bigG), a UNet that is also told the picture's frame.

Read at 77 tokens by both text encoders: the penultimate hidden states, side by side. Beside them the UNet takes the
second encoder's projected embedding of the whole prompt, and six numbers: the size of the photo that a picture comes
from, the corner at which it was cut out, and its own size (SDXL, arXiv 2307.01952, section 2.2).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from magicapture_core.languages import _
from magicapture_core.models.bundle import Drawn, ModelBundle, sampler
from magicapture_core.models.conditioning import Conditioning
from magicapture_core.models.placeholders import learned_embeddings
from magicapture_core.models.precision import draw_in_float32
from magicapture_core.models.safety import black_out
from magicapture_core.problems import Problem

LAYERS = 3
"""Of a block, with its way to the next size: how the original UNet counts its blocks. The same in all of SDXL."""
ATTENTION = re.compile(r"(down|up)_blocks\.(\d+)\.attentions\.(\d+)\.(.+)")
LOAD_WORDS = """# Where a prompt ends: else transformers takes the newest word for its end.
pipe.text_encoder_2.text_model.eos_token_id = pipe.tokenizer_2.eos_token_id
for word in ("subject", "style"):
    rows = load_file(f"{folder}/{{word}}.safetensors")
    pipe.load_textual_inversion(
        rows["clip_l"], token=f"<{{word}}>", text_encoder=pipe.text_encoder, tokenizer=pipe.tokenizer
    )
    pipe.load_textual_inversion(
        rows["clip_g"], token=f"<{{word}}>", text_encoder=pipe.text_encoder_2, tokenizer=pipe.tokenizer_2
    )
"""
UNET_SHARES = {"nothing": 2.0, "largest": 3.0, "all": 2.1}
"""Of the published model: 1.78, 1.72 and .54 GB where Stable Diffusion 1.5 keeps .89, .58 and .26
(`python benchmarks/counting_xl.py 512`)."""
BASE_WIDTH = 768 + 1280
"""Numbers in a learned embedding of the published model."""


@dataclass(kw_only=True)
class StableDiffusionXL(ModelBundle):
    """A Stable Diffusion XL 1.0 or one of its descendants."""

    family: ClassVar[str] = "stable-diffusion-xl"
    tiny_decoder: ClassVar[str] = "taesdxl"
    pipeline_class: ClassVar[str] = "StableDiffusionXLPipeline"
    sizes: ClassVar[tuple[tuple[int, int], ...]] = (
        (1024, 1024), (896, 1152), (832, 1216), (768, 1344), (1152, 896), (1216, 832), (1344, 768),
    )  # fmt: skip

    text_encoder: Any
    text_encoder_2: Any
    tokenizer_2: Any
    """The same words as `tokenizer`; it fills up with another token."""
    zeros_for_empty: bool
    """Whether an empty prompt is read as zeros, as the model was trained."""

    @classmethod
    def parts_of(cls, pipeline: Any, name: str) -> dict[str, Any]:
        """See `ModelBundle.parts_of`."""
        if pipeline.tokenizer.get_vocab() != pipeline.tokenizer_2.get_vocab():
            raise Problem(
                _(
                    "{name}: expected two tokenizers of the same vocabulary, as Stable Diffusion XL has; tokenizer and "
                    "tokenizer_2 differ. Copy or download the model again.",
                    name=name,
                )
            )
        return {
            "text_encoder": pipeline.text_encoder,
            "text_encoder_2": pipeline.text_encoder_2,
            "tokenizer_2": pipeline.tokenizer_2,
            "zeros_for_empty": bool(pipeline.config.force_zeros_for_empty_prompt),
        }

    @property
    def half_decodes(self) -> bool:
        """See `ModelBundle.half_decodes`: bf16 holds the published decoder's numbers, fp16 does not."""
        return self.dtype != torch.float16 or not self.vae.config.force_upcast

    @property
    def text_encoders(self) -> dict[str, Any]:
        """CLIP-L and OpenCLIP-bigG."""
        return {"text_encoder": self.text_encoder, "text_encoder_2": self.text_encoder_2}

    def encode(
        self, input_ids: Tensor, token_ids: tuple[int, int] | None = None, embeddings: Tensor | None = None
    ) -> Conditioning:
        """See `ModelBundle.encode`. An embedding's row holds CLIP-L's numbers, then OpenCLIP-bigG's."""
        input_ids = input_ids.to(self.device)
        # The first token that ends a prompt; what follows only fills it up.
        ends = (input_ids == self.tokenizer.eos_token_id).int().argmax(-1)  # b
        filling = torch.arange(input_ids.shape[1], device=self.device) > ends[:, None]  # b tokens
        with ExitStack() as stack:
            if token_ids is not None and embeddings is not None:
                parts = embeddings.to(self.device).split(self.embedding_widths, dim=1)
                for encoder, part in zip(self.text_encoders.values(), parts, strict=True):
                    stack.enter_context(learned_embeddings(encoder, token_ids, part))
            first = self.text_encoder(input_ids, output_hidden_states=True)
            second = self.text_encoder_2(
                input_ids.masked_fill(filling, self.tokenizer_2.pad_token_id), output_hidden_states=True
            )
        states = torch.cat([first.hidden_states[-2], second.hidden_states[-2]], dim=-1)
        # transformers looks for the end at the largest id, as the published configuration has it, and would take a
        # placeholder for it: what comes after that, a user's edit for instance, would not be read.
        whole = second.last_hidden_state[torch.arange(len(ends), device=self.device), ends]
        whole = self.text_encoder_2.text_projection(whole)
        if self.zeros_for_empty:
            said = (ends > 1).to(states.dtype)
            states, whole = states * said[:, None, None], whole * said[:, None]
        return Conditioning(states, {"text_embeds": whole})

    def framed(self, conditioning: Conditioning, cuts: Tensor) -> Conditioning:
        """See `ModelBundle.framed`."""
        added = {**conditioning.added, "cut": cuts.to(self.device, torch.float32)}
        return Conditioning(conditioning.encoder_hidden_states, added)

    def predict(self, noisy_latents: Tensor, timesteps: Tensor, conditioning: Conditioning) -> Tensor:
        """See `ModelBundle.predict`. Without `framed` a picture is taken for a whole photo."""
        # Filled on the device: a copy of Python's numbers would make a GPU wait.
        sides = [
            torch.full((len(noisy_latents), 1), float(side * self.vae_scale_factor), device=self.device)
            for side in noisy_latents.shape[-2:]
        ]
        target = torch.cat(sides, dim=1)
        whole = torch.cat([target, torch.zeros_like(target)], dim=1)
        added = {
            "text_embeds": conditioning.added["text_embeds"].to(self.dtype),
            # In fp32: bf16 would make 3024 pixels 3024 and 3000 pixels 3008.
            "time_ids": torch.cat([conditioning.added.get("cut", whole).float(), target], dim=1),  # b 6
        }
        prediction: Tensor = self.unet(
            noisy_latents.to(self.dtype),
            timesteps,
            encoder_hidden_states=conditioning.encoder_hidden_states.to(self.dtype),
            added_cond_kwargs=added,
        ).sample
        return prediction.float()

    def pipeline(self, scheduler: str = "euler_ancestral") -> Any:
        """See `ModelBundle.pipeline`."""
        from diffusers import StableDiffusionXLPipeline

        pipeline = StableDiffusionXLPipeline(
            vae=self.vae,
            text_encoder=self.text_encoder,
            text_encoder_2=self.text_encoder_2,
            tokenizer=self.tokenizer,
            tokenizer_2=self.tokenizer_2,
            unet=self.unet,
            scheduler=sampler(scheduler, self.noise_scheduler.config),
            force_zeros_for_empty_prompt=self.zeros_for_empty,
            add_watermarker=False,  # provenance.py marks every picture
        )
        pipeline.set_progress_bar_config(disable=True)
        return pipeline if self.drawing_dtype == self.dtype else draw_in_float32(pipeline)

    def prompt_arguments(self, prompt: Conditioning, negative: Conditioning | None) -> dict[str, Tensor]:
        """See `ModelBundle.prompt_arguments`."""
        arguments = {
            "prompt_embeds": prompt.encoder_hidden_states,
            "pooled_prompt_embeds": prompt.added["text_embeds"],
        }
        if negative is not None:
            arguments["negative_prompt_embeds"] = negative.encoder_hidden_states
            arguments["negative_pooled_prompt_embeds"] = negative.added["text_embeds"]
        return arguments

    @torch.no_grad()
    def draw(
        self, pipeline: Any, prompt: Conditioning, negative: Conditioning | None, **options: Any
    ) -> Drawn:
        """See `ModelBundle.draw`. Decoded one at a time, in the autoencoder's own precision."""
        latents = pipeline(**self.prompt_arguments(prompt, negative), output_type="latent", **options).images
        decoded = torch.cat([self.decode(each[None]) for each in latents])
        images = pipeline.image_processor.postprocess(decoded, output_type="pil")
        return black_out(images, self.safety_checker, self.feature_extractor)

    def unet_share(self, recomputed: str) -> float:
        """See `ModelBundle.unet_share`: most of its parameters are where the picture is coarsest, and keep little."""
        return (
            UNET_SHARES[recomputed] * sum(parameter.numel() for parameter in self.unet.parameters()) / 2567e6
        )

    def drawn_side(self, trained: int) -> int:
        """See `ModelBundle.drawn_side`. What was learned at a lower resolution is drawn at the model's own."""
        return max(trained, self.resolution)

    @classmethod
    def embedding_names(cls, token: str) -> tuple[str, ...]:  # noqa: ARG003
        """See `ModelBundle.embedding_names`: as the diffusers, kohya and ComfyUI projects name them."""
        return ("clip_l", "clip_g")

    @classmethod
    def shared_embedding(cls, rows: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """See `ModelBundle.shared_embedding`."""
        return {name: row.float().reshape(1, -1).contiguous() for name, row in rows.items()}

    @classmethod
    def how_to_load_words(cls, folder: str) -> dict[str, str]:
        """See `ModelBundle.how_to_load_words`."""
        return {
            "imports": "from safetensors.torch import load_file\n",
            "load_words": LOAD_WORDS.format(folder=folder),
        }

    @classmethod
    def kohya_name(cls, network: str, module: str) -> str | None:
        """See `ModelBundle.kohya_name`: the UNet's modules by their names in the original model."""
        if network in ("text_encoder", "text_encoder_2"):
            return f"lora_te{1 if network == 'text_encoder' else 2}_{module.replace('.', '_')}"
        if network != "unet":
            return None
        found = ATTENTION.fullmatch(module)
        if found:
            way, block, layer, rest = found[1], int(found[2]), int(found[3]), found[4]
            first = LAYERS * block
            place = f"input_blocks.{1 + first + layer}" if way == "down" else f"output_blocks.{first + layer}"
            module = f"{place}.1.{rest}"
        else:
            module = re.sub(r"^mid_block\.attentions\.0", "middle_block.1", module)
        return f"lora_unet_{module.replace('.', '_')}"

    @classmethod
    def kohya_metadata(cls, width: int) -> dict[str, str]:
        """See `ModelBundle.kohya_metadata`."""
        return {"ss_base_model_version": "sdxl_base_v1-0", "ss_v2": "False"} if width == BASE_WIDTH else {}
