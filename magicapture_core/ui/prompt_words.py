"""Descriptions as the page shows them: "me" and "this look" stand where prompts have {subject} and {style}.

Descriptions are English in every language, for models read English. Only these two are in the visitor's language; they
are understood in every other one, too, so that a description can be taken along.
"""

from __future__ import annotations

import re
from html import escape

from magicapture_core.languages import ENGLISH, N_, _, available, speaking

# Translators: stands in an English description, as after “a photo of”; must be no English word
ME = N_("me")
# Translators: stands in an English description, as after “a photo of me in”; must be no English words
LOOK = N_("this look")
TITLES = {"{subject}": ME, "{style}": LOOK}
"""Placeholder → what the page calls it, to be translated."""
_TO_PAGE = ((r"(?:\b(?:an?|the) )?\{subject\}", ME), (r"(?:\b(?:an?|the) )?\{style\}", LOOK))
_WITHOUT_SPACES = re.compile(r"[\u3040-\u30ff\u4e00-\u9fff]")
"""Han and Kana: of languages that write no spaces between words."""
_FROM_PAGE = ((ME, "a {subject}"), (LOOK, "the {style}"))


def to_page(prompt: str) -> str:
    """ "a photo of a {subject} in the {style}" → "a photo of me in this look"."""
    for pattern, words in _TO_PAGE:
        shown = _(words)
        prompt = re.sub(pattern, shown.replace("\\", r"\\"), prompt, flags=re.IGNORECASE)
    return prompt


def from_page(text: str) -> str:
    """The inverse of `to_page`, up to articles, in whichever language. Placeholders that somebody typed stay."""
    for words, placeholder in _FROM_PAGE:
        text = re.sub(_in_every_language(words), placeholder, text, flags=re.IGNORECASE)
    return text


def translated(prompt: str) -> str:
    """A prompt that comes with a style, to be read and not to be used: all of it in the visitor's language."""
    with speaking(ENGLISH):
        english = to_page(prompt)
    return _(english)


def _in_every_language(*words: str, read: bool = False) -> str:
    """A pattern that finds any of the words, in any language.

    read: in a text that is only read. It may be Chinese or Japanese as a whole, where no spaces stand between words.
    """
    found = set(words)
    for code in available():
        with speaking(code):
            found |= {_(each) for each in words}
    longest_first = sorted(found, key=lambda each: (-len(each), each))
    whole = [rf"(?<!\w){re.escape(each)}(?!\w)" for each in longest_first]
    anywhere = [re.escape(each) for each in longest_first if read and _WITHOUT_SPACES.search(each)]
    return f"({'|'.join(whole + anywhere)})"


def with_tokens(text: str) -> str:
    """A description as HTML: what was learned stands in it as a token."""
    parts = re.split(_in_every_language(ME, LOOK, read=True), to_page(text), flags=re.IGNORECASE)
    return "".join(
        f'<b class="mc-token">{escape(part)}</b>' if number % 2 else escape(part)
        for number, part in enumerate(parts)
    )


def in_plain_words(said: str) -> str:
    """A message about a prompt, without placeholders."""
    for placeholder, title in TITLES.items():
        said = said.replace(placeholder, _("“{words}”", words=_(title)))
    return said.replace("The prompt", "The description")  # English only: elsewhere it is translated like this
