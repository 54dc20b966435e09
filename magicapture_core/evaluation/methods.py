"""The methods that are compared, each a configuration of the same training loop.

A method changes only the settings that define it: photos, prompts, seeds and the number of optimizer steps are the same
for all. The "paper" schedule uses the learning rates and steps of each method's own paper.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from magicapture_core.config import VARIED, TrainConfig, from_dict, to_dict
from magicapture_core.evaluation.tasks import SMOKE
from magicapture_core.models import ModelBundle
from magicapture_core.problems import Problem
from magicapture_core.schedules import PAPER, known_schedules

QUICK_PRIOR = 40
"""`prior_pictures` in schedules other than the paper's, which have fewer steps. The papers have 200."""

_NOTHING_DECODED: dict[str, Any] = {"lambda_id": 0.0, "lambda_colour": 0.0, "lambda_lightness": 0.0}
"""Without the losses of the decoded composed picture: Eq. 7, and where a schedule has them, colour and lightness of the
face."""
# Settings that all methods without masks, without two phases and without a composed prompt have in common.
_PLAIN: dict[str, Any] = {
    **_NOTHING_DECODED, "masked": False, "lambda_attn": 0.0, "composed_weight": 0.0, "style_weight": 1.0,
    "learning_rate_decay": "constant", "initial_words": "paper",
}  # fmt: skip
_TEXTUAL_INVERSION: dict[str, Any] = {
    "paper": {"ti_steps": 5000, "lora_steps": 0, "ti_learning_rate": 5e-3}, "steps": "first phase",
}  # fmt: skip
_CUSTOM_DIFFUSION: dict[str, Any] = {
    "paper": {"ti_steps": 0, "lora_steps": 500, "lora_learning_rate": 8e-5, "embedding_learning_rate": 8e-5},
    "steps": "second phase", "words": "as weights", "adapter_scale": 1.0,
}  # fmt: skip
_FROM_PHOTOS: dict[str, Any] = {"initial_words": "photos"}
_RATES = ("ti_learning_rate", "lora_learning_rate", "embedding_learning_rate")


@dataclass(frozen=True)
class Method:
    """One row of the table."""

    name: str
    """Its name on the command line."""
    title: str
    """Its name in the table."""
    about: str
    """What it changes, in one or two sentences."""
    changes: Mapping[str, Any]
    """TrainConfig settings that make the method, in every schedule."""
    paper: Mapping[str, Any] = field(default_factory=dict)
    """Steps and learning rates of its own paper, in the paper schedule; all others are MagiCapture's."""
    steps: Literal["as given", "first phase", "second phase"] = "as given"
    """Which phase gets the steps of both phases, in every schedule except the paper's."""
    rate: float = 1.0
    """Its learning rate divided by the schedule's, of the words where all its steps are in phase 1, else of the weights
    in phase 2; in every schedule except the paper's. The baselines' were chosen from three to four values by the
    highest CSIM plus Style on p02 × sunset and p03 × sepia-print of the mini benchmark (`NAME@2`, `--part chosen`)."""
    words: Literal["as given", "phase 1", "as weights"] = "as given"
    """Learning rate of the words in phase 2, in every schedule except the paper's."""
    adapter_scale: float | None = None
    """Adapter scale for its pictures; None: the same as for portraits. 1 is the full trained change."""
    adapter_start: float = 0.0
    """Share of the denoising steps of its pictures before its LoRA is used, whatever the model suggests."""
    times: float = 1.0
    """All of its learning rates are multiplied by this, in every schedule."""
    trains: bool = True
    """False: its pictures are drafts, made with the words that the model computes from the photos."""
    paper_row: tuple[float, float, float] | None = None
    """CSIM, Style and Aesthetic in MagiCapture's Table 1 (SD 1.5; 10 identities × 10 styles × 100 pictures)."""

    def config(self, schedule: str, models: ModelBundle, seed: int = 0) -> TrainConfig:
        """Its settings for a model. Raises Problem for a schedule that neither the model nor evaluations have."""
        base = _base(schedule, models)
        values = {**to_dict(base), **self.changes, "seed": seed}
        if schedule == PAPER:
            values |= self.paper
        else:
            values |= self._moved_steps(base)
            learned = "ti_learning_rate" if self.steps == "first phase" else "lora_learning_rate"
            values[learned] = rate = values[learned] * self.rate
            if self.words != "as given":
                values["embedding_learning_rate"] = base.ti_learning_rate if self.words == "phase 1" else rate
        values |= {each: values[each] * self.times for each in _RATES}
        # The table shows the attention at the end of the training only.
        quiet = {"sample_every": 0, "attention_every": max(1, base.ti_steps + base.lora_steps)}
        return from_dict(TrainConfig, values | quiet)

    def _moved_steps(self, base: TrainConfig) -> dict[str, Any]:
        total = base.ti_steps + base.lora_steps
        if self.steps == "first phase":
            return {"ti_steps": total, "lora_steps": 0}
        if self.steps == "second phase":
            return {"ti_steps": 0, "lora_steps": total}
        return {}


def _base(schedule: str, models: ModelBundle) -> TrainConfig:
    """The settings of MagiCapture itself in a schedule."""
    start = {"resolution": models.resolution}
    if schedule == SMOKE:
        few = {
            "ti_steps": 2,
            "lora_steps": 2,
            "batch_size": 1,
            "gradient_accumulation": 1,
            "prior_pictures": 2,
        }
        side = models.schedules.get("quick", {}).get("attention_resolution")
        return from_dict(TrainConfig, {**start, **few, "attention_resolution": side})
    known = known_schedules(models.schedules)
    if schedule not in known:
        raise Problem(
            f"The schedule must be one of {', '.join([SMOKE, *known])} for this model, got {schedule!r}."
        )
    few_pictures = {} if schedule == PAPER else {"prior_pictures": QUICK_PRIOR}
    return from_dict(TrainConfig, {**start, **few_pictures, **known[schedule]})


METHODS: dict[str, Method] = {
    method.name: method
    for method in (
        Method(
            "magicapture", "MagiCapture",
            "In the paper's schedule as in the paper: both phases, all objectives. Other schedules may leave out phase "
            "1, measure Eq. 8 in another way, and train on the colour and lightness of the face, too.",
            {},
            paper_row=(0.566, 0.730, 6.218),
        ),
        Method(
            "paper_ar", "AR as in the paper",
            "Eq. 8 measures a map by its own extremes, as the paper's does.",
            {"attention_scale": "extremes"},
        ),
        Method(
            "draft", "draft, no training",
            "No training: the model computes both words from the photos (a model with words.safetensors only).",
            {}, trains=False,
        ),
        Method(
            "paper_start", "start as in the paper",
            "The words start as in the paper, not from the photos.", {"initial_words": "paper"},
        ),
        Method("no_ar", "without AR", "Without Attention Refocusing (Eq. 8).", {"lambda_attn": 0.0}),
        Method(
            "no_composed", "without composed prompt",
            "Without composed-prompt learning (Eq. 6); what is taken on the composed prompt goes, too: the identity "
            "loss (Eq. 7) and, where a schedule has them, the losses of the face's colour and lightness.",
            {**_NOTHING_DECODED, "composed_weight": 0.0},
        ),
        Method(
            "no_ar_no_composed", "without both",
            "Masked reconstruction alone (Eqs. 4 and 5): no loss of the face's colour and lightness, either.",
            {**_NOTHING_DECODED, "lambda_attn": 0.0, "composed_weight": 0.0},
            paper_row=(0.429, 0.726, 6.178),
        ),
        Method(
            "no_identity", "without identity loss",
            "Without Eq. 7; a schedule's losses of the face's colour and lightness stay.", {"lambda_id": 0.0},
        ),
        Method(
            "one_phase", "one phase only",
            "Words and LoRA together from the first step, for as many steps as both phases; the words learn at phase "
            "1's rate.",
            {}, {"ti_steps": 0, "lora_steps": 2700, "embedding_learning_rate": 5e-4}, steps="second phase",
            words="phase 1",
        ),
        Method(
            "late", "LoRA used late",
            f"The same training; the first {VARIED:.0%} of the denoising steps of its pictures are done without the "
            "LoRA (the choice “Varied” of the wizard).",
            {}, adapter_start=VARIED,
        ),
        Method(
            "dreambooth", "DreamBooth",
            "Ruiz et al. 2023: the whole UNet, without masks; the two words stay as they start, as rare words do.",
            {**_PLAIN, "trained": "unet", "embedding_learning_rate": 0.0, "subject_init_word": "sks",
             "lora_weight_decay": 0.01},
            {"ti_steps": 0, "lora_steps": 1000, "lora_learning_rate": 5e-6},
            steps="second phase", rate=0.0125, adapter_scale=1.0, paper_row=(0.102, 0.720, 5.770),
        ),
        Method(
            "dreambooth_prior", "DreamBooth with prior preservation",
            f"DreamBooth, and {QUICK_PRIOR} pictures of any person (200 in the paper's schedule) must stay as the "
            "model draws them (weight 1).",
            {**_PLAIN, "trained": "unet", "embedding_learning_rate": 0.0, "subject_init_word": "sks",
             "lora_weight_decay": 0.01, "prior_weight": 1.0},
            {"ti_steps": 0, "lora_steps": 1000, "lora_learning_rate": 5e-6},
            steps="second phase", rate=0.0125, adapter_scale=1.0,
        ),
        Method(
            "textual_inversion", "Textual Inversion",
            "Gal et al. 2023: the two words alone, without masks.",
            _PLAIN, rate=3.0, paper_row=(0.224, 0.623, 5.670), **_TEXTUAL_INVERSION,
        ),
        Method(
            "textual_inversion_photos", "Textual Inversion, words from photos",
            "Textual Inversion, whose words start from the photos, as MagiCapture's do in the quick schedule.",
            {**_PLAIN, **_FROM_PHOTOS}, rate=0.2, **_TEXTUAL_INVERSION,
        ),
        Method(
            "custom_diffusion", "Custom Diffusion",
            "Kumari et al. 2023: keys and values of cross-attention and the two words, jointly on both sets of "
            "photos, without masks. Without its random resizing and its regularisation pictures.",
            {**_PLAIN, "trained": "cross_kv", "lora_weight_decay": 0.01},
            rate=0.5, paper_row=(0.436, 0.606, 5.263), **_CUSTOM_DIFFUSION,
        ),
        Method(
            "custom_diffusion_photos", "Custom Diffusion, words from photos",
            "Custom Diffusion, whose words start from the photos, as MagiCapture's do in the quick schedule.",
            {**_PLAIN, **_FROM_PHOTOS, "trained": "cross_kv", "lora_weight_decay": 0.01}, rate=0.08,
            **_CUSTOM_DIFFUSION,
        ),
    )
}  # fmt: skip
"""By name. Where a paper's schedule is for another model than Stable Diffusion (DreamBooth's for Imagen has 1e-5), the
schedule that its authors give for Stable Diffusion is used. Textual Inversion's is for LDM, with its base learning
rate."""


def method_of(name: str) -> Method:
    """The method of a name. "NAME@2" is NAME with all learning rates doubled. Raises Problem for an unknown name."""
    base, at, times = name.partition("@")
    if base not in METHODS:
        raise Problem(f"There is no method {base!r}. Known: {', '.join(METHODS)}, all.")
    method = METHODS[base]
    if not at:
        return method
    try:
        factor = float(times)
    except ValueError:
        factor = 0.0
    if not (0 < factor < math.inf and method.trains):
        raise Problem(
            f"{name!r} is not understood: NAME@2 is a method that trains, with all its learning rates doubled, "
            "NAME@0.5 with half of them."
        )
    return replace(
        method, name=f"{base}@{factor:g}", title=f"{method.title}, learning rates × {factor:g}", times=factor
    )


def choose_methods(names: str) -> list[Method]:
    """Methods of a comma-separated list (see `method_of`), or "all". Raises Problem for an unknown name."""
    wanted = list(METHODS) if names.strip() == "all" else [name.strip() for name in names.split(",")]
    return list({method.name: method for method in map(method_of, wanted)}.values())


def in_order(names: Iterable[str]) -> list[Method]:
    """Methods of these names, as they stand in a table: as in METHODS, variants of a method after it."""
    order = list(METHODS)
    methods = [method_of(name) for name in names]
    return sorted(methods, key=lambda method: (order.index(method.name.partition("@")[0]), method.times))


def differing(config: TrainConfig, base: TrainConfig) -> dict[str, Any]:
    """The settings in which a method differs from another, for tables and pages."""
    ours, theirs = dataclasses.asdict(config), dataclasses.asdict(base)
    return {name: value for name, value in ours.items() if value != theirs[name]}
