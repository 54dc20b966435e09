"""Where the two learned words start."""

from __future__ import annotations

import torch
from torch import Tensor

from magicapture_core.concepts import Concept
from magicapture_core.config import TrainConfig
from magicapture_core.models import ModelBundle
from magicapture_core.models.words import look_features
from magicapture_core.prompts import initial_rows


def starting_rows(
    models: ModelBundle,
    config: TrainConfig,
    likenesses: Tensor,
    recogniser: str,
    style: Concept,
    generator: torch.Generator,
) -> tuple[Tensor, str | None]:
    """(2, width) float32 embeddings of [V1] and [V2] on the CPU, and what the user should know about them.

    likenesses: (photos, dim) of the subject by the network called `recogniser`. With initial_words "photos", unlike
    the paper, the model makes both words of the photos; what it cannot make starts as in the paper.
    """
    rows = initial_rows(models.tokenizer, models.text_encoder, config, generator)
    words = models.words
    if config.initial_words == "paper":
        return rows, None
    if words is None:
        return rows, f"{models.name} makes no words of photos, so both words start as in the paper."
    looks = look_features(torch.stack([example.image for example in style.examples]))
    style_row = words.style(looks)
    same = recogniser == words.recogniser
    if not same or not len(likenesses):
        why = "no photo shows a face" if same else f"faces are compared by {recogniser} here"
        note = f"The person's word starts as in the paper: it is made by {words.recogniser}, and {why}."
        return torch.stack([rows[0], style_row]), note
    return torch.stack([words.person(likenesses), style_row]), None
