"""What can be asked for, as buttons: other descriptions, and words to add to one."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from magicapture_core.languages import ENGLISH, _, language
from magicapture_core.ui import cards
from magicapture_core.ui.prompt_words import (
    LOOK,
    ME,
    TITLES,
    from_page,
    in_plain_words,
    to_page,
    translated,
    with_tokens,
)


def ideas_for(prompts: Sequence[str], known: Sequence[str]) -> list[str]:
    """A style's prompts to try, without those that ask for nothing a model of few words (`known`) can do."""
    return [prompt for prompt in prompts if not known or any(edit in prompt for edit in known)]


def has_edit(text: str, edit: str) -> bool:
    """Whether a description has one of the edits in it."""
    return f", {edit}" in text


def changed(text: str, act: str, chip: str) -> str:
    """A description after a chip was pressed: an edit comes or goes; another description replaces it.

    chip: an edit or a prompt as the model reads it, or ME or LOOK in English.
    """
    if act == "prompt":
        return to_page(chip)
    if chip == ME:
        me = _(ME)
        return (
            f"a photo of {me} {text}".strip() if text.startswith("in ") else f"{text.rstrip(' ,.')} of {me}"
        )
    if chip == LOOK:
        return f"{text.rstrip(' ,.')} in {_(LOOK)}"
    if has_edit(text, chip):
        return text.replace(f", {chip}", "")
    return f"{text.rstrip(' ,.')}, {chip}"


def chips(ideas: Sequence[str], edits: Sequence[str], text: str) -> str:
    """Other prompts, and what can be added to a description; what is in `text` is pressed."""

    def chip(act: str, value: str, pressed: bool, html: str) -> str:
        return (
            f'<button type="button" class="mc-chip" data-act="{act}" data-id="{escape(value, quote=True)}" '
            f'aria-pressed="{"true" if pressed else "false"}">{html}</button>'
        )

    missing = [title for placeholder, title in TITLES.items() if placeholder not in from_page(text)]
    shown = "".join(chip("edit", each, False, with_tokens(_(each))) for each in missing)
    shown += "".join(chip("edit", each, has_edit(text, each), escape(_(each))) for each in edits)
    others = "".join(
        chip("prompt", idea, to_page(idea) == text, with_tokens(translated(idea))) for idea in ideas[:3]
    )
    if others:
        others = (
            f'<details class="mc-more"><summary>{_("Other descriptions for this look")}</summary>'
            f'<div class="mc-chips">{others}</div></details>'
        )
    return f'<p class="mc-quiet">{_("Add to the description")}</p><div class="mc-chips">{shown}</div>{others}'


def reading(text: str, unknown: str) -> str:
    """The description as it is read, and what is to be said of words that the model does not know."""
    english = (
        "" if language() == ENGLISH else _("The model reads English, so describe the picture in English.")
    )
    said = f'<p class="mc-quiet">{english}</p>' if english else ""
    said += f'<p class="mc-reading">{with_tokens(text)}</p>' if text.strip() else ""
    return said + cards.note(unknown, "warn")


def warnings(said: Sequence[str]) -> str:
    """What the model has to say about a description."""
    return cards.note("\n".join(map(in_plain_words, said)), "warn")
