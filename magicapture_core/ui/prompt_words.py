"""Descriptions as the page shows them: "me" and "this look" stand where prompts have {subject} and {style}."""

from __future__ import annotations

import re
from html import escape

ME, LOOK = "me", "this look"
TITLES = {"{subject}": ME, "{style}": LOOK}
"""Placeholder → what the page calls it."""
_TO_PAGE = ((r"(?:\b(?:an?|the) )?\{subject\}", ME), (r"(?:\b(?:an?|the) )?\{style\}", LOOK))
_FROM_PAGE = ((rf"\b{ME}\b", "a {subject}"), (rf"\b{LOOK}\b", "the {style}"))


def to_page(prompt: str) -> str:
    """ "a photo of a {subject} in the {style}" → "a photo of me in this look"."""
    for pattern, words in _TO_PAGE:
        prompt = re.sub(pattern, words, prompt, flags=re.IGNORECASE)
    return prompt


def from_page(text: str) -> str:
    """The inverse of `to_page`, up to articles. Placeholders that somebody typed stay."""
    for pattern, placeholder in _FROM_PAGE:
        text = re.sub(pattern, placeholder, text, flags=re.IGNORECASE)
    return text


def with_tokens(text: str) -> str:
    """A description as HTML: what was learned stands in it as a token."""
    parts = re.split(rf"\b({ME}|{LOOK})\b", to_page(text), flags=re.IGNORECASE)
    return "".join(
        f'<b class="mc-token">{escape(part)}</b>' if number % 2 else escape(part)
        for number, part in enumerate(parts)
    )


def in_plain_words(said: str) -> str:
    """A message about a prompt, without placeholders."""
    for placeholder, title in TITLES.items():
        said = said.replace(placeholder, f"“{title}”")
    return said.replace("The prompt", "The description")
