"""The two placeholder tokens in a tokenizer, and their learned embeddings in a text encoder."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from magicapture_core.config import TrainConfig
from magicapture_core.languages import _
from magicapture_core.problems import Problem
from magicapture_core.prompts import TOKENS


def with_placeholders(tokenizer: Any) -> tuple[Any, tuple[int, int]]:
    """A copy of the tokenizer that knows both placeholder tokens, and their ids ([V1], [V2]).

    The ids lie past the rows of the text encoder's embedding, which stay as they are: see `learned_embeddings`.
    Raises Problem if the vocabulary holds one of the tokens already.
    """
    taken = [token for token in TOKENS if token in tokenizer.get_vocab()]
    if taken:
        raise Problem(
            _(
                "The model's vocabulary already holds {taken}: it seems to be personalised. Choose the original model.",
                taken=", ".join(taken),
            )
        )
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.add_tokens(list(TOKENS))
    subject_id, style_id = tokenizer.convert_tokens_to_ids(list(TOKENS))
    return tokenizer, (subject_id, style_id)


def initial_embeddings(
    tokenizer: Any, text_encoder: Any, config: TrainConfig, generator: torch.Generator
) -> Tensor:
    """Where the embeddings start: [V1] from the mean of the init word's tokens, [V2] from N(0, std²).

    Returns (2, width) float32 on the CPU.
    """
    weight = text_encoder.get_input_embeddings().weight
    ids = tokenizer(config.subject_init_word, add_special_tokens=False).input_ids
    subject = weight[ids].detach().float().mean(0).cpu()
    style = torch.randn(weight.shape[1], generator=generator) * config.style_init_std
    return torch.stack([subject, style])


@contextmanager
def learned_embeddings(text_encoder: Any, token_ids: tuple[int, int], embeddings: Tensor) -> Iterator[None]:
    """Within the context the text encoder reads `embeddings` (2, width) wherever the two token ids stand.

    Its own embedding is neither resized nor written, so no other row can change, the model is left
    as it was, and the gradient is two rows rather than a whole vocabulary.
    """
    table = text_encoder.get_input_embeddings()
    plain = table.forward

    def forward(input_ids: Tensor) -> Tensor:
        # The placeholders' ids lie past the table: any row may stand in before it is replaced.
        output = plain(input_ids.clamp(max=table.num_embeddings - 1))
        for token_id, embedding in zip(token_ids, embeddings, strict=True):
            here = (input_ids == token_id).unsqueeze(-1)  # b tokens 1
            output = torch.where(here, embedding.to(output.dtype), output)
        return output

    table.forward = forward
    try:
        yield
    finally:
        del table.forward


def token_positions(input_ids: Tensor, token_ids: tuple[int, int]) -> Tensor:
    """Where each placeholder stands. input_ids: (b, tokens). Returns (b, 2), -1 where it is absent."""
    found = torch.stack([input_ids == token_id for token_id in token_ids], dim=1)  # b 2 tokens
    return torch.where(found.any(-1), found.int().argmax(-1), -1)
