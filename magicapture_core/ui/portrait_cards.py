"""Portraits as HTML: the grid, and everything about one of them."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path

from magicapture_core.ui.cards import address
from magicapture_core.ui.sessions import StoredPortrait

WORD_TITLES = {"{subject}": "the person", "{style}": "the style"}
SETTING_TITLES = {
    "negative_prompt": "Avoided",
    "steps": "Steps",
    "guidance_scale": "Guidance",
    "adapter_scale": "Strength",
    "scheduler": "Sampler",
    "model": "Model",
}


def likeness(portrait: StoredPortrait) -> str:
    """The score, in words."""
    if portrait.nsfw:
        return "Hidden by the safety checker"
    return "No face found" if portrait.identity is None else f"Likeness {max(portrait.identity, 0):.0%}"


def portrait_cards(portraits: Sequence[StoredPortrait], chosen: str | None) -> str:
    """A grid of buttons, each a portrait with its score and seed."""
    if not portraits:
        return ""
    cards = "".join(
        f'<button type="button" class="mc-portrait" data-act="portrait" data-id="{portrait.id}" '
        f'aria-pressed="{"true" if portrait.id == chosen else "false"}" '
        f'aria-label="{likeness(portrait)}, seed {portrait.seed}: show details">'
        f'<img class="mc-square" src="{address(portrait.picture)}" alt=""><span>{likeness(portrait)}'
        f"<small>seed {portrait.seed}</small></span></button>"
        for portrait in portraits
    )
    return (
        '<h3 class="mc-sub">Your portraits, best likeness first</h3>'
        f'<p class="mc-quiet">Choose one to see it large.</p><div class="mc-portraits">{cards}</div>'
    )


def portrait_detail(
    portrait: StoredPortrait, words: Sequence[str], word: str | None, heat: Path | None
) -> str:
    """One portrait, large, with how it was made and where one of its words looks."""
    rows = {"Description": portrait.prompt, "Seed": portrait.seed}
    rows |= {
        title: portrait.settings[name]
        for name, title in SETTING_TITLES.items()
        if portrait.settings.get(name)
    }
    facts = "".join(f"<dt>{escape(title)}</dt><dd>{escape(str(value))}</dd>" for title, value in rows.items())
    picture = address(portrait.picture)
    warnings = "".join(f'<p class="mc-quiet">{escape(warning)}</p>' for warning in portrait.warnings)
    looks = ""
    if heat is not None and word is not None:
        chips = "".join(
            f'<button type="button" class="mc-chip" data-act="word" data-id="{escape(each, quote=True)}" '
            f'aria-pressed="{"true" if each == word else "false"}">{escape(WORD_TITLES.get(each, each))}</button>'
            for each in words
        )
        title = escape(WORD_TITLES.get(word, word))
        looks = (
            f'<h3 class="mc-sub">Where does this word look?</h3><div class="mc-words">{chips}</div>'
            f'<img class="mc-heat" src="{address(heat)}" alt="Heat map: where “{title}” looks; bright is most">'
        )
    return (
        f'<div class="mc-detail" data-shown="{portrait.id}"><div>'
        f'<img src="{picture}" alt="The chosen portrait, {likeness(portrait)}">'
        f'<a class="mc-link" href="{picture}" download="portrait-seed-{portrait.seed}.png">'
        f'Download this portrait</a></div><div><h3 class="mc-sub">{likeness(portrait)}</h3>{warnings}'
        f'<dl class="mc-list">{facts}</dl>{looks}</div></div>'
    )
