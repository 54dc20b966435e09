"""The head of the page: what it is, what happens with photos, and the languages, each of which is a page of its own."""

from __future__ import annotations

import json
from html import escape
from pathlib import Path

from magicapture_core.languages import ENGLISH, LANGUAGES, _, available, language, n_

TAGS = {"zh": "zh-Hans"}
"""What browsers call a language (BCP 47), where that is not its code: it chooses the shapes of Chinese characters."""
STAY = "#en"
"""At the end of the address of the English page: stay here, whatever the browser prefers."""


def address(code: str) -> str:
    """Where the page of a language is, relative to the root of the server (gradio's base of all links)."""
    return f"./{STAY}" if code == ENGLISH else f"./{code}"


def page_head(keep_days: float) -> str:
    """The head of the page in the language that is spoken, and what page.js and style.css have to say in it."""
    words = {
        "done": _("{about}: done", about="{about}"),
        "failed": _("{about}: failed", about="{about}"),
        "drop": _("or drop them here: JPEG, PNG, HEIC and others"),
        "kinds": _("JPEG, PNG, HEIC and others"),
        "share": _("{percent}% {about}", percent="{percent}", about="{about}"),
    }
    private = n_(
        "Your photos stay on this server, only this browser can see them, and they are deleted after {days:g} day or "
        "whenever you say so.",
        "Your photos stay on this server, only this browser can see them, and they are deleted after {days:g} days or "
        "whenever you say so.",
        round(keep_days),
        days=keep_days,
    )
    about = _("Portraits of you in a style you choose, from a few photos.")
    return (
        f'<header class="mc-head" data-lang="{_tag(language())}" '
        f'data-words="{escape(json.dumps(words), quote=True)}">{_languages()}<div><h1>MagiCapture</h1>'
        f'<p>{escape(about)}</p></div><p class="mc-private">{escape(private)}</p></header>'
    )


def _languages() -> str:
    """A link to the page of each language that there is, the present one marked; nothing where there is only one."""
    codes = available()
    if len(codes) < 2:
        return ""
    links = "".join(map(_link, codes))
    return (
        f'<nav class="mc-languages" aria-label="{escape(_("Language"), quote=True)}"><ul>{links}</ul></nav>'
    )


def _link(code: str) -> str:
    present = ' aria-current="page"' if code == language() else ""
    return (
        f'<li><a href="{address(code)}" lang="{_tag(code)}" hreflang="{_tag(code)}" data-language="{code}"{present}>'
        f"{LANGUAGES[code]}</a></li>"
    )


def _tag(code: str) -> str:
    return TAGS.get(code, code)


def script() -> str:
    """For the head of the document (gradio's `head`): goes to the page in the browser's language, once and for all.

    Only from the address without a language, and only where nobody has chosen one on the page yet.
    """
    codes = json.dumps(available())
    return f"<script>{_CHOOSING.replace('[CODES]', codes).replace('[STAY]', STAY)}</script>"


_CHOOSING = (Path(__file__).parent / "language.js").read_text(encoding="utf-8")
