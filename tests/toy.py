"""A Stable Diffusion of the real classes at toy size, and a toy face analyser. Random weights, fixed seeds.

The model draws 64×64 pictures from 16×16 latents (the autoencoder shrinks by 4) and has cross-attention
maps of side 8 and 4 in its down and up blocks, as SD 1.5 has 64, 32 and 16.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

WORDS = [
    "a", "the", "an", "of", "in", "one", "photo", "picture", "portrait", "image", "person", "style", "bright",
    "good", "cropped", "close", "up", "man", "woman", "cat", "oil", "painting", "wearing", "sunglasses",
    "hat", "red", "blue", "dog",
]  # fmt: skip
RESOLUTION = 64
WIDTH = 32  # of the text encoder


def byte_letters() -> list[str]:
    """The 256 printable stand-ins that CLIP's byte-level BPE uses for bytes."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [b for b in range(256) if b not in plain]
    codes = {b: b for b in plain} | {b: 256 + n for n, b in enumerate(others)}
    return [chr(codes[b]) for b in [*plain, *others]]


def save_tokenizer(folder: Path) -> None:
    """A CLIP vocabulary of bytes and the words of `WORDS`, each of them one token."""
    letters = byte_letters()
    merges: list[str] = []
    vocabulary = [*letters, *(letter + "</w>" for letter in letters)]
    for word in WORDS:
        parts = [*word[:-1], word[-1] + "</w>"]
        while len(parts) > 1:
            if f"{parts[0]} {parts[1]}" not in merges:
                merges.append(f"{parts[0]} {parts[1]}")
                vocabulary.append(parts[0] + parts[1])
            parts = [parts[0] + parts[1], *parts[2:]]
    vocabulary += ["<|startoftext|>", "<|endoftext|>"]
    folder.mkdir(parents=True)
    ids = {token: n for n, token in enumerate(vocabulary)}
    (folder / "vocab.json").write_text(json.dumps(ids), encoding="utf-8")
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n", encoding="utf-8")
    config = {"tokenizer_class": "CLIPTokenizer", "model_max_length": 77}
    (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")


def save_toy(
    folder: Path,
    *,
    prediction_type: str = "epsilon",
    safety: bool = False,
    magicapture: Mapping[str, Any] | None = None,
    words: tuple[str, int] | None = None,
    seed: int = 0,
) -> Path:
    """Save the toy model as a diffusers folder and return the folder.

    safety: with a safety checker (the real class) that finds every picture unsafe.
    magicapture: content of `magicapture.json`, if any.
    words: with what makes words of photos, for embeddings of (network's name, how many numbers).
    """
    from diffusers import AutoencoderKL, DDPMScheduler, StableDiffusionPipeline, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    save_tokenizer(folder / "tokenizer")
    tokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        text_encoder = CLIPTextModel(
            CLIPTextConfig(
                vocab_size=len(tokenizer), hidden_size=WIDTH, intermediate_size=48, num_hidden_layers=2,
                num_attention_heads=2, max_position_embeddings=77, bos_token_id=tokenizer.bos_token_id,
                eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
            )
        )  # fmt: skip
        vae = AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * 3, up_block_types=("UpDecoderBlock2D",) * 3,
            block_out_channels=(8, 8, 16), norm_num_groups=4, sample_size=RESOLUTION, scaling_factor=0.18215,
        )  # fmt: skip
        unet = UNet2DConditionModel(
            sample_size=RESOLUTION // 4, block_out_channels=(8, 16, 16), layers_per_block=1,
            norm_num_groups=4,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            cross_attention_dim=WIDTH, attention_head_dim=2,
        )  # fmt: skip
        checker, extractor = _safety() if safety else (None, None)
    scheduler = DDPMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False,
        prediction_type=prediction_type, steps_offset=1,
    )  # fmt: skip
    pipeline = StableDiffusionPipeline(
        vae=vae, text_encoder=text_encoder, tokenizer=tokenizer, unet=unet, scheduler=scheduler,
        safety_checker=checker, feature_extractor=extractor, requires_safety_checker=safety,
    )  # fmt: skip
    pipeline.save_pretrained(folder)
    if magicapture is not None:
        (folder / "magicapture.json").write_text(json.dumps(magicapture), encoding="utf-8")
    if words is not None:
        save_toy_words(folder, *words)
    return folder


WIDTHS_XL = (32, 40)  # of the two text encoders


def save_toy_xl(
    folder: Path,
    *,
    prediction_type: str = "epsilon",
    force_upcast: bool = True,
    magicapture: Mapping[str, Any] | None = None,
    seed: int = 0,
) -> Path:
    """Save a toy Stable Diffusion XL as a diffusers folder and return the folder.

    As the published one: no attention in the first block, three transformer blocks deep where it is coarsest, two
    tokenizers that fill up with different tokens, and a configuration that gives 2 as the id of a prompt's end.
    """
    from diffusers import (
        AutoencoderKL,
        EulerDiscreteScheduler,
        StableDiffusionXLPipeline,
        UNet2DConditionModel,
    )
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

    save_tokenizer(folder / "tokenizer")
    tokenizers = [
        CLIPTokenizer.from_pretrained(folder / "tokenizer", pad_token=filling)
        for filling in ("<|endoftext|>", "!")
    ]
    encoders = []
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for width, kind in zip(WIDTHS_XL, (CLIPTextModel, CLIPTextModelWithProjection), strict=True):
            config = CLIPTextConfig(
                vocab_size=len(tokenizers[0]), hidden_size=width, intermediate_size=48, num_hidden_layers=3,
                num_attention_heads=2, max_position_embeddings=77, projection_dim=width, bos_token_id=0,
                eos_token_id=2, pad_token_id=1,
            )  # fmt: skip
            encoders.append(kind(config))
        vae = AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * 3, up_block_types=("UpDecoderBlock2D",) * 3,
            block_out_channels=(8, 8, 16), norm_num_groups=4, sample_size=RESOLUTION, scaling_factor=0.13025,
            force_upcast=force_upcast,
        )  # fmt: skip
        unet = UNet2DConditionModel(
            sample_size=RESOLUTION // 4, block_out_channels=(8, 16, 16), layers_per_block=2, norm_num_groups=4,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            cross_attention_dim=sum(WIDTHS_XL), attention_head_dim=(1, 2, 2), transformer_layers_per_block=(1, 1, 3),
            use_linear_projection=True, addition_embed_type="text_time", addition_time_embed_dim=8,
            projection_class_embeddings_input_dim=6 * 8 + WIDTHS_XL[1],
        )  # fmt: skip
    scheduler = EulerDiscreteScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", prediction_type=prediction_type,
        steps_offset=1, timestep_spacing="leading",
    )  # fmt: skip
    pipeline = StableDiffusionXLPipeline(
        vae=vae, text_encoder=encoders[0], text_encoder_2=encoders[1], tokenizer=tokenizers[0],
        tokenizer_2=tokenizers[1], unet=unet, scheduler=scheduler,
    )  # fmt: skip
    pipeline.save_pretrained(folder)
    if magicapture is not None:
        (folder / "magicapture.json").write_text(json.dumps(magicapture), encoding="utf-8")
    return folder


def save_toy_words(folder: Path, recogniser: str = "toy", dim: int = 16) -> None:
    """What makes words of photos, at random; nothing lies outside, and cleaning changes nothing."""
    from magicapture_core.models.words import FILE, LOOK_SIZE, save_words

    generator = torch.Generator().manual_seed(5)
    tensors = {
        "person_weight": torch.randn(WIDTH, dim, generator=generator) * 0.1, "person_bias": torch.zeros(WIDTH),
        "style_weight": torch.randn(WIDTH, LOOK_SIZE, generator=generator) * 0.1, "style_bias": torch.zeros(WIDTH),
        "look_mean": torch.full((LOOK_SIZE,), 120.0), "look_std": torch.full((LOOK_SIZE,), 60.0),
        "face_mean": torch.zeros(dim), "face_directions": torch.eye(dim), "face_spread": torch.ones(dim),
        "clean_weight": torch.eye(dim), "clean_bias": torch.zeros(dim),
    }  # fmt: skip
    save_words(folder / FILE, tensors, recogniser)


def _safety() -> tuple[Any, Any]:
    from diffusers.pipelines.stable_diffusion import StableDiffusionSafetyChecker
    from transformers import CLIPConfig, CLIPImageProcessor

    config = CLIPConfig(
        projection_dim=8,
        vision_config={
            "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1,
            "image_size": 32, "patch_size": 16, "projection_dim": 8,
        },
        text_config={
            "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1,
        },
    )  # fmt: skip
    checker = StableDiffusionSafetyChecker(config)
    checker.concept_embeds_weights.data.fill_(-1.0)  # every cosine is above it: everything is unsafe
    extractor = CLIPImageProcessor(
        size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}, do_resize=True, do_center_crop=True
    )
    return checker, extractor


def toy_run(
    models: Any,
    folder: Path,
    *,
    rank: int = 2,
    alpha: float | None = None,
    text_encoder: bool = False,
    lora: bool = True,
    embedder: str | None = "toy",
    kind: str = "person",
    seed: int = 1,
) -> Path:
    """A run folder as training leaves it, with random weights strong enough to be seen. Returns `folder`.

    text_encoder: also LoRA weights of the text encoder. lora: False is a run stopped in phase 1.
    embedder: name of the network that knows the subject's face; None for a run without identity.
    """
    from magicapture_core.adapters.embeddings import save_embeddings
    from magicapture_core.checkpoints import Run
    from magicapture_core.config import TrainConfig
    from magicapture_core.run_facts import RunFacts

    generator = torch.Generator().manual_seed(seed)
    config = TrainConfig(
        resolution=RESOLUTION, attention_resolution=8, lora_rank=rank, lora_alpha=alpha, subject_kind=kind,
        lora_targets=("cross", "text_encoder") if text_encoder else ("cross",),
    )  # fmt: skip
    facts = RunFacts(config, models.name, models.family, "fingerprint", "toy", ("a.jpg:1",), ("b.jpg:2",))
    run = Run.create(folder, facts)
    run.adapter.mkdir()
    save_embeddings(models, torch.randn(2, models.embedding_width, generator=generator), run.adapter)
    if lora:
        _save_random_lora(models, run.adapter, rank, alpha, text_encoder, generator)
    if embedder:
        run.save_identity(torch.nn.functional.normalize(torch.randn(3, 16, generator=generator)), embedder)
    return folder


def _save_random_lora(
    models: Any, folder: Path, rank: int, alpha: float | None, text: bool, generator: torch.Generator
) -> None:
    import diffusers
    from diffusers.utils import convert_state_dict_to_diffusers
    from peft import LoraConfig
    from peft.utils import get_peft_model_state_dict

    layers: dict[str, Any] = {}
    for name in ("unet", *models.text_encoders) if text else ("unet",):
        # A copy, so that nothing here can leave a trace in the model.
        network = copy.deepcopy(getattr(models, name))
        targets = UNET_TARGETS if name == "unet" else TEXT_TARGETS
        lora = LoraConfig(r=rank, lora_alpha=alpha or rank, target_modules=targets)
        network.add_adapter(lora, adapter_name="default")
        state = get_peft_model_state_dict(network, adapter_name="default")
        state = {key: 0.3 * torch.randn(state[key].shape, generator=generator) for key in sorted(state)}
        layers[f"{name}_lora_layers"] = convert_state_dict_to_diffusers(state)
        layers[f"{name}_lora_adapter_metadata"] = lora.to_dict()
    getattr(diffusers, models.pipeline_class).save_lora_weights(folder, **layers)


UNET_TARGETS = r".*attn2\.(to_q|to_k|to_v|to_out\.0)"
TEXT_TARGETS = r".*self_attn\.(q_proj|k_proj|v_proj|out_proj)"


def same_weights(one: Any, other: Any) -> bool:
    """Whether two modules hold the same tensors, bit for bit."""
    ours, theirs = one.state_dict(), other.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[k], theirs[k]) for k in ours)


class ToyEmbedder(nn.Module):
    """A random face embedder of the real interface: (b, 3, 112, 112) in [0, 1] -> (b, 16) of unit norm."""

    name = "toy"
    size = 112
    dim = 16

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(3)
        self.weight = nn.Parameter(
            torch.randn(self.dim, 3 * 14 * 14, generator=generator), requires_grad=False
        )

    def forward(self, aligned: Tensor) -> Tensor:
        """aligned: (b, 3, 112, 112) in [0, 1]. Returns (b, dim), unit norm."""
        pooled = nn.functional.avg_pool2d(aligned * 2 - 1, 8).flatten(1)
        return nn.functional.normalize(pooled @ self.weight.T, dim=-1)


class ToyAnalyser:
    """The FaceAnalyser protocol without a network: one face in the middle of every picture."""

    name = "toy"
    description = "A toy analyser that finds one face in the middle of every picture."

    def __init__(self, blind: bool = False) -> None:
        self.blind = blind
        self._embedder = ToyEmbedder()

    def detect(self, pixels: np.ndarray, *, small: bool = True) -> list[Any]:  # noqa: ARG002
        """pixels: (h, w, 3) uint8. One face, its box the middle half of the picture; none when blind."""
        if self.blind:
            return []
        from magicapture_core.faces import Face

        h, w = pixels.shape[:2]
        at = np.array([[0.4, 0.42], [0.6, 0.42], [0.5, 0.52], [0.42, 0.62], [0.58, 0.62]])
        return [
            Face(
                box=(0.25 * w, 0.25 * h, 0.75 * w, 0.75 * h),
                landmarks=(at * [w, h]).astype(np.float32),
                score=1.0,
                outline=None,
                pose=(0.0, 0.0, 0.0),
                expressions={},
            )
        ]

    def face_mask(self, pixels: np.ndarray, face: Any) -> np.ndarray:
        """(h, w) float32: 1 in the face's box."""
        mask = np.zeros(pixels.shape[:2], np.float32)
        x0, y0, x1, y1 = (round(edge) for edge in face.box)
        mask[y0:y1, x0:x1] = 1
        return mask

    def foreground(self, pixels: np.ndarray) -> np.ndarray:
        """(h, w) float32: 1 in the middle half."""
        return self.face_mask(pixels, self.detect(pixels)[0])

    def embedder(self, device: str = "cpu") -> ToyEmbedder:
        """The same random embedder every time."""
        return self._embedder.to(device)
