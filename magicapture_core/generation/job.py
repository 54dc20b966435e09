"""Checks and preparations before the first denoising step."""

from __future__ import annotations

import re
import secrets
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from magicapture_core.adapters.attach import ExtraLora
from magicapture_core.attention import cross_attention_sides
from magicapture_core.config import GenerateConfig, to_dict
from magicapture_core.generation.learned import Learned
from magicapture_core.languages import _
from magicapture_core.models import ModelBundle
from magicapture_core.models.placeholders import with_placeholders
from magicapture_core.problems import Problem
from magicapture_core.prompts import (
    STYLE_TOKEN,
    SUBJECT_TOKEN,
    TOKENS,
    Expanded,
    expand,
    unknown_said,
    unknown_words,
    words_of,
)

SHOWN_REST = 200
"""Letters of a prompt's cut-off end that the warning quotes."""
UNUSUAL = 1.6
"""Times as many or as few pixels as the model's own: from here on, the size is remarked on."""
SMALL_MODEL = 200_000_000
"""Parameters of a UNet below which several pictures at once fit everywhere; SD 1.5 has 860 million."""


@dataclass
class Job:
    """What the denoising loop works from."""

    models: ModelBundle
    config: GenerateConfig
    learned: Learned | None
    """None: the model without an adapter."""
    token_ids: tuple[int, int] | None
    input_ids: Tensor
    """(2, tokens): the prompt and the negative prompt."""
    token_weights: Tensor | None
    """(2, tokens) how much each token counts; None: all the same."""
    words: dict[str, list[int]]
    """Asked word -> its positions in the prompt."""
    attention_side: int | None
    """Side of the maps that are listened to; None where none are wanted."""
    size: tuple[int, int]
    """(width, height) in pixels."""
    seeds: list[int]
    warnings: tuple[str, ...]
    adapter_scale: float
    """Strength of the run's weights for this prompt."""
    extra: ExtraLora | None = None

    @classmethod
    def prepared(
        cls,
        models: ModelBundle,
        learned: Learned | None,
        config: GenerateConfig,
        extra: ExtraLora | None = None,
    ) -> Job:
        """Raises Problem for whatever is wrong with the settings."""
        noun = learned.noun if learned else "person"
        prompts = [expand(config.prompt, noun), expand(config.negative_prompt, noun, negative=True)]
        tokenizer, token_ids = models.tokenizer, None
        warnings = [note for prompt in prompts for note in prompt.notes]
        if learned:
            tokenizer, token_ids = with_placeholders(models.tokenizer)
            warnings += [*prompts[0].warnings, *learned.warnings]
        elif any(token in prompt.text for token in TOKENS for prompt in prompts):
            raise Problem(
                _(
                    "The prompt names {subject} or {style}, which only a trained run knows. Give a run, or say in "
                    "words what to draw."
                )
            )
        if unknown := unknown_words(config.prompt, models.vocabulary):
            warnings.append(unknown_said(unknown, models.name))
        adapter_scale, held_back = _strength(models, learned, config)
        warnings += held_back
        input_ids, spans, cut = _tokenize(tokenizer, [prompt.text for prompt in prompts])
        warnings += cut
        trained = learned.resolution if learned else models.resolution
        size = (config.width or trained, config.height or trained)
        warnings += _unusual_size(models, size)
        words = _read_words(config, prompts[0].text, spans[0])
        unread = [word for word in config.attention_words if word not in words]
        if unread and not cut:  # the warning about the cut names these already
            warnings.append(
                _("No heat map of {words}: the model does not read it as a word.", words=", ".join(unread))
            )
        side = None
        if words and size[0] != size[1]:
            words = {}
            warnings.append(_("Attention heat maps are only made of square pictures; there will be none."))
        elif words:
            side = _attention_side(models, size[0], learned.attention_per_pixel if learned else 1 / 32)
        first = config.seed if config.seed is not None else secrets.randbelow(2**32)
        return cls(
            models=models,
            config=config,
            learned=learned,
            token_ids=token_ids,
            input_ids=input_ids,
            token_weights=_token_weights(prompts, spans),
            words=words,
            attention_side=side,
            size=size,
            seeds=list(range(first, first + config.count)),
            warnings=tuple(warnings),
            adapter_scale=adapter_scale,
            extra=extra,
        )

    @property
    def enlarge(self) -> float:
        """How many times as wide and high the pictures become after denoising."""
        return self.config.enlarge or float(self.models.generate_defaults.get("enlarge", 1.0))

    @property
    def settings(self) -> dict[str, Any]:
        """The settings that are stored in the pictures. Of a model's path only the last part is stored."""
        config = to_dict(self.config)
        kept = ("negative_prompt", "steps", "guidance_scale", "adapter_scale", "scheduler")
        name = self.models.name
        extra = {"extra_lora": f"{self.extra.file.name}:{self.extra.scale:g}"} if self.extra else {}
        # What was asked for gives the same picture again; what was used is told beside it.
        less = self.adapter_scale != self.config.adapter_scale
        used = {"adapter_scale_used": self.adapter_scale} if less else {}
        late = {"adapter_start": self.config.adapter_start} if self.config.adapter_start else {}
        near = {"near": config["near"], "variation": config["variation"]} if config["near"] else {}
        return {
            **near,
            **{key: config[key] for key in kept},
            **used,
            **late,
            **extra,
            "width": self.size[0],
            "height": self.size[1],
            "enlarge": self.enlarge,
            "model": Path(name).name if Path(name).exists() else name,
        }

    def batches(self) -> Iterator[list[int]]:
        """Seeds of the pictures that are denoised together."""
        per_call = self.config.pictures_per_call or _fitting_pictures(self.models)
        for start in range(0, len(self.seeds), per_call):
            yield self.seeds[start : start + per_call]


def _strength(
    models: ModelBundle, learned: Learned | None, config: GenerateConfig
) -> tuple[float, list[str]]:
    """How strongly the run's weights are used, and what to say where that is less than was asked for."""
    if learned is None or learned.adapter is None:
        return config.adapter_scale, []
    found = [word for word in words_of(config.prompt) if word.lower() in models.strength_with]
    if not found or not config.adapter_scale:
        return config.adapter_scale, []
    # Rounded, for it is shown and stored.
    scale = round(config.adapter_scale * min(models.strength_with[word.lower()] for word in found), 3)
    said = _(
        "With “{words}” in the prompt, what was learned is used at strength {scale} instead of {whole}: at more, the "
        "portrait would not show it.",
        words=", ".join(found), scale=f"{scale:g}", whole=f"{config.adapter_scale:g}",
    )  # fmt: skip
    return scale, [said]


def _tokenize(tokenizer: Any, prompts: list[str]) -> tuple[Tensor, list[list[tuple[int, int]]], list[str]]:
    """(b, tokens) ids of the model's fixed length, what letters of its prompt each token stands for (first, past the
    last; the same twice: none), and a warning for each prompt that was cut."""
    length = tokenizer.model_max_length
    warnings = []
    for prompt in prompts:
        if any("\ud800" <= letter <= "\udfff" for letter in prompt):
            raise Problem(_("The prompt has half a character in it. Type it again instead of pasting it."))
        ids = tokenizer(prompt).input_ids
        if len(ids) > length:
            # A copied tokenizer leaves its mark for a word's end in what it decodes.
            rest = tokenizer.decode(ids[length - 1 : -1]).replace("</w>", " ").strip()
            warnings.append(
                _(
                    "The prompt is longer than the model reads ({tokens} of {most} tokens). This is cut off: "
                    '"{rest}".',
                    tokens=len(ids), most=length, rest=textwrap.shorten(rest, SHOWN_REST),
                )
            )  # fmt: skip
    options = {"padding": "max_length", "max_length": length, "truncation": True, "return_tensors": "pt"}
    read = tokenizer(prompts, **options, return_offsets_mapping=True)
    return read.input_ids, read.offset_mapping.tolist(), warnings


def _token_weights(prompts: list[Expanded], spans: list[list[tuple[int, int]]]) -> Tensor | None:
    """(b, tokens) how much each counts, by its first letter: no token reaches over a mark. None: all the same."""
    if all(prompt.weights is None for prompt in prompts):
        return None
    return torch.tensor(
        [
            [prompt.weights[start] if prompt.weights and start < end else 1.0 for start, end in places]
            for prompt, places in zip(prompts, spans, strict=True)
        ]
    )


def _read_words(config: GenerateConfig, text: str, spans: list[tuple[int, int]]) -> dict[str, list[int]]:
    """The asked words that the model reads, each with the positions of its tokens.

    text: the prompt as it is tokenized; spans: by `_tokenize`. A word may stand where the prompt is cut off.
    Raises Problem for a word that is not in the prompt as the user wrote it.
    """
    read = {}
    for word in config.attention_words:
        places = _places({"{subject}": SUBJECT_TOKEN, "{style}": STYLE_TOKEN}.get(word, word), text)
        if not places and not _places(word, config.prompt):
            raise Problem(
                _(
                    "attention_words has {word!r}, which is not in the prompt. Choose words of the prompt.",
                    word=word,
                )
            )
        positions = [
            n
            for n, (start, end) in enumerate(spans)
            if any(start < last and first < end for first, last in places)
        ]
        if positions:
            read[word] = positions
    return read


def _places(word: str, text: str) -> list[tuple[int, int]]:
    """Where `word` stands in a text, not as a part of a longer word: (first letter, past the last)."""
    word = word.strip()
    before = r"(?<![^\W_])" if word[:1].isalnum() else ""
    after = r"(?![^\W_])" if word[-1:].isalnum() else ""
    pattern = before + r"\s+".join(map(re.escape, word.split())) + after
    return [found.span() for found in re.finditer(pattern, text, re.IGNORECASE)] if word else []


def _attention_side(models: ModelBundle, pixels: int, per_pixel: float) -> int:
    """Of the map sizes at hand, the one nearest to what training listened to at its own resolution."""
    sides = cross_attention_sides(models.unet, pixels // models.vae_scale_factor)
    return min(sides, key=lambda side: abs(side - per_pixel * pixels))


def _unusual_size(models: ModelBundle, size: tuple[int, int]) -> list[str]:
    """What to say of a size that is far from those that the model was made for; nothing where any size will do."""
    suiting = models.suiting_sizes()
    share = size[0] * size[1] / models.resolution**2
    if not suiting or 1 / UNUSUAL <= share <= UNUSUAL:
        return []
    listed = ", ".join(f"{width}×{height}" for width, height in suiting)
    return [
        _(
            "{width}×{height} is far from the sizes that this model was made for ({sizes}); things can come out "
            "double, or cut off.",
            width=size[0], height=size[1], sizes=listed,
        )
    ]  # fmt: skip


def _fitting_pictures(models: ModelBundle) -> int:
    small = sum(parameter.numel() for parameter in models.unet.parameters()) < SMALL_MODEL
    return 4 if small or models.device.type != "cpu" else 1
