"""The mini model's networks: built from nothing, or opened from a model folder to be trained on."""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from magicapture_core.faces.sface import SFace
from magicapture_core.models.words import LOOK_SIZE, read_words
from tools.mini.captions import PERSON_MARK, STYLE_MARK
from tools.mini.settings import SHRINK, SIDE, Settings, Sizes

SCALING_FACTOR = 0.18215
"""SD 1.5's; latents.py bakes the latents' true mean and spread into the autoencoder."""
FACE_SIZE = SFace.dim
"""Numbers of a face embedding."""
SURE = -9.2
"""Log variance of the autoencoder's latents, a spread of .01: with the usual spread of 1, three of the four channels
of an early model were lost in noise and stayed so."""
RECOGNISER = SFace.name


def build_scheduler() -> DDPMScheduler:
    """SD 1.5's noise schedule."""
    return DDPMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", num_train_timesteps=1000,
        clip_sample=False, steps_offset=1, prediction_type="epsilon",
    )  # fmt: skip


def build_vae(sizes: Sizes) -> AutoencoderKL:
    """÷16, 16 channels: as many numbers a picture as ÷8 with 4, in a quarter of the places that the UNet works on."""
    levels = len(sizes.vae_channels)
    vae = AutoencoderKL(
        block_out_channels=sizes.vae_channels,
        down_block_types=["DownEncoderBlock2D"] * levels,
        up_block_types=["UpDecoderBlock2D"] * levels,
        layers_per_block=1,
        latent_channels=sizes.latent_channels,
        norm_num_groups=1,  # more groups wipe out brightness and colour: 3 dB less after the same time
        sample_size=SIDE,
        scaling_factor=SCALING_FACTOR,
    )
    quant = vae.quant_conv
    assert quant is not None
    assert quant.bias is not None
    with torch.no_grad():
        quant.weight[sizes.latent_channels :] = 0
        quant.bias[sizes.latent_channels :] = SURE
    return vae


def build_unet(sizes: Sizes) -> UNet2DConditionModel:
    """Cross-attention at the full latent grid and at half of it (and in the middle)."""
    rest = len(sizes.unet_channels) - 2
    return UNet2DConditionModel(
        sample_size=SIDE // SHRINK,
        in_channels=sizes.latent_channels,
        out_channels=sizes.latent_channels,
        block_out_channels=sizes.unet_channels,
        layers_per_block=1,
        down_block_types=["CrossAttnDownBlock2D"] * 2 + ["DownBlock2D"] * rest,
        up_block_types=["UpBlock2D"] * rest + ["CrossAttnUpBlock2D"] * 2,
        cross_attention_dim=sizes.text_width,
        attention_head_dim=8,
    )


def build_text_encoder(tokenizer: CLIPTokenizer, sizes: Sizes) -> CLIPTextModel:
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=sizes.text_width,
        intermediate_size=4 * sizes.text_width,
        num_hidden_layers=sizes.text_layers,
        num_attention_heads=4,
        projection_dim=sizes.text_width,
        max_position_embeddings=tokenizer.model_max_length,
        hidden_act="quick_gelu",
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return CLIPTextModel(config)


def posterior_mean(vae: AutoencoderKL, pixels: Tensor) -> Tensor:
    """Latents (b, c, h/16, w/16), unscaled, of pixels (b, 3, h, w) in [-1, 1]."""
    moments = vae.quant_conv(vae.encoder(pixels))
    return moments.chunk(2, dim=1)[0]


def decoded(vae: AutoencoderKL, latents: Tensor) -> Tensor:
    """Pixels (b, 3, h, w), about [-1, 1], of unscaled latents."""
    return vae.decoder(vae.post_quant_conv(latents))


class Denoiser(nn.Module):
    """UNet and text encoder as one trainable module, with what stands in for the names of people and styles."""

    def __init__(
        self, unet: UNet2DConditionModel, text_encoder: CLIPTextModel, marks: tuple[int, int]
    ) -> None:
        """marks: token ids of captions.PERSON_MARK and STYLE_MARK."""
        super().__init__()
        width = text_encoder.config.hidden_size
        self.unet, self.text_encoder, self.marks = unet, text_encoder, marks
        self.person_embedding, self.style_embedding = nn.Linear(FACE_SIZE, width), nn.Linear(LOOK_SIZE, width)
        for layer in (self.person_embedding, self.style_embedding):
            nn.init.normal_(layer.weight, std=0.02)  # as long as the embeddings of words
            nn.init.zeros_(layer.bias)

    def encode(self, ids: Tensor, people: Tensor, looks: Tensor) -> Tensor:
        """Token ids (b, 77) -> the text encoder's states (b, 77, width).

        people (b, 128) face embeddings and looks (b, 38): used where a caption holds the mark of a person or a style.
        """
        vectors = (self.person_embedding(people), self.style_embedding(looks))

        def put(_module: nn.Module, _inputs: object, embedded: Tensor) -> Tensor:
            for mark, vector in zip(self.marks, vectors, strict=True):
                embedded = torch.where((ids == mark)[..., None], vector[:, None].to(embedded), embedded)
            return embedded

        handle = self.text_encoder.get_input_embeddings().register_forward_hook(put)
        try:
            return self.text_encoder(ids).last_hidden_state
        finally:
            handle.remove()

    def predict(self, noisy: Tensor, timesteps: Tensor, states: Tensor) -> Tensor:
        """The noise in noisy latents (b, c, h, w)."""
        return self.unet(noisy, timesteps, states, return_dict=False)[0]

    def words(self) -> dict[str, Tensor]:
        """The two maps, as words.safetensors calls them."""
        person, style = self.person_embedding, self.style_embedding
        return {
            "person_weight": person.weight, "person_bias": person.bias,
            "style_weight": style.weight, "style_bias": style.bias,
        }  # fmt: skip


def marks_of(tokenizer: CLIPTokenizer) -> tuple[int, int]:
    person, style = tokenizer([PERSON_MARK, STYLE_MARK], add_special_tokens=False).input_ids
    assert len(person) == len(style) == 1
    return person[0], style[0]


def make_vae(settings: Settings) -> AutoencoderKL:
    """Float32, on the CPU."""
    if settings.start_from:
        return AutoencoderKL.from_pretrained(settings.start_from, subfolder="vae").float()
    return build_vae(settings.sizes)


def make_denoiser(settings: Settings, tokenizer: CLIPTokenizer) -> Denoiser:
    """Float32, on the CPU."""
    if not settings.start_from:
        unet, text_encoder = build_unet(settings.sizes), build_text_encoder(tokenizer, settings.sizes)
        return Denoiser(unet, text_encoder, marks_of(tokenizer))
    folder = Path(settings.start_from)
    denoiser = Denoiser(
        UNet2DConditionModel.from_pretrained(folder, subfolder="unet").float(),
        CLIPTextModel.from_pretrained(folder / "text_encoder", dtype=torch.float32),
        marks_of(tokenizer),
    )
    words = read_words(folder)
    if words is None or words.recogniser != RECOGNISER:
        raise SystemExit(
            f"{folder} makes no words of {RECOGNISER}'s face embeddings: it cannot be trained on."
        )
    for layer, weight, bias in (
        (denoiser.person_embedding, words.person_weight, words.person_bias),
        (denoiser.style_embedding, words.style_weight, words.style_bias),
    ):
        layer.load_state_dict({"weight": weight, "bias": bias})
    return denoiser
