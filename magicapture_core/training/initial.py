"""Where the embeddings of the two placeholder tokens start."""

from __future__ import annotations

import torch
from torch import Tensor

from magicapture_core.concepts import Concept
from magicapture_core.config import TrainConfig
from magicapture_core.models import ModelBundle
from magicapture_core.models.words import look_features


def starting_embeddings(
    models: ModelBundle,
    config: TrainConfig,
    subject_features: Tensor,
    recogniser: str,
    style: Concept,
    generator: torch.Generator,
) -> tuple[Tensor, str | None]:
    """(2, width) float32 embeddings of [V1] and [V2] on the CPU, and what the user should know about them.

    subject_features: (photos, dim) by the network called `recogniser`. With initial_words "photos", unlike
    the paper, the model makes both words of the photos; what it cannot make starts as in the paper.
    """
    embeddings = models.initial_embeddings(config, generator)
    words = models.words
    if config.initial_words == "paper":
        return embeddings, None
    if words is None:
        return embeddings, f"{models.name} makes no words of photos, so both words start as in the paper."
    looks = look_features(torch.stack([example.image for example in style.examples]))
    style_embedding = words.style(looks)
    same = recogniser == words.recogniser
    if not same or not len(subject_features):
        why = "no photo shows a face" if same else f"faces are compared by {recogniser} here"
        note = f"The person's word starts as in the paper: it is made by {words.recogniser}, and {why}."
        return torch.stack([embeddings[0], style_embedding]), note
    return torch.stack([words.person(subject_features), style_embedding]), None
