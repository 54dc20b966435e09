"""Prompt templates, the two placeholder tokens, and the rows of the embedding that are learned."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from magicapture_core.config import TrainConfig
from magicapture_core.problems import Problem

SUBJECT_TOKEN = "<subject>"
"""[V1] of the paper."""
STYLE_TOKEN = "<style>"
"""[V2] of the paper."""
TOKENS = (SUBJECT_TOKEN, STYLE_TOKEN)
COMPOSED_PROMPT = "a photo of a {subject} in the {style}"

OPENINGS = (
    "a photo of a",
    "a photo of the",
    "a picture of a",
    "a portrait of a",
    "a close-up photo of a",
    "a good photo of a",
    "a photo of one",
    "a bright photo of a",
    "a cropped photo of a",
    "an image of a",
)
ENDINGS = {
    "prior": "{kind}",
    "source": "{subject}",
    "reference": f"{{kind}} in the {STYLE_TOKEN} style",
    "composed": f"{{subject}} in the {STYLE_TOKEN} style",
}
Task = Literal["prior", "source", "reference", "composed"]
"""What an item teaches: any person (DreamBooth's prior preservation only), the subject, the style, both together."""


def templates(task: Task, noun: str = "person") -> list[str]:
    """The predefined prompts of a task: c_s, c_r or c_c of the paper, or its class alone.

    noun: what the subject is called, for instance "old woman". Whom the style photos show is not told by it.
    """
    kind = noun if noun == "object" else "person"
    ending = ENDINGS[task].format(kind=kind, subject=named(noun))
    return [_with_article(f"{opening} {ending}") for opening in OPENINGS]


def named(noun: str) -> str:
    """The subject in a prompt: "<subject> person"; an age stands before the token, "old <subject> woman"."""
    *age, kind = noun.split(" ")
    return " ".join([*age, SUBJECT_TOKEN, kind])


def _with_article(text: str) -> str:
    return re.sub(r"\ba (?=[aeio]\w)", "an ", text)


@dataclass(frozen=True)
class Expanded:
    """A prompt ready for the tokenizer, and what the user should know about it."""

    text: str
    warnings: tuple[str, ...]


def expand(prompt: str, noun: str = "person") -> Expanded:
    """Put the placeholder tokens into a user's prompt.

    `{subject}` becomes "<subject> person" (see `named`) and `{style}` becomes "<style> style". A missing one
    gives a warning, an unknown one raises Problem.
    """
    unknown = sorted(set(re.findall(r"\{[^{}]*\}", prompt)) - {"{subject}", "{style}"})
    if unknown:
        raise Problem(
            f"The prompt has {', '.join(unknown)}; expected only {{subject}} and {{style}} in braces. "
            "Correct the spelling or take the braces away."
        )
    subject = named(noun)
    if subject.startswith("old"):
        prompt = re.sub(r"\b([Aa]) (?=\{subject\})", r"\1n ", prompt)
    text = prompt.replace("{subject}", subject).replace("{style}", f"{STYLE_TOKEN} style")
    warnings = [
        f"The prompt does not mention {name}, so the learned {what} will hardly show."
        for name, token, what in (
            ("{subject}", SUBJECT_TOKEN, noun if noun == "object" else "face"),
            ("{style}", STYLE_TOKEN, "style"),
        )
        if token not in text
    ]
    return Expanded(text, tuple(warnings))


def with_placeholders(tokenizer: Any) -> tuple[Any, tuple[int, int]]:
    """A copy of the tokenizer that knows both tokens, and their ids ([V1], [V2]).

    The ids lie past the embedding's rows, which stay as they are: see `learned_rows`.
    Raises Problem if the vocabulary holds one of the tokens already.
    """
    taken = [token for token in TOKENS if token in tokenizer.get_vocab()]
    if taken:
        raise Problem(
            f"The model's vocabulary already holds {', '.join(taken)}: it seems to be personalised. "
            "Choose the original model."
        )
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.add_tokens(list(TOKENS))
    subject_id, style_id = tokenizer.convert_tokens_to_ids(list(TOKENS))
    return tokenizer, (subject_id, style_id)


def initial_rows(
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
def learned_rows(text_encoder: Any, token_ids: tuple[int, int], rows: Tensor) -> Iterator[None]:
    """Within the context the text encoder reads `rows` (2, width) wherever the two token ids stand.

    The embedding itself is neither resized nor written, so no other row can change, the model is left
    as it was, and the gradient is two rows rather than a whole vocabulary.
    """
    embedding = text_encoder.get_input_embeddings()
    plain = embedding.forward

    def forward(input_ids: Tensor) -> Tensor:
        # The placeholders' ids lie past the table: any row may stand in before it is replaced.
        output = plain(input_ids.clamp(max=embedding.num_embeddings - 1))
        for token_id, row in zip(token_ids, rows, strict=True):
            here = (input_ids == token_id).unsqueeze(-1)  # b tokens 1
            output = torch.where(here, row.to(output.dtype), output)
        return output

    embedding.forward = forward
    try:
        yield
    finally:
        del embedding.forward


def token_positions(input_ids: Tensor, token_ids: tuple[int, int]) -> Tensor:
    """Where each placeholder stands. input_ids: (b, tokens). Returns (b, 2), -1 where it is absent."""
    found = torch.stack([input_ids == token_id for token_id in token_ids], dim=1)  # b 2 tokens
    return torch.where(found.any(-1), found.int().argmax(-1), -1)
