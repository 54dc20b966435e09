"""The languages of what people read: one gettext catalogue a language, XX.po beside this file.

The English sentence is the key of its translation. It stands in the code, in a call of one of these:

    _("The photo {name} is too dark.", name=photo.name)      translated now
    n_("{n} photo", "{n} photos", count)                     the same, by number; {n} is given by itself
    TITLE = N_("Choose photos")                              only marked: translated later, by _(TITLE)

No f-string and no variable stands within `_( … )` except one that N_ has marked: `python -m tools.catalogue` collects
the sentences from the source. A visitor's language is a context variable: a handler of the page speaks the language of
its page, a job that of whoever started it. Everything else, the command line included, speaks English.

What `_` and `n_` return is text that still knows its sentence (`Said`): `again` says it in the present language, and
`dumps` and `loads` keep it on the disk so that it can be read there in any language later.
"""

from __future__ import annotations

import contextvars
import gettext
import io
import json
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from numbers import Real
from pathlib import Path
from typing import Any

LANGUAGES = {
    "en": "English", "zh": "简体中文", "ja": "日本語", "ko": "한국어", "de": "Deutsch", "es": "Español",
}  # fmt: skip
"""Code (ISO 639-1) and the language's own name for itself."""
ENGLISH = "en"
CATALOGUES = Path(__file__).parent
SENTENCE = "magicapture sentence"
"""The key by which stored sentences are told from other JSON."""

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


class Said(str):
    """A text, and the sentence of which it is the translation. It is a `str` wherever one is expected; whatever is
    made of it (`+`, `str()`, an f-string) is text and no more."""

    sentence: str
    many: str | None
    """The sentence for other numbers than 1; None: there is no number in it."""
    n: int
    values: dict[str, Any]

    def __new__(
        cls,
        text: str,
        sentence: str = "",
        many: str | None = None,
        n: int = 1,
        values: dict[str, Any] | None = None,
    ) -> Said:
        """text: as it is read; sentence, many: as they are in the source, in English."""
        said = super().__new__(cls, text)
        said.sentence, said.many, said.n = sentence, many, n
        # Not the values themselves: an error would keep everything alive that its frames hold.
        said.values = {name: _plain(value) for name, value in (values or {}).items()}
        return said

    def __copy__(self) -> Said:
        return self

    def __deepcopy__(self, _memo: object) -> Said:
        return self


def _(sentence: str, /, **values: Any) -> str:
    """A sentence in the visitor's language, its {placeholders} filled with `values` by `str.format`.

    Of a `Said` it makes what `again` makes: a text that was read from the disk may be one, or the plain sentence.
    """
    if isinstance(sentence, Said):
        return again(sentence)
    text = _catalogue(language()).gettext(sentence) if sentence else sentence
    return Said(text.format(**values) if values else text, sentence, values=values)


def n_(one: str, many: str, n: int, /, **values: Any) -> str:
    """As `_`, in the form that fits the number `n`, which {n} stands for."""
    text = _catalogue(language()).ngettext(one, many, n)
    return Said(text.format(n=n, **values), one, many, n, values)


def together(*sentences: str) -> str:
    """Whole sentences one after the other, with a space between them where the language has one."""
    return ("" if language() in ("zh", "ja") else " ").join(sentences)


def again(text: str) -> str:
    """What `_` or `n_` once said, in the language that is spoken here and now; any other text as it is."""
    if not isinstance(text, Said):
        return text
    values = {name: again(value) for name, value in text.values.items()}
    if text.many is not None:
        return n_(text.sentence, text.many, text.n, **values)
    return _(text.sentence, **values) if text.sentence else text


def dumps(values: Any) -> str:
    """JSON of dicts, lists and plain values, in which every `Said` text can be said again."""
    return json.dumps(_stored(values))


def loads(stored: str) -> Any:
    """The values that `dumps` stored, every sentence in the language that is spoken here and now. Texts that were
    stored without their sentence stay as they are. ValueError where it is no JSON."""
    return json.loads(stored, object_hook=_said)


def _stored(value: Any) -> Any:
    if isinstance(value, Said):
        plural = {} if value.many is None else {"many": value.many, "n": value.n}
        return {SENTENCE: value.sentence, **plural, "values": _stored(value.values)}
    if isinstance(value, dict):
        return {name: _stored(each) for name, each in value.items()}
    return [_stored(each) for each in value] if isinstance(value, list | tuple) else value


def _plain(value: Any) -> Any:
    """A value as JSON can hold it: text, or a number that a placeholder may round."""
    return value if isinstance(value, str | int) else float(value) if isinstance(value, Real) else str(value)


def _said(stored: dict[str, Any]) -> Any:
    if SENTENCE not in stored:
        return stored
    if "many" in stored:
        return n_(stored[SENTENCE], stored["many"], stored["n"], **stored["values"])
    return _(stored[SENTENCE], **stored["values"])


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
