"""Placeholders, templates, and rows that are learned without touching the embedding."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch

from magicapture_core.config import TrainConfig
from magicapture_core.models.placeholders import (
    initial_embeddings,
    learned_embeddings,
    token_positions,
    with_placeholders,
)
from magicapture_core.problems import Problem
from magicapture_core.prompts import (
    COMPOSED_PROMPT,
    STYLE_TOKEN,
    SUBJECT_TOKEN,
    Expanded,
    apply_weights,
    expand,
    templates,
    weighed,
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
    "prompt", ["a {subject", "subject} in {style}", "a {{subject}}", "{ style }", "{Style}"]
)
@pytest.mark.parametrize("negative", [False, True])
def test_braces_that_are_no_placeholder_are_refused(prompt: str, negative: bool) -> None:
    with pytest.raises(Problem, match=r"expected only \{subject\} and \{style\} in braces"):
        expand(prompt, negative=negative)


def test_no_message_about_a_prompt_is_as_long_as_the_prompt() -> None:
    with pytest.raises(Problem) as raised:
        expand("{" + "a " * 5000 + "}")
    assert len(str(raised.value)) < 500
    assert len(" ".join(expand("[" + "a|b " * 5000 + "]").notes)) < 500


def test_what_to_avoid_may_name_the_placeholders_and_need_not() -> None:
    assert expand("{style}, hat", negative=True) == Expanded("<style> style, hat", ())


def weights_of(prompt: str) -> list[tuple[str, float]]:
    """Each word of a prompt, and how much it counts."""
    text, weights, _ = weighed(prompt)
    assert len(text) == len(weights)
    words = [(found.group(), set(weights[slice(*found.span())])) for found in re.finditer(r"\S+", text)]
    assert all(len(found) == 1 for _, found in words)
    return [(word, round(found.pop(), 6)) for word, found in words]


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("a red hat", [("a", 1), ("red", 1), ("hat", 1)]),
        ("a (red) hat", [("a", 1), ("red", 1.1), ("hat", 1)]),
        ("a [red] hat", [("a", 1), ("red", 0.909091), ("hat", 1)]),
        ("a (red:1.3) hat", [("a", 1), ("red", 1.3), ("hat", 1)]),
        ("(red : .5 )hat", [("red", 0.5), ("hat", 1)]),
        ("(red:0)(hat:+2)", [("red", 0), ("hat", 2)]),
        ("((red hat))", [("red", 1.21), ("hat", 1.21)]),
        ("(a (red:1.5) hat:2)", [("a", 2), ("red", 3), ("hat", 2)]),
        ("([a] (b))", [("a", 1), ("b", 1.21)]),
        ("a (red hat", [("a", 1), ("red", 1.1), ("hat", 1.1)]),
        ("a [red (hat", [("a", 1), ("red", 0.909091), ("hat", 1)]),
        (r"a \(red\) \[hat\] \\ \x", [(word, 1) for word in ("a", "(red)", "[hat]", "\\", "\\x")]),
        (r"(a \(red\):1.2)", [("a", 1.2), ("(red)", 1.2)]),
        ("smile :) at 5:30) b] (c:) (d:x)", [(w, 1) for w in ("smile", ":)", "at", "5:30)", "b]")]
         + [("c:", 1.1), ("d:x", 1.1)]),
        ("(a:1.2.3)", [("a:1.2.3", 1.1)]),
        ("(a:１.３)", [("a:１.３", 1.1)]),
        ("(a, b:1.5), c", [("a,", 1.5), ("b", 1.5), (",", 1), ("c", 1)]),
    ],
)  # fmt: skip
def test_weights_as_automatic1111_reads_them(prompt: str, expected: list[tuple[str, float]]) -> None:
    assert weights_of(prompt) == expected


def test_a_prompt_without_marks_is_not_changed() -> None:
    for prompt in ("a  red, hat :) \\ <x> 5:30", " a ", "", ":1.3)"):
        assert weighed(prompt) == (prompt, [1.0] * len(prompt), [])
        assert expand(prompt).weights is None


def test_placeholders_inside_of_marks() -> None:
    expanded = expand("A ({subject}:1.3) in [the {style}]", "old woman")
    assert expanded.text == "An  old <subject> woman  in  the <style> style "
    assert expanded.warnings == expanded.notes == ()
    assert expanded.weights is not None
    assert expanded.weights[expanded.text.index("<subject>")] == 1.3
    assert expanded.weights[expanded.text.index("<style>")] == pytest.approx(1 / 1.1)
    assert expanded.weights[expanded.text.index(" in ")] == 1


@pytest.mark.parametrize(
    "prompt", ["(a:11)", "(a:-1)", "((a:5):5)", "(" * 19 + "a" + ":9)" * 19, "(a:" + "9" * 400 + ")"]
)
def test_weights_out_of_all_proportion_are_refused(prompt: str) -> None:
    with pytest.raises(Problem, match=r"lets words count .* times, as in \(word:1\.3\); expected 0 to 10"):
        expand(prompt)


def test_too_many_brackets_inside_of_each_other_are_refused() -> None:
    assert weights_of("[" * 20 + "a" + "]" * 20) == [("a", round(1.1**-20, 6))]
    with pytest.raises(Problem, match="more than 20 brackets inside of each other"):
        expand("[" * 21 + "a" + "]" * 21)


def test_marks_that_may_not_do_what_was_meant_are_told() -> None:
    assert expand("a (b, c").notes == (
        'A "(" is never closed, so all that follows counts 1.1 times as much. Close it, or write "\\(" for the sign '
        "itself.",
    )
    (note,) = expand("[cat:dog:0.5] <lora:x:1> a BREAK [a|b] [plain]").notes
    assert note.startswith("<lora:x:1>, BREAK, [a|b], [cat:dog:0.5]: read as plain words.")


def test_weighted_tokens_count_more_and_the_mean_stays() -> None:
    """By hand: means 2 and 3, so all is scaled by 2/3 after the second token is doubled."""
    hidden = torch.tensor([[[1.0, 3.0], [2.0, 2.0]], [[1.0, 3.0], [2.0, 2.0]]])
    found = apply_weights(hidden, torch.tensor([[1.0, 2.0], [1.0, 1.0]]))
    torch.testing.assert_close(found[0], torch.tensor([[2 / 3, 2.0], [8 / 3, 8 / 3]]))
    assert torch.equal(found[1], hidden[1])


def test_a_mean_that_is_noise_is_not_restored() -> None:
    """The means are 0.001 and 0.002 (or -0.3, of the other sign): scaling by their ratio would halve every token."""
    hidden = torch.tensor([[[1.0, -1.0], [1.002, -0.998]]])
    found = apply_weights(hidden, torch.tensor([[1.0, 2.0]]))
    torch.testing.assert_close(found, torch.tensor([[[1.0, -1.0], [2.004, -1.996]]]))
    hidden = torch.tensor([[[1.0, 0.0], [-0.8, 0.0]]])
    torch.testing.assert_close(
        apply_weights(hidden, torch.tensor([[1.0, 2.0]])), torch.tensor([[[1.0, 0.0], [-1.6, 0.0]]])
    )
    nothing = torch.zeros(1, 2, 2)
    assert torch.equal(apply_weights(nothing, torch.tensor([[1.0, 2.0]])), nothing)


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


def test_initial_embeddings(toy: Any) -> None:
    rows = initial_embeddings(
        toy.tokenizer, toy.text_encoder, TrainConfig(style_init_std=0.5), torch.Generator().manual_seed(0)
    )
    person = toy.tokenizer("person", add_special_tokens=False).input_ids
    assert len(person) == 1
    torch.testing.assert_close(rows[0], toy.text_encoder.get_input_embeddings().weight[person[0]])
    assert 0.3 < rows[1].std() < 0.7


def test_learned_embeddings_equal_a_real_row(toy: Any) -> None:
    """Reading a learned row gives what a resized embedding holding that row would give."""
    tokenizer, ids = with_placeholders(toy.tokenizer)
    rows = torch.randn(2, toy.text_encoder.config.hidden_size, generator=torch.Generator().manual_seed(0))
    tokens = tokenizer(["a <subject> person in the <style> style"], return_tensors="pt").input_ids
    with learned_embeddings(toy.text_encoder, ids, rows):
        ours = toy.text_encoder(tokens)[0]
    toy.text_encoder.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    toy.text_encoder.get_input_embeddings().weight.data[list(ids)] = rows
    assert torch.equal(ours, toy.text_encoder(tokens)[0])


def test_learned_embeddings_leave_no_trace(toy: Any) -> None:
    tokens = torch.tensor([[1, 2, 3]])
    before = toy.text_encoder(tokens)[0]
    _, ids = with_placeholders(toy.tokenizer)
    with learned_embeddings(toy.text_encoder, ids, torch.zeros(2, toy.text_encoder.config.hidden_size)):
        pass
    assert torch.equal(toy.text_encoder(tokens)[0], before)


def test_gradient_reaches_only_the_rows_that_occur(toy: Any) -> None:
    tokenizer, ids = with_placeholders(toy.tokenizer)
    rows = torch.zeros(2, toy.text_encoder.config.hidden_size, requires_grad=True)
    tokens = tokenizer(["a <subject> person"], return_tensors="pt").input_ids
    with learned_embeddings(toy.text_encoder, ids, rows):
        toy.text_encoder(tokens)[0].pow(2).sum().backward()
    assert rows.grad is not None
    assert (rows.grad[0] != 0).any()
    assert (rows.grad[1] == 0).all()


def test_token_positions() -> None:
    ids = torch.tensor([[9, 5, 7, 6], [9, 7, 5, 5]])
    assert token_positions(ids, (5, 6)).tolist() == [[1, 3], [2, -1]]


def test_words_that_no_caption_had() -> None:
    from magicapture_core.prompts import unknown_words

    known = ["photo", "red", "black", "white", "close", "up"]
    assert unknown_words(
        "a close-up photo of a {subject} in the {style}, red (hat:1.3) on the beach", known
    ) == [
        "hat",
        "beach",
    ]
    assert unknown_words("Black-and-white, Beach, beach", known) == ["Beach", "beach"]
    assert unknown_words("anything", []) == []


def test_the_mini_model_says_which_words_it_knows() -> None:
    import json
    from pathlib import Path

    from tools.mini.captions import vocabulary

    file = Path(__file__).parent.parent / "assets" / "mini" / "magicapture.json"
    assert json.loads(file.read_text(encoding="utf-8"))["vocabulary"] == vocabulary()
