"""Every setting, defined once. Command line, wizard, presets, checks and model cards use these classes."""

from __future__ import annotations

import dataclasses
import json
import math
import types
import typing
from dataclasses import dataclass
from typing import Any, Literal, TypeVar, get_args, get_origin

from magicapture_core.languages import _
from magicapture_core.problems import Problem

SubjectKind = Literal["person", "object"]
Framing = Literal["photo", "aligned"]
"""How photos become square pictures: "photo" crops them; "aligned" rotates and crops them as the FFHQ data set does."""
InitialWords = Literal["paper", "photos"]
AGES = ("young", "middle-aged", "old")
PEOPLE = ("person", "woman", "man")
LoraTarget = Literal["cross", "self", "feed_forward", "text_encoder"]
Trained = Literal["lora", "cross_kv", "unet"]
Scheduler = Literal["euler_ancestral", "dpm++", "unipc", "ddim", "euler_trailing", "lcm"]
Upscaler = Literal["auto", "realesrgan", "mini", "lanczos"]
Restorer = Literal["auto", "gfpgan", "codeformer", "none"]

ConfigT = TypeVar("ConfigT", "TrainConfig", "GenerateConfig", "PostprocessConfig")


@dataclass(frozen=True)
class TrainConfig:
    """How a person and a style are learned. The defaults are the paper's, except `identity_decode` and `flip`."""

    subject_kind: SubjectKind = "person"
    """What the subject photos show. "object" learns a thing: with a foreground mask instead of a face mask, and in
    Eq. 7 with a similarity of image features instead of face recognition."""
    subject_words: str = ""
    """What a person is called in prompts: "woman", "man" or "person", after an age in words if wanted (young,
    middle-aged, old): "old man". Empty: "person". It helps small models, which would guess otherwise."""
    resolution: int = 512
    """Side of the square training pictures, in pixels; a multiple of 8 that the model supports."""
    ti_steps: int = 1200
    """Optimizer steps of phase 1 (textual inversion)."""
    lora_steps: int = 1500
    """Optimizer steps of phase 2 (LoRA and embeddings together)."""
    batch_size: int = 1
    """Items of each task (source, reference, composed) per accumulated batch."""
    gradient_accumulation: int = 4
    """Batches per optimizer step. A step covers batch_size × gradient_accumulation items of each task."""
    items_per_call: int | None = None
    """Items of each task in one call of the UNet. None: as many as are expected to fit into memory.
    The gradient does not depend on this value."""
    ti_learning_rate: float = 5e-4
    """Learning rate of the two embeddings in phase 1."""
    lora_learning_rate: float = 1e-4
    """Learning rate of the LoRA weights in phase 2."""
    embedding_learning_rate: float = 1e-5
    """Learning rate of the two embeddings in phase 2."""
    learning_rate_decay: Literal["linear", "constant"] = "linear"
    """How the learning rates change within a phase; there is no warm-up. The paper does not say; its code: linear."""
    lora_weight_decay: float = 1e-3
    """Weight decay of the LoRA weights (AdamW). Embeddings have no weight decay."""
    max_grad_norm: float | None = None
    """Unlike the paper, if set: clip the gradient to this norm."""
    trained: Trained = "lora"
    """What phase 2 trains in addition to the embeddings. Unlike the paper, if not "lora": "cross_kv" trains the key and
    value projections of cross-attention themselves (Custom Diffusion), "unet" the whole UNet (DreamBooth)."""
    lora_rank: int = 4
    """Rank of U and V in Eq. 3."""
    lora_alpha: float | None = None
    """Alpha of LoRA: the update is multiplied by alpha / rank. None: equal to the rank (Eq. 3)."""
    lora_targets: tuple[LoraTarget, ...] = ("cross",)
    """Which layers LoRA adapts. Unlike the paper, if more than ("cross",): the paper's code also adapts the others."""
    lambda_id: float = 0.25
    """Weight of the identity loss, Eq. 7 (phase 2). 0 turns it off, and with it a second UNet pass."""
    lambda_attn: float = 2.5
    """Weight of Attention Refocusing, Eq. 8 (phase 2). 0 turns it off."""
    lambda_colour: float = 0.0
    """Weight of a loss on the colour of the face (phase 2). Unlike the paper, if above 0: the face in a composed
    picture gets a colour nearer to that of the faces in the style's photos, as far as these have one in common."""
    lambda_lightness: float = 0.0
    """Weight of a loss on the lightness of the skin (phase 2). Unlike the paper, if above 0: a person whose face in
    their own photos is darker than most people's is also drawn darker in the style's light; nobody is drawn lighter
    than the faces of the style. Small values are enough."""
    composed_weight: float = 1.0
    """Weight of composed-prompt learning, Eq. 6 (phase 2). Unlike the paper, if 0: no composed prompt."""
    masked: bool = True
    """Compute Eqs. 4 to 6 over their regions. Unlike the paper, if false: over the whole picture, as methods without
    masks do."""
    prior_weight: float = 0.0
    """Weight of DreamBooth's prior preservation (phase 2). Unlike the paper, if above 0: the model is also trained on
    pictures of any person that it made before the training, so that these stay as they are."""
    prior_pictures: int = 200
    """How many pictures for `prior_weight` are made before training."""
    identity_time_limit: float = 0.8
    """T' / T in Eq. 7: t_id is sampled only from this first part of the noise schedule."""
    identity_decode: Literal["face", "full", "tiny"] = "face"
    """What is decoded for Eq. 7. Unlike the paper, which decodes the whole picture ("full"), the default "face" decodes
    only the latents around the face. This takes less memory and time; the decoder does not see the rest of the picture.
    "tiny" decodes the face with the small decoder TAESD, whose weight files must be present."""
    attention_scale: Literal["extremes", "region"] = "extremes"
    """How Eq. 8 scales the attention map of a word. "extremes": by the map's minimum and maximum, as in the paper.
    "region", unlike the paper: by its mean in the word's region, so that less attention everywhere does not reduce the
    loss."""
    attention_resolution: int | None = None
    """Side of the cross-attention maps that Eq. 8 uses. None: the side nearest to resolution / 32 (16 at 512)."""
    style_weight: float = 2.0
    """Weight of Eqs. 5 and 6 in the first part of each phase."""
    style_weight_until: float = 0.5
    """Length of that first part, as a fraction of the phase."""
    embedding_norm: float | None = None
    """Unlike the paper, if set (its code: 0.4): in phase 1 the norm of the embeddings is moved toward this value."""
    initial_words: InitialWords = "paper"
    """First values of [V1] and [V2]: as in the paper, or, unlike the paper, if "photos": embeddings that a model with
    words.safetensors computes from the faces and the style of the photos. Other models use the paper's values."""
    style_init_std: float = 0.017
    """Standard deviation of the normal distribution from which the first value of [V2] is drawn."""
    subject_init_word: str = "person"
    """Word whose embedding is the first value of [V1]."""
    flip: bool = True
    """Unlike the paper, which does not mention it, also train on mirrored photos (with mirrored masks and landmarks):
    few photos then show more poses."""
    gradient_checkpointing: bool = False
    """Use less memory and more time in the backward pass of the UNet and of the decoder. Where memory is short, as much
    of it as is needed is done automatically; true: all of it in any case."""
    seed: int = 0
    """Seed of all random numbers of the run."""
    checkpoint_every: int = 200
    """Optimizer steps between checkpoints (one is also written at the end of each phase and when stopped)."""
    keep_checkpoints: int = 2
    """How many of the newest checkpoints are kept on disk."""
    sample_every: int = 150
    """Optimizer steps between sample pictures of the composed prompt. 0: none."""
    sample_steps: int = 20
    """Denoising steps of a sample picture."""
    sample_pictures: int = 1
    """Pictures of each sample, of consecutive seeds. The first one is shown; likeness is the mean over all of them."""
    keep_best: bool = False
    """Unlike the paper, if true: the checkpoint whose sample pictures have the highest likeness in the last phase is
    kept and used. False: the newest one is used."""
    stop_when_settled: int = 0
    """Unlike the paper, if above 0: the last phase ends as soon as likeness did not rise over so many samples, all of
    them after the part in which `style_weight` holds. 0: all steps are made."""
    attention_every: int = 50
    """Optimizer steps between attention maps. 0: none."""

    def __post_init__(self) -> None:
        positive = ("resolution", "batch_size", "gradient_accumulation", "lora_rank", "sample_steps",
                    "sample_pictures", "checkpoint_every", "keep_checkpoints", "prior_pictures")  # fmt: skip
        for name in positive:
            _require(getattr(self, name) >= 1, name, _("1 or more"), getattr(self, name))
        not_negative = ("ti_steps", "lora_steps", "ti_learning_rate", "lora_learning_rate",
                        "embedding_learning_rate", "lora_weight_decay", "lambda_id", "lambda_attn",
                        "lambda_colour", "lambda_lightness", "composed_weight", "prior_weight", "style_weight",
                        "style_init_std", "sample_every", "stop_when_settled", "attention_every",
                        "seed")  # fmt: skip
        for name in not_negative:
            value = getattr(self, name)
            _require(value >= 0 and math.isfinite(value), name, _("0 or more"), value)
        optional = ("items_per_call", "max_grad_norm", "lora_alpha", "embedding_norm", "attention_resolution")
        for name in optional:
            value = getattr(self, name)
            _require(value is None or value > 0, name, _("None or more than 0"), value)
        _require(self.seed < 2**63, "seed", _("below 2^63"), self.seed)
        _require(self.resolution % 8 == 0, "resolution", _("a multiple of 8"), self.resolution)
        _require(self.ti_steps + self.lora_steps >= 1, "ti_steps + lora_steps", _("1 or more"), 0)
        _require(0 < self.identity_time_limit <= 1, "identity_time_limit", _("above 0, at most 1"),
                 self.identity_time_limit)  # fmt: skip
        _require(
            0 <= self.style_weight_until <= 1, "style_weight_until", _span(0, 1), self.style_weight_until
        )
        _require("cross" in self.lora_targets, "lora_targets", _('at least "cross"'), self.lora_targets)
        _require(
            bool(self.subject_init_word.strip()), "subject_init_word", _("a word"), self.subject_init_word
        )
        if self.subject_words:
            check_noun(self.subject_words)

    @property
    def noun(self) -> str:
        """The noun for the subject in prompts."""
        return (
            self.subject_words if self.subject_words and self.subject_kind == "person" else self.subject_kind
        )

    @property
    def decodes(self) -> bool:
        """Whether phase 2 decodes its prediction: for Eq. 7, or for the colour or lightness of the face."""
        return self.lambda_id + self.lambda_colour + self.lambda_lightness > 0

    @property
    def items_per_step(self) -> int:
        """Items of each task that one optimizer step covers (per process)."""
        return self.batch_size * self.gradient_accumulation

    @property
    def attention_side(self) -> float:
        """The wanted side of the attention maps; the model may only have a similar one."""
        return self.attention_resolution or self.resolution / 32


VARIED = 0.33
"""GenerateConfig.adapter_start for portraits that differ more: at a third of the steps pose, hair and clothes still do,
and most of the likeness is kept (docs/evidence.md)."""


@dataclass(frozen=True)
class GenerateConfig:
    """How portraits are made from a trained run."""

    prompt: str = "a photo of a {subject} in the {style}"
    """What to show. {subject} stands for the learned person, {style} for the learned style. (word:1.3) gives a word 1.3
    times the weight, (word) 1.1 times, [word] less; \\( is a plain parenthesis."""
    negative_prompt: str = ""
    """What to avoid. Words can have weights as in the prompt."""
    count: int = 4
    """How many portraits."""
    seed: int | None = None
    """Seed of the first portrait; each next one has the next number. None: a random seed, which is reported."""
    near: tuple[int, ...] = ()
    """Seeds of an earlier portrait that the new ones resemble: its seed, after those of its own `near`. Empty: none."""
    variation: float = 0.35
    """With `near` only: how far the new portraits are from the earlier one: 0 is the same, 1 has nothing of it."""
    steps: int = 50
    """Denoising steps."""
    guidance_scale: float = 7.0
    """Strength of classifier-free guidance."""
    adapter_scale: float = 0.8
    """Strength of the learned LoRA weights; 0.6 to 1.0 is usual."""
    adapter_start: float = 0.0
    """Share of the denoising steps that are done before the learned LoRA weights are used, 0 to 1. Higher: portraits
    differ more from each other, with a little less likeness."""
    scheduler: Scheduler = "euler_ancestral"
    """Sampler. "euler_trailing" and "lcm" are for LoRAs that need few steps: the first for Lightning, Hyper-SD and
    Turbo, the second for LCM."""
    width: int | None = None
    """Width in pixels. None: the size the run was trained at, with SDXL the model's own."""
    height: int | None = None
    """Height in pixels. None: the size the run was trained at, with SDXL the model's own."""
    enlarge: float | None = None
    """Factor by which super-resolution enlarges each portrait, in width and height. None: the model's own factor;
    pictures of full-size models are not enlarged."""
    pictures_per_call: int | None = None
    """Pictures in one batch. None: 4 on a GPU and for small models, else 1."""
    attention_words: tuple[str, ...] = ()
    """Words of the prompt for which attention heat maps are made; "{subject}" and "{style}" can be among them."""

    def __post_init__(self) -> None:
        _require(bool(self.prompt.strip()), "prompt", _("some text"), self.prompt)
        _require(1 <= self.count <= 1000, "count", _span(1, 1000), self.count)
        _require(1 <= self.steps <= 1000, "steps", _span(1, 1000), self.steps)
        _require(self.seed is None or 0 <= self.seed < 2**63, "seed", _("None or 0 to 2^63 - 1"), self.seed)
        _require(0 <= self.guidance_scale <= 50, "guidance_scale", _span(0, 50), self.guidance_scale)
        _require(0 <= self.adapter_scale <= 2, "adapter_scale", _span(0, 2), self.adapter_scale)
        _require(0 <= self.adapter_start <= 1, "adapter_start", _span(0, 1), self.adapter_start)
        _require(len(self.near) <= 50 and all(0 <= seed < 2**63 for seed in self.near), "near",
                 _("at most 50 seeds of 0 to 2^63 - 1"), self.near)  # fmt: skip
        _require(0 <= self.variation <= 1, "variation", _span(0, 1), self.variation)
        for name in ("width", "height"):
            value = getattr(self, name)
            _require(value is None or (64 <= value <= 4096 and value % 8 == 0), name,
                     _("None or a multiple of 8 from 64 to 4096"), value)  # fmt: skip
        _require(self.enlarge is None or 1 <= self.enlarge <= 8, "enlarge", _("None or 1 to 8"), self.enlarge)
        per_call = self.pictures_per_call
        _require(per_call is None or per_call >= 1, "pictures_per_call", _("None or 1 or more"), per_call)


@dataclass(frozen=True)
class PostprocessConfig:
    """How a picture is finished: super-resolution of the whole picture, restoration of its faces."""

    upscale: float = 2.0
    """Factor by which the portrait is enlarged, in width and height; 1 does not change the size."""
    upscaler: Upscaler = "auto"
    """"realesrgan" (downloads its weights if they are not on this computer), "mini" (small, bundled), "lanczos" (plain
    interpolation). "auto": Real-ESRGAN on a GPU if its weights are present, else mini; it downloads nothing."""
    upscale_strength: float = 1.0
    """0 to 1: share of the super-resolution in a mix with plain interpolation; lower values keep more of the grain."""
    restore: Restorer = "auto"
    """"gfpgan" (GFPGAN v1.4), "codeformer" (for non-commercial use only) or "none"; the first two download their
    weights if they are not on this computer. "auto": GFPGAN if its weights are present, else none; it downloads
    nothing."""
    fidelity: float = 0.5
    """CodeFormer only, 0 to 1: lower values look better, higher values stay closer to the original face."""
    restore_strength: float = 1.0
    """0 to 1: the largest share of the restored face in the blend with the original."""
    identity_budget: float = 0.1
    """How much restoration may lower the identity score (a cosine). If it lowers it more, more of the original face is
    blended in."""
    order: Literal["upscale_first", "restore_first"] = "upscale_first"
    """Whether super-resolution or face restoration is done first."""
    max_side: int = 4096
    """Largest allowed side of the portrait in pixels, for any `upscale`; it limits memory and time."""
    tile: int = 256
    """Side of the tiles for super-resolution, in pixels of the picture; it limits memory."""
    tile_margin: int = 64
    """Overlap of each tile with its neighbours, in pixels; with less than the default, seams can be visible."""

    def __post_init__(self) -> None:
        _require(1 <= self.upscale <= 8, "upscale", _span(1, 8), self.upscale)
        for name in ("upscale_strength", "fidelity", "restore_strength"):
            _require(0 <= getattr(self, name) <= 1, name, _span(0, 1), getattr(self, name))
        _require(0 <= self.identity_budget <= 2, "identity_budget", _span(0, 2), self.identity_budget)
        _require(64 <= self.max_side <= 16384, "max_side", _span(64, 16384), self.max_side)
        _require(32 <= self.tile <= 2048 and self.tile % 8 == 0, "tile", _("a multiple of 8 from 32 to 2048"),
                 self.tile)  # fmt: skip
        _require(8 <= self.tile_margin <= 256 and self.tile_margin % 8 == 0, "tile_margin",
                 _("a multiple of 8 from 8 to 256"), self.tile_margin)  # fmt: skip


LARGEST = 10**18
"""Largest number for any setting; larger ones have no meaning and cause overflows in libraries."""


def check_noun(words: str) -> None:
    """Raise Problem unless the words are allowed as `subject_words`."""
    *age, noun = words.split(" ")
    people, ages = ", ".join(PEOPLE), ", ".join(AGES)
    _require(noun in PEOPLE and (not age or (len(age) == 1 and age[0] in AGES)), "subject_words",
             _("one of {people}, alone or after one of {ages}", people=people, ages=ages), words)  # fmt: skip


def _require(holds: bool, name: str, expected: str, got: object) -> None:
    if not holds:
        raise Problem(_("{name} must be {expected}, got {got}.", name=name, expected=expected, got=repr(got)))


def _span(least: int, most: int) -> str:
    return _("{least} to {most}", least=least, most=most)


def from_dict(cls: type[ConfigT], values: dict[str, Any]) -> ConfigT:
    """Build a config from parsed JSON. Unknown keys and values of a wrong type raise Problem."""
    hints = typing.get_type_hints(cls)
    unknown = sorted(set(values) - set(hints))
    if unknown:
        raise Problem(
            _(
                "{kind} has no setting {unknown}. Known settings: {known}.",
                kind=cls.__name__,
                unknown=", ".join(map(repr, unknown)),
                known=", ".join(sorted(hints)),
            )
        )
    return cls(**{name: _typed(name, hints[name], value) for name, value in values.items()})


def to_dict(config: TrainConfig | GenerateConfig | PostprocessConfig) -> dict[str, Any]:
    """The config as plain values that can be stored as JSON and read by `from_dict`."""
    values: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(config)))
    return values


def _typed(name: str, hint: Any, value: Any) -> Any:
    """`value` as the annotated type `hint`. Only the types of the fields above are supported."""
    origin, options = get_origin(hint), get_args(hint)
    if origin is types.UnionType:
        if value is None and type(None) in options:
            return None
        return _typed(name, next(o for o in options if o is not type(None)), value)
    if origin is Literal:
        _require(value in options, name, _("one of {options}", options=", ".join(map(repr, options))), value)
        return value
    if origin is tuple:
        _require(isinstance(value, list | tuple), name, _("a list"), value)
        return tuple(_typed(name, options[0], item) for item in value)
    if hint is float and type(value) in (int, float):
        _require(abs(value) <= LARGEST, name, _("a finite number of at most 18 digits"), value)
        return float(value)
    _require(type(value) is hint, name, _("of type {type}", type=hint.__name__), value)
    _require(hint is not int or abs(value) < 2**63, name, _("below 2^63"), value)
    return value
