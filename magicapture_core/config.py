"""Every setting, once. Command line, wizard, presets, checks and model cards derive from here."""

from __future__ import annotations

import dataclasses
import json
import math
import types
import typing
from dataclasses import dataclass
from typing import Any, Literal, TypeVar, get_args, get_origin

from magicapture_core.problems import Problem

SubjectKind = Literal["person", "object"]
Framing = Literal["photo", "aligned"]
"""How photos become square pictures: cut out as they are, or straightened to FFHQ's frame."""
InitialWords = Literal["paper", "photos"]
AGES = ("young", "middle-aged", "old")
PEOPLE = ("person", "woman", "man")
LoraTarget = Literal["cross", "self", "feed_forward", "text_encoder"]
Trained = Literal["lora", "cross_kv", "unet"]
Scheduler = Literal["euler_ancestral", "dpm++", "unipc", "ddim"]
Upscaler = Literal["auto", "realesrgan", "mini", "lanczos"]
Restorer = Literal["auto", "gfpgan", "codeformer", "none"]

ConfigT = TypeVar("ConfigT", "TrainConfig", "GenerateConfig", "PostprocessConfig")


@dataclass(frozen=True)
class TrainConfig:
    """How a person and a style are learned. The defaults are the paper's, but for `identity_decode` and `flip`."""

    subject_kind: SubjectKind = "person"
    """What the subject photos show. "object" learns a thing: a foreground mask instead of a face mask,
    and an image-feature similarity instead of face recognition in Eq. 7."""
    subject_words: str = ""
    """What a person is called in prompts: "woman", "man" or "person", after an age in words if wanted (young,
    middle-aged, old): "old man". Empty: "person". Helps a small model that would guess otherwise."""
    resolution: int = 512
    """Side of the square training pictures, in pixels; a multiple of 8 that suits the model."""
    ti_steps: int = 1200
    """Optimizer steps of phase 1 (textual inversion)."""
    lora_steps: int = 1500
    """Optimizer steps of phase 2 (LoRA and embeddings together)."""
    batch_size: int = 1
    """Items of each task (source, reference, composed) per accumulated batch."""
    gradient_accumulation: int = 4
    """Batches per optimizer step. A step covers batch_size × gradient_accumulation items of each task."""
    items_per_call: int | None = None
    """Items of each task that go through the UNet at once. None: as many as memory is expected to hold.
    The gradient is the same whatever the value."""
    ti_learning_rate: float = 5e-4
    """Learning rate of the two embeddings in phase 1."""
    lora_learning_rate: float = 1e-4
    """Learning rate of the LoRA weights in phase 2."""
    embedding_learning_rate: float = 1e-5
    """Learning rate of the two embeddings in phase 2."""
    learning_rate_decay: Literal["linear", "constant"] = "linear"
    """Course of the learning rates within a phase, without warm-up (paper: silent; its code: linear)."""
    lora_weight_decay: float = 1e-3
    """Weight decay of the LoRA weights (AdamW). Embeddings are never decayed."""
    max_grad_norm: float | None = None
    """Clip the gradient to this norm. Unlike the paper, if set."""
    trained: Trained = "lora"
    """What phase 2 trains beside the embeddings. Unlike the paper, if not "lora": "cross_kv" trains the keys' and
    values' projections of cross-attention themselves (Custom Diffusion), "unet" the whole UNet (DreamBooth)."""
    lora_rank: int = 4
    """Rank of U and V in Eq. 3."""
    lora_alpha: float | None = None
    """LoRA scaling numerator; the update is multiplied by alpha / rank. None: equal to the rank (Eq. 3)."""
    lora_targets: tuple[LoraTarget, ...] = ("cross",)
    """What LoRA adapts. Unlike the paper, if more than ("cross",): its code also adapts the others."""
    lambda_id: float = 0.25
    """Weight of the identity loss, Eq. 7 (phase 2). 0 turns it and its second UNet pass off."""
    lambda_attn: float = 2.5
    """Weight of Attention Refocusing, Eq. 8 (phase 2). 0 turns it off."""
    lambda_colour: float = 0.0
    """Weight of the colour of the face (phase 2): unlike the paper, if above 0, the face of a composed picture is
    drawn toward the colour that the faces of the style's photos share, as far as they share one."""
    lambda_lightness: float = 0.0
    """Weight of the lightness of the skin (phase 2): unlike the paper, if above 0, a person whose face is
    darker than most in their own photos is drawn so in the style's light, too; nobody is drawn lighter than the
    style's faces. A little is enough."""
    composed_weight: float = 1.0
    """Weight of composed-prompt learning, Eq. 6 (phase 2). Unlike the paper, if 0: no composed prompt."""
    masked: bool = True
    """Take Eqs. 4 to 6 over their regions. Unlike the paper, if not: over the whole picture, as methods do that know
    no masks."""
    prior_weight: float = 0.0
    """Weight of DreamBooth's prior preservation (phase 2). Unlike the paper, if above 0: pictures that the untrained
    model makes of any person must stay as they are."""
    prior_pictures: int = 200
    """How many of them are made before training."""
    identity_time_limit: float = 0.8
    """T' / T in Eq. 7: t_id is drawn from the first part of the noise schedule only."""
    identity_decode: Literal["face", "full", "tiny"] = "face"
    """What is decoded for Eq. 7. Unlike the paper, which decodes the whole picture ("full"), the default "face" decodes
    only the latents around the face, for less memory and time; the decoder then knows nothing of what lies around.
    "tiny" decodes the face by the tiny decoder TAESD, whose weights must be at hand."""
    attention_scale: Literal["extremes", "region"] = "extremes"
    """What Eq. 8 measures a word's attention by: its map's own extremes, as in the paper, or, unlike the paper, its
    mean within the word's region, so that a word gains nothing by being attended to less everywhere."""
    attention_resolution: int | None = None
    """Side of the cross-attention maps that Eq. 8 listens to. None: nearest to resolution / 32 (16 at 512)."""
    style_weight: float = 2.0
    """Weight of Eqs. 5 and 6 in the first part of each phase."""
    style_weight_until: float = 0.5
    """Length of that part, as a share of the phase."""
    embedding_norm: float | None = None
    """Unlike the paper, if set (its code: 0.4): embeddings are pulled toward this norm in phase 1."""
    initial_words: InitialWords = "paper"
    """Where [V1] and [V2] start: as in the paper, or, unlike the paper, if "photos": as words that a model with
    words.safetensors makes of the photos' faces and looks. Other models keep the paper's start."""
    style_init_std: float = 0.017
    """Standard deviation of the normal distribution from which [V2] starts."""
    subject_init_word: str = "person"
    """Word whose embedding [V1] starts from."""
    flip: bool = True
    """Unlike the paper, which says nothing of it, also train on mirrored photos (with their mirrored masks and
    landmarks): few photos then show more poses."""
    gradient_checkpointing: bool = False
    """Trade time for memory in the UNet's backward pass. It is done in any case where memory is not expected to hold
    one item at a time without it."""
    seed: int = 0
    """Seed of every random draw of the run."""
    checkpoint_every: int = 200
    """Optimizer steps between checkpoints (one is also written at the end of each phase and when stopped)."""
    keep_checkpoints: int = 2
    """How many of the newest checkpoints stay on disk."""
    sample_every: int = 150
    """Optimizer steps between sample pictures of the composed prompt. 0: none."""
    sample_steps: int = 20
    """Denoising steps of a sample picture."""
    attention_every: int = 50
    """Optimizer steps between attention maps. 0: none."""

    def __post_init__(self) -> None:
        positive = ("resolution", "batch_size", "gradient_accumulation", "lora_rank", "sample_steps",
                    "checkpoint_every", "keep_checkpoints", "prior_pictures")  # fmt: skip
        for name in positive:
            _require(getattr(self, name) >= 1, name, "1 or more", getattr(self, name))
        not_negative = ("ti_steps", "lora_steps", "ti_learning_rate", "lora_learning_rate",
                        "embedding_learning_rate", "lora_weight_decay", "lambda_id", "lambda_attn",
                        "lambda_colour", "lambda_lightness", "composed_weight", "prior_weight", "style_weight",
                        "style_init_std", "sample_every", "attention_every", "seed")  # fmt: skip
        for name in not_negative:
            value = getattr(self, name)
            _require(value >= 0 and math.isfinite(value), name, "0 or more", value)
        optional = ("items_per_call", "max_grad_norm", "lora_alpha", "embedding_norm", "attention_resolution")
        for name in optional:
            value = getattr(self, name)
            _require(value is None or value > 0, name, "None or more than 0", value)
        _require(self.seed < 2**63, "seed", "below 2^63", self.seed)
        _require(self.resolution % 8 == 0, "resolution", "a multiple of 8", self.resolution)
        _require(self.ti_steps + self.lora_steps >= 1, "ti_steps + lora_steps", "1 or more", 0)
        _require(0 < self.identity_time_limit <= 1, "identity_time_limit", "above 0, at most 1",
                 self.identity_time_limit)  # fmt: skip
        _require(0 <= self.style_weight_until <= 1, "style_weight_until", "0 to 1", self.style_weight_until)
        _require("cross" in self.lora_targets, "lora_targets", 'at least "cross"', self.lora_targets)
        _require(bool(self.subject_init_word.strip()), "subject_init_word", "a word", self.subject_init_word)
        if self.subject_words:
            check_noun(self.subject_words)

    @property
    def noun(self) -> str:
        """What the subject is called in prompts."""
        return (
            self.subject_words if self.subject_words and self.subject_kind == "person" else self.subject_kind
        )

    @property
    def decodes(self) -> bool:
        """Whether phase 2 decodes what it predicts, for Eq. 7 or what else is asked of the face."""
        return self.lambda_id + self.lambda_colour + self.lambda_lightness > 0

    @property
    def items_per_step(self) -> int:
        """Items of each task that one optimizer step covers (per process)."""
        return self.batch_size * self.gradient_accumulation

    @property
    def attention_side(self) -> float:
        """Side of the attention maps that is wanted; the model may only have one near it."""
        return self.attention_resolution or self.resolution / 32


@dataclass(frozen=True)
class GenerateConfig:
    """How portraits are made from a trained run."""

    prompt: str = "a photo of a {subject} in the {style}"
    """What to show. {subject} stands for the learned person, {style} for the learned style. (word:1.3) counts 1.3
    times as much, (word) 1.1 times, [word] less; \\( is a plain parenthesis."""
    negative_prompt: str = ""
    """What to avoid. Weights as in the prompt."""
    count: int = 4
    """How many portraits."""
    seed: int | None = None
    """Seed of the first portrait; the others follow on. None: drawn at random and reported."""
    steps: int = 50
    """Denoising steps."""
    guidance_scale: float = 7.0
    """Strength of classifier-free guidance."""
    adapter_scale: float = 0.8
    """Strength of the learned LoRA weights; 0.6 to 1.0 is usual."""
    scheduler: Scheduler = "euler_ancestral"
    """Sampler."""
    width: int | None = None
    """Width in pixels. None: the size the run was trained at."""
    height: int | None = None
    """Height in pixels. None: the size the run was trained at."""
    enlarge: float | None = None
    """How many times as wide and high each portrait is made by super-resolution. None: what suits the model; pictures
    of full-size models stay as they are."""
    pictures_per_call: int | None = None
    """Pictures denoised together. None: 4 on a GPU and for small models, else 1."""
    attention_words: tuple[str, ...] = ()
    """Words of the prompt whose attention heat maps are wanted ("{subject}" and "{style}" included)."""

    def __post_init__(self) -> None:
        _require(bool(self.prompt.strip()), "prompt", "some text", self.prompt)
        _require(1 <= self.count <= 1000, "count", "1 to 1000", self.count)
        _require(1 <= self.steps <= 1000, "steps", "1 to 1000", self.steps)
        _require(self.seed is None or 0 <= self.seed < 2**63, "seed", "None or 0 to 2^63 - 1", self.seed)
        _require(0 <= self.guidance_scale <= 50, "guidance_scale", "0 to 50", self.guidance_scale)
        _require(0 <= self.adapter_scale <= 2, "adapter_scale", "0 to 2", self.adapter_scale)
        for name in ("width", "height"):
            value = getattr(self, name)
            _require(value is None or (64 <= value <= 4096 and value % 8 == 0), name,
                     "None or a multiple of 8 from 64 to 4096", value)  # fmt: skip
        _require(self.enlarge is None or 1 <= self.enlarge <= 8, "enlarge", "None or 1 to 8", self.enlarge)
        per_call = self.pictures_per_call
        _require(per_call is None or per_call >= 1, "pictures_per_call", "None or 1 or more", per_call)


@dataclass(frozen=True)
class PostprocessConfig:
    """How a picture becomes a portrait to keep: super-resolution of all of it, restoration of its faces."""

    upscale: float = 2.0
    """How many times as wide and high the portrait is; 1 leaves the size alone."""
    upscaler: Upscaler = "auto"
    """"realesrgan" (downloads its weights where they are not here), "mini" (small, bundled), "lanczos" (plain
    enlargement). "auto": on a GPU Real-ESRGAN where its weights are here, else mini; it downloads nothing."""
    upscale_strength: float = 1.0
    """0 to 1: how much of the super-resolution to mix with the plain enlargement; less keeps more of the grain."""
    restore: Restorer = "auto"
    """"gfpgan" (GFPGAN v1.4), "codeformer" (for non-commercial use only) or "none"; the first two download their
    weights where they are not here. "auto": GFPGAN where its weights are here, else none; it downloads nothing."""
    fidelity: float = 0.5
    """CodeFormer only, 0 to 1: lower looks better, higher stays closer to the face as it was."""
    restore_strength: float = 1.0
    """0 to 1: how much of the restored face to blend in, at most."""
    identity_budget: float = 0.1
    """What restoration may cost of the identity score (a cosine); beyond it the face is blended back."""
    order: Literal["upscale_first", "restore_first"] = "upscale_first"
    """Whether faces are restored after super-resolution or before it."""
    max_side: int = 4096
    """The longest side of the portrait in pixels, whatever `upscale` says; it bounds memory and time."""
    tile: int = 256
    """Side of the tiles that super-resolution works on, in pixels of the picture; it bounds memory."""
    tile_margin: int = 64
    """What each tile sees of its neighbours, in pixels; less than the default can show seams."""

    def __post_init__(self) -> None:
        _require(1 <= self.upscale <= 8, "upscale", "1 to 8", self.upscale)
        for name in ("upscale_strength", "fidelity", "restore_strength"):
            _require(0 <= getattr(self, name) <= 1, name, "0 to 1", getattr(self, name))
        _require(0 <= self.identity_budget <= 2, "identity_budget", "0 to 2", self.identity_budget)
        _require(64 <= self.max_side <= 16384, "max_side", "64 to 16384", self.max_side)
        _require(32 <= self.tile <= 2048 and self.tile % 8 == 0, "tile", "a multiple of 8 from 32 to 2048",
                 self.tile)  # fmt: skip
        _require(8 <= self.tile_margin <= 256 and self.tile_margin % 8 == 0, "tile_margin",
                 "a multiple of 8 from 8 to 256", self.tile_margin)  # fmt: skip


LARGEST = 10**18
"""Beyond it no setting means anything, and libraries overflow."""


def check_noun(words: str) -> None:
    """Raise Problem unless a person may be called so."""
    *age, noun = words.split(" ")
    _require(noun in PEOPLE and (not age or (len(age) == 1 and age[0] in AGES)), "subject_words",
             f"one of {', '.join(PEOPLE)}, alone or after one of {', '.join(AGES)}", words)  # fmt: skip


def _require(holds: bool, name: str, expected: str, got: object) -> None:
    if not holds:
        raise Problem(f"{name} must be {expected}, got {got!r}.")


def from_dict(cls: type[ConfigT], values: dict[str, Any]) -> ConfigT:
    """Build a config from parsed JSON. Unknown keys and values of a wrong type raise Problem."""
    hints = typing.get_type_hints(cls)
    unknown = sorted(set(values) - set(hints))
    if unknown:
        raise Problem(
            f"{cls.__name__} has no setting {', '.join(map(repr, unknown))}. "
            f"Known settings: {', '.join(sorted(hints))}."
        )
    return cls(**{name: _typed(name, hints[name], value) for name, value in values.items()})


def to_dict(config: TrainConfig | GenerateConfig | PostprocessConfig) -> dict[str, Any]:
    """The config as plain values that JSON holds and `from_dict` takes back."""
    values: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(config)))
    return values


def _typed(name: str, hint: Any, value: Any) -> Any:
    """`value` as the annotated type `hint` (a small closed set: the ones used above)."""
    origin, options = get_origin(hint), get_args(hint)
    if origin is types.UnionType:
        if value is None and type(None) in options:
            return None
        return _typed(name, next(o for o in options if o is not type(None)), value)
    if origin is Literal:
        _require(value in options, name, f"one of {', '.join(map(repr, options))}", value)
        return value
    if origin is tuple:
        _require(isinstance(value, list | tuple), name, "a list", value)
        return tuple(_typed(name, options[0], item) for item in value)
    if hint is float and type(value) in (int, float):
        _require(abs(value) <= LARGEST, name, "a finite number of at most 18 digits", value)
        return float(value)
    _require(type(value) is hint, name, f"of type {hint.__name__}", value)
    _require(hint is not int or abs(value) <= LARGEST, name, "a number of at most 18 digits", value)
    return value
