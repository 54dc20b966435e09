"""Likeness in words, the same everywhere on the page."""

from __future__ import annotations

from magicapture_core.languages import _
from magicapture_core.ui.cards import LIKENESS

STRONG, FAIR = LIKENESS
"""Least cosines."""


def explained() -> str:
    """What the numbers say, to be opened: once on a page that shows numbers."""
    fair, strong = round(100 * FAIR), round(100 * STRONG)
    summary = _("What does the likeness say?")
    words = _(
        "A face recognition compares the face with your photos. Below {fair} is weak: some strangers reach that, too. "
        "From {strong} on it is strong: two photos of one person have 50 to 80. The face recognition is also used in "
        "training, so its numbers are optimistic.",
        fair=fair,
        strong=strong,
    )
    return f'<details class="mc-more"><summary>{summary}</summary><p>{words}</p></details>'


def level(identity: float) -> str:
    """ "Weak", "Fair" or "Strong", of a cosine by face recognition."""
    return _("Strong") if identity >= STRONG else _("Fair") if identity >= FAIR else _("Weak")


def in_words(identity: float | None) -> str:
    """ "Fair likeness (49)"; the number is the cosine in hundredths."""
    if identity is None:
        return _("No face found")
    number = max(round(100 * identity), 0)
    if identity >= STRONG:
        return _("Strong likeness ({number})", number=number)
    return _("Fair likeness ({number})", number=number) if identity >= FAIR else (
        _("Weak likeness ({number})", number=number)
    )  # fmt: skip
