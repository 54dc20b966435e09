"""Placeholders, templates, and rows that are learned without touching the embedding."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from magicapture_core.config import TrainConfig
from magicapture_core.problems import Problem
from magicapture_core.prompts import (
    COMPOSED_PROMPT,
    STYLE_TOKEN,
    SUBJECT_TOKEN,
    expand,
    initial_rows,
    learned_rows,
    templates,
    token_positions,
    with_placeholders,
)


def test_expand() -> None:
    expanded = expand(COMPOSED_PROMPT + ", smiling")
    assert expanded.text == "a photo of a <subject> person in the <style> style, smiling"
    assert expanded.warnings == ()


def test_expand_an_object() -> None:
    assert expand("a {subject}", "object").text == "a <subject> object"


def test_missing_placeholders_are_warned_of() -> None:
    warnings = expand("a photo of a dog").warnings
    assert len(warnings) == 2
    assert "{subject}" in warnings[0]
    assert "{style}" in warnings[1]


def test_unknown_placeholders_are_refused() -> None:
    with pytest.raises(Problem, match=r"\{person\}"):
        expand("a photo of {person} in the {style}")


@pytest.mark.parametrize(
    ("task", "has_subject", "has_style"),
    [("source", True, False), ("reference", False, True), ("composed", True, True)],
)
def test_templates_hold_what_their_task_needs(task: Any, has_subject: bool, has_style: bool) -> None:
    prompts = templates(task)
    assert len(prompts) == len(set(prompts)) == 10
    for prompt in prompts:
        assert (SUBJECT_TOKEN in prompt) == has_subject
        assert (STYLE_TOKEN in prompt) == has_style


def test_placeholders_are_one_token_each(toy: Any) -> None:
    tokenizer, (subject, style) = with_placeholders(toy.tokenizer)
    ids = tokenizer("a photo of a <subject> person in the <style> style").input_ids
    assert ids.count(subject) == ids.count(style) == 1
    assert SUBJECT_TOKEN not in toy.tokenizer.get_vocab()


def test_a_personalised_vocabulary_is_refused(toy: Any) -> None:
    tokenizer, _ = with_placeholders(toy.tokenizer)
    with pytest.raises(Problem, match="<subject>"):
        with_placeholders(tokenizer)


def test_initial_rows(toy: Any) -> None:
    rows = initial_rows(
        toy.tokenizer, toy.text_encoder, TrainConfig(style_init_std=0.5), torch.Generator().manual_seed(0)
    )
    person = toy.tokenizer("person", add_special_tokens=False).input_ids
    assert len(person) == 1
    torch.testing.assert_close(rows[0], toy.text_encoder.get_input_embeddings().weight[person[0]])
    assert 0.3 < rows[1].std() < 0.7


def test_learned_rows_equal_a_real_row(toy: Any) -> None:
    """Reading a learned row gives what a resized embedding holding that row would give."""
    tokenizer, ids = with_placeholders(toy.tokenizer)
    rows = torch.randn(2, toy.text_encoder.config.hidden_size, generator=torch.Generator().manual_seed(0))
    tokens = tokenizer(["a <subject> person in the <style> style"], return_tensors="pt").input_ids
    with learned_rows(toy.text_encoder, ids, rows):
        ours = toy.text_encoder(tokens)[0]
    toy.text_encoder.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    toy.text_encoder.get_input_embeddings().weight.data[list(ids)] = rows
    assert torch.equal(ours, toy.text_encoder(tokens)[0])


def test_learned_rows_leave_no_trace(toy: Any) -> None:
    tokens = torch.tensor([[1, 2, 3]])
    before = toy.text_encoder(tokens)[0]
    _, ids = with_placeholders(toy.tokenizer)
    with learned_rows(toy.text_encoder, ids, torch.zeros(2, toy.text_encoder.config.hidden_size)):
        pass
    assert torch.equal(toy.text_encoder(tokens)[0], before)


def test_gradient_reaches_only_the_rows_that_occur(toy: Any) -> None:
    tokenizer, ids = with_placeholders(toy.tokenizer)
    rows = torch.zeros(2, toy.text_encoder.config.hidden_size, requires_grad=True)
    tokens = tokenizer(["a <subject> person"], return_tensors="pt").input_ids
    with learned_rows(toy.text_encoder, ids, rows):
        toy.text_encoder(tokens)[0].pow(2).sum().backward()
    assert rows.grad is not None
    assert (rows.grad[0] != 0).any()
    assert (rows.grad[1] == 0).all()


def test_token_positions() -> None:
    ids = torch.tensor([[9, 5, 7, 6], [9, 7, 5, 5]])
    assert token_positions(ids, (5, 6)).tolist() == [[1, 3], [2, -1]]
