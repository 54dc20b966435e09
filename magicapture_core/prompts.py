"""Prompt templates, the two placeholder tokens, and what users write: {subject}, {style}, (word:1.3)."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from magicapture_core.languages import _
from magicapture_core.problems import Problem

SUBJECT_TOKEN = "<subject>"
"""[V1] of the paper."""
STYLE_TOKEN = "<style>"
"""[V2] of the paper."""
TOKENS = (SUBJECT_TOKEN, STYLE_TOKEN)
COMPOSED_PROMPT = "a photo of a {subject} in the {style}"

LINKS = frozenset(
    re.findall(r"\w+", "a an and at by for from her his in into is it its my of on or the their to with")
)
"""Words that link others: nothing is missing in a picture whose model does not know them."""

FACTORS = {"(": 1.1, ")": 1.1, "[": 1 / 1.1, "]": 1 / 1.1}
OPENING = {")": "(", "]": "["}
MARK = re.compile(r"\\[()\[\]\\]|[()\[\]]|:\s*([+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+))\s*\)")
UNSUPPORTED = re.compile(r"\[[^\[\]()|:]*[|:][^\[\]()]*\]|<(?:lora|lyco|hypernet):[^<>]*>|\bBREAK\b")
"""What AUTOMATIC1111 gives a meaning of its own, and this project does not."""
SHOWN = 200
"""Letters of a wrong part of a prompt that the message quotes."""
HEAVIEST = 10
DEEPEST = 20
LEAST_MEAN = 0.01
"""In standard deviations; the mini model's is 0.0006."""

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
    """With the placeholder tokens and without the marks of weights."""
    warnings: tuple[str, ...]
    """About missing placeholders."""
    weights: tuple[float, ...] | None = None
    """How much each letter of `text` counts; None: all the same."""
    notes: tuple[str, ...] = ()
    """About marks that may not do what was meant."""


def expand(prompt: str, noun: str = "person", *, negative: bool = False) -> Expanded:
    """Put the placeholder tokens into a user's prompt, and read its weights (see `weighed`).

    `{subject}` becomes "<subject> person" (see `named`) and `{style}` becomes "<style> style". A missing one
    gives a warning, an unknown one raises Problem, as any other brace does. negative: what to avoid; it need not
    have placeholders.
    """
    unknown = sorted(set(re.findall(r"\{[^{}]*\}", prompt)) - {"{subject}", "{style}"})
    rest = prompt.replace("{subject}", "").replace("{style}", "")
    unknown = unknown or sorted({brace for brace in "{}" if brace in rest})
    if unknown:
        raise Problem(_wrong_braces(textwrap.shorten(", ".join(unknown), SHOWN), negative))
    subject = named(noun)
    if subject.startswith("old"):
        prompt = re.sub(r"\b([Aa]) (?=[(\[]*\{subject\})", r"\1n ", prompt)
    prompt = prompt.replace("{subject}", subject).replace("{style}", f"{STYLE_TOKEN} style")
    text, weights, notes = weighed(prompt)
    warnings = () if negative else _missing(text, noun)
    alike = all(weight == 1 for weight in weights)
    return Expanded(text, warnings, None if alike else tuple(weights), tuple(notes))


def _wrong_braces(found: str, negative: bool) -> str:
    if negative:
        return _(
            "The negative prompt has {found}; expected only {{subject}} and {{style}} in braces. Correct the spelling "
            "or take the braces away.",
            found=found,
        )
    return _(
        "The prompt has {found}; expected only {{subject}} and {{style}} in braces. Correct the spelling or take the "
        "braces away.",
        found=found,
    )


def _missing(text: str, noun: str) -> tuple[str, ...]:
    """What to say of placeholders that are not in a prompt."""
    said = []
    if SUBJECT_TOKEN not in text and noun == "object":
        said.append(
            _("The prompt does not mention {name}, so the learned object will hardly show.", name="{subject}")
        )
    elif SUBJECT_TOKEN not in text:
        said.append(
            _("The prompt does not mention {name}, so the learned face will hardly show.", name="{subject}")
        )
    if STYLE_TOKEN not in text:
        said.append(
            _("The prompt does not mention {name}, so the learned style will hardly show.", name="{style}")
        )
    return tuple(said)


def weighed(prompt: str) -> tuple[str, list[float], list[str]]:
    """A prompt's text without AUTOMATIC1111's marks, how much each letter counts, and notes for the user.

    (x) counts 1.1 times as much, [x] 1 / 1.1 times, (x:1.3) 1.3 times; one inside of another multiplies.
    \\( \\) \\[ \\] \\\\ are plain signs. A bracket that is never closed reaches to the end. Each mark becomes a space:
    as there, it parts words.
    Raises Problem for a weight outside of 0 to 10 and for brackets in more than DEEPEST others.
    """
    text, at = "", 0
    weights: list[float] = []
    opened: dict[str, list[int]] = {"(": [], "[": []}
    for found in MARK.finditer(prompt):
        mark, escaped = found.group(), found.group()[0] == "\\"
        starts = opened[OPENING[mark[-1]]] if mark[-1] in OPENING and not escaped else []
        plain = mark[1] if escaped else " " if mark in opened or starts else mark
        text += prompt[at : found.start()] + plain
        weights += [1.0] * (len(text) - len(weights))
        at = found.end()
        if mark in opened:
            opened[mark].append(len(text))
            _check_depth(opened)
        elif starts:
            _multiply(weights, starts.pop(), float(found.group(1) or FACTORS[mark[-1]]))
    text += prompt[at:]
    weights += [1.0] * (len(text) - len(weights))
    notes = _notes(prompt, opened)
    for kind, starts in opened.items():
        for start in starts:
            _multiply(weights, start, FACTORS[kind])
    wrong = [weight for weight in weights if not 0 <= weight <= HEAVIEST]
    if wrong:
        raise Problem(
            _(
                "The prompt lets words count {weight:g} times, as in (word:1.3); expected 0 to {heaviest}. Correct the "
                "number, or write \\( and \\) for parentheses that are part of the text.",
                weight=wrong[0], heaviest=HEAVIEST,
            )
        )  # fmt: skip
    return text, weights, notes


def unknown_words(prompt: str, vocabulary: Collection[str]) -> list[str]:
    """The words of a user's prompt that a model has never read, as they are written; none where `vocabulary` is empty.

    vocabulary: every word the model knows, in small letters. A word with hyphens is known where its parts are.
    Raises what `weighed` raises.
    """
    if not vocabulary:
        return []
    known = {*vocabulary, *LINKS}
    return [
        word
        for word in words_of(prompt)
        if word.lower() not in known and not set(re.split("['’-]", word.lower())) <= known
    ]


def words_of(prompt: str) -> list[str]:
    """The different words of a user's prompt, as they are written, without placeholders and weights.

    Raises what `weighed` raises.
    """
    text = re.sub(r"\{[^{}]*\}", " ", weighed(prompt)[0])
    return list(dict.fromkeys(re.findall(r"[^\W\d_]+(?:['’-][^\W\d_]+)*", text)))


def unknown_said(words: Collection[str], model: str) -> str:
    """Tells which words of a prompt the model of this name does not know; empty where there are none."""
    if not words:
        return ""
    listed = textwrap.shorten(", ".join(words), SHOWN)
    if model == "mini":
        return _("The built-in model does not know: {words}.", words=listed)
    return _("The model does not know: {words}.", words=listed)


def _multiply(weights: list[float], start: int, factor: float) -> None:
    weights[start:] = [weight * factor for weight in weights[start:]]


def _check_depth(opened: dict[str, list[int]]) -> None:
    if sum(map(len, opened.values())) > DEEPEST:
        raise Problem(
            _(
                "The prompt has more than {deepest} brackets inside of each other. Use a number, as in (word:1.3), or "
                "write \\( for a parenthesis that is part of the text.",
                deepest=DEEPEST,
            )
        )


def _notes(prompt: str, opened: dict[str, list[int]]) -> list[str]:
    notes = [
        _(
            'A "{bracket}" is never closed, so all that follows counts {factor:.2g} times as much. Close it, or write '
            '"\\{bracket}" for the sign itself.',
            bracket=kind,
            factor=FACTORS[kind],
        )
        for kind, starts in opened.items()
        if starts
    ]
    others = sorted({found.group() for found in UNSUPPORTED.finditer(prompt)})
    if others:
        notes.append(
            _(
                "{marks}: read as plain words. Of AUTOMATIC1111's forms (word), [word] and (word:1.3) are understood.",
                marks=textwrap.shorten(", ".join(others), SHOWN),
            )
        )
    return notes


def apply_weights(hidden: Tensor, weights: Tensor) -> Tensor:
    """The text encoder's output with some tokens counting more, as AUTOMATIC1111 does it.

    hidden: (b, tokens, width); weights: (b, tokens). Each token is scaled by its weight, then each prompt so that its
    mean over all numbers is what it was. Where that mean is next to nothing, as in models whose last layer norm learned
    no offset, it is noise and nothing is restored. Weights of 1 change no bit. Returns float32.
    """
    plain = hidden.float()
    scaled = plain * weights.to(hidden.device).unsqueeze(-1)
    (before, spread), (after, spread_after) = (
        (each.mean((1, 2), keepdim=True), each.std((1, 2), keepdim=True)) for each in (plain, scaled)
    )
    sure = (before.abs() > LEAST_MEAN * spread) & (after.abs() > LEAST_MEAN * spread_after)
    return scaled * torch.where(sure & (before * after > 0), before / after, 1.0)
