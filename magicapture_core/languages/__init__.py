"""The languages of what people read: one gettext catalogue a language, XX.po beside this file.

The English sentence is the key of its translation. It stands in the code, in a call of one of these:

    _("The photo {name} is too dark.", name=photo.name)      translated now
    n_("{n} photo", "{n} photos", count)                     the same, by number; {n} is given by itself
    TITLE = N_("Choose photos")                              only marked: translated later, by _(TITLE)

No f-string and no variable stands within `_( … )` except one that N_ has marked: `python -m tools.catalogue` collects
the sentences from the source. A visitor's language is a context variable: a handler of the page speaks the language of
its page, a job that of whoever started it. Everything else, the command line included, speaks English.
"""

from __future__ import annotations

import contextvars
import gettext
import io
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

LANGUAGES = {
    "en": "English", "zh": "简体中文", "ja": "日本語", "ko": "한국어", "de": "Deutsch", "es": "Español",
}  # fmt: skip
"""Code (ISO 639-1) and the language's own name for itself."""
ENGLISH = "en"
CATALOGUES = Path(__file__).parent

_spoken = contextvars.ContextVar("language", default=ENGLISH)


def language() -> str:
    """The code of the language that `_` translates into here and now."""
    return _spoken.get()


@contextmanager
def speaking(code: str) -> Iterator[None]:
    """Within, `_` translates into this language; English where there is no such language."""
    token = _spoken.set(code if code in LANGUAGES else ENGLISH)
    try:
        yield
    finally:
        _spoken.reset(token)


def _(sentence: str, /, **values: Any) -> str:
    """A sentence in the visitor's language, its {placeholders} filled with `values` by `str.format`."""
    said = _catalogue(language()).gettext(sentence) if sentence else sentence
    return said.format(**values) if values else said


def n_(one: str, many: str, n: int, /, **values: Any) -> str:
    """As `_`, in the form that fits the number `n`, which {n} stands for."""
    return _catalogue(language()).ngettext(one, many, n).format(n=n, **values)


def N_(sentence: str, /) -> str:
    """The sentence itself, marked as one to translate: for constants, which are made before anybody speaks."""
    return sentence


@cache
def _catalogue(code: str) -> gettext.NullTranslations:
    if code == ENGLISH:
        return gettext.NullTranslations()
    from babel.messages.mofile import write_mo
    from babel.messages.pofile import read_po

    with (CATALOGUES / f"{code}.po").open("rb") as source:
        catalogue = read_po(source, locale=code)
    compiled = io.BytesIO()
    write_mo(compiled, catalogue)
    compiled.seek(0)
    return gettext.GNUTranslations(compiled)


def available() -> list[str]:
    """The codes of the languages that have a catalogue, English first."""
    return [code for code in LANGUAGES if code == ENGLISH or (CATALOGUES / f"{code}.po").is_file()]
