"""Likeness in words, the same everywhere on the page."""

from __future__ import annotations

from magicapture_core.ui.cards import LIKENESS

EXPLAINED = (
    '<details class="mc-more"><summary>What does the likeness say?</summary><p>A face recognition compares the face '
    f"with your photos. Below {100 * LIKENESS[-1][0]:.0f} is weak: some strangers reach that, too. From "
    f"{100 * LIKENESS[0][0]:.0f} on it is strong: two photos of one person have 50 to 80. The face recognition is also "
    "used in training, so its numbers are optimistic.</p></details>"
)
"""Once on a page that shows numbers."""


def level(identity: float) -> str:
    """ "Weak", "Fair" or "Strong", of a cosine by face recognition."""
    found = next((words for least, words in LIKENESS if identity >= least), "weak")
    return found.split()[0].capitalize()


def in_words(identity: float | None) -> str:
    """ "Fair likeness (49)"; the number is the cosine in hundredths."""
    if identity is None:
        return "No face found"
    return f"{level(identity)} likeness ({max(round(100 * identity), 0)})"
