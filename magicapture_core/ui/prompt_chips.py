"""What can be asked for, as buttons: other descriptions, and words to add to one."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from magicapture_core.ui import cards
from magicapture_core.ui.prompt_words import LOOK, ME, in_plain_words, to_page, with_tokens


def ideas_for(prompts: Sequence[str], known: Sequence[str]) -> list[str]:
    """A style's prompts to try, without those that ask for nothing a model of few words (`known`) can do."""
    return [prompt for prompt in prompts if not known or any(edit in prompt for edit in known)]


def has_edit(text: str, edit: str) -> bool:
    """Whether a description has one of the edits in it."""
    return f", {edit}" in text


def changed(text: str, act: str, chip: str) -> str:
    """A description after a chip was pressed: an edit comes or goes; another description replaces it."""
    if act == "prompt":
        return to_page(chip)
    if chip == ME:
        return (
            f"a photo of {ME} {text}".strip() if text.startswith("in ") else f"{text.rstrip(' ,.')} of {ME}"
        )
    if chip == LOOK:
        return f"{text.rstrip(' ,.')} in {LOOK}"
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

    missing = [each for each in (ME, LOOK) if each not in to_page(text)]
    shown = "".join(chip("edit", each, False, with_tokens(each)) for each in missing)
    shown += "".join(chip("edit", each, has_edit(text, each), escape(each)) for each in edits)
    others = "".join(chip("prompt", idea, to_page(idea) == text, with_tokens(idea)) for idea in ideas[:3])
    if others:
        others = (
            f'<details class="mc-more"><summary>Other descriptions for this look</summary><div class="mc-chips">'
            f"{others}</div></details>"
        )
    return f'<p class="mc-quiet">Add to the description</p><div class="mc-chips">{shown}</div>{others}'


def reading(text: str, unknown: Sequence[str], builtin: bool) -> str:
    """The description as it is read, and what of it is not known."""
    said = f'<p class="mc-reading">{with_tokens(text)}</p>' if text.strip() else ""
    if unknown:
        model = "built-in model" if builtin else "model"
        said += cards.note(f"The {model} does not know: {', '.join(unknown)}.", "warn")
    return said


def warnings(said: Sequence[str]) -> str:
    """What the model has to say about a description."""
    return cards.note("\n".join(map(in_plain_words, said)), "warn")
