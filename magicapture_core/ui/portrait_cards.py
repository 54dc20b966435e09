"""Portraits as HTML: the grid, and everything about one of them."""

from __future__ import annotations

import time
from collections.abc import Sequence
from html import escape
from pathlib import Path

from magicapture_core.ui.cards import address, button, count
from magicapture_core.ui.stored_session import Session, StoredPortrait, StoredRun

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


def portrait_cards(portraits: Sequence[StoredPortrait], chosen: str | None, sentence: str) -> str:
    """A grid of buttons, each a portrait with its score and seed; the sentence says what choosing one does."""
    if not portraits:
        return ""
    cards = "".join(
        f'<button type="button" class="mc-portrait" data-act="portrait" data-id="{portrait.id}" '
        f'aria-pressed="{"true" if portrait.id == chosen else "false"}">'
        f'<img class="mc-square" src="{address(portrait.picture)}" alt="Portrait {number}: {_about(portrait)}">'
        f"<span>{likeness(portrait)}<small>seed {portrait.seed}</small></span></button>"
        for number, portrait in enumerate(portraits, 1)
    )
    made = count(len(portraits), "portrait")
    return (
        f'<h3 class="mc-sub" data-say="{made}">Your portraits, best likeness first</h3>'
        f'<p class="mc-quiet">{escape(sentence)}</p><div class="mc-portraits">{cards}</div>'
    )


def _about(portrait: StoredPortrait) -> str:
    """What was asked for, as the text in a picture's place."""
    words = portrait.prompt
    for placeholder, title in WORD_TITLES.items():
        words = words.replace(placeholder, title)
    return escape(words, quote=True)


def large(portrait: StoredPortrait) -> str:
    """One portrait, as large as it is."""
    return (
        f'<figure class="mc-large" data-shown="{portrait.id}"><img src="{address(portrait.picture)}" '
        f'alt="{_about(portrait)}"><figcaption>{likeness(portrait)}, seed {portrait.seed}</figcaption></figure>'
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
        f'<img src="{picture}" alt="{_about(portrait)}">'
        f'<a class="mc-link" href="{picture}" download="portrait-seed-{portrait.seed}.png">'
        f'Download this portrait</a></div><div><h3 class="mc-sub">{likeness(portrait)}</h3>{warnings}'
        f'<dl class="mc-list">{facts}</dl>{looks}</div></div>'
    )


def run_title(run: StoredRun) -> str:
    """A training's name, and when it began."""
    begun = time.strftime("%d %b, %H:%M", time.localtime(run.started))
    return f"{run.title} ({begun})"


def past_runs(session: Session, asking: str | None = None) -> str:
    """Every training with a button to delete it. asking: the one to ask about."""
    items = []
    for run in reversed(session.runs):
        made = count(sum(portrait.run == run.id for portrait in session.portraits), "portrait")
        title = escape(run_title(run))
        if run.id == asking:
            items.append(
                f'<li class="mc-asked"><p role="alert">Delete {title} and its {made}? '
                "They cannot be brought back.</p>"
                f"{button('keep-run', run.id, 'No, keep it')}"
                f"{button('drop-run', run.id, 'Yes, delete it', kind='mc-stop')}</li>"
            )
        else:
            items.append(
                f"<li><p><strong>{title}</strong> <small>{made}</small></p>"
                f"{button('ask-run', run.id, 'Delete …', f'Delete {run_title(run)}')}</li>"
            )
    return f'<ul class="mc-past">{"".join(items)}</ul>'


def ideas_for(prompts: Sequence[str], known: Sequence[str]) -> list[str]:
    """A style's prompts to try, without those that ask for nothing a model of few words (`known`) can do."""
    return [prompt for prompt in prompts if not known or any(edit in prompt for edit in known)]


def has_edit(prompt: str, edit: str) -> bool:
    """Whether a prompt has one of the edits in it."""
    return f", {edit}" in prompt


def chips(ideas: Sequence[str], edits: Sequence[str], prompt: str) -> str:
    """Other prompts, and what can be added to one; what is in `prompt` is pressed."""

    def chip(act: str, text: str, pressed: bool) -> str:
        return (
            f'<button type="button" class="mc-chip" data-act="{act}" data-id="{escape(text, quote=True)}" '
            f'aria-pressed="{"true" if pressed else "false"}">{escape(text)}</button>'
        )

    others = "".join(chip("prompt", idea, idea == prompt) for idea in ideas[:4])
    if others:
        others = f'<p class="mc-quiet">Other ideas for this style</p><div class="mc-chips">{others}</div>'
    shown = "".join(chip("edit", text, has_edit(prompt, text)) for text in edits)
    return f'{others}<p class="mc-quiet">Add or take away</p><div class="mc-chips">{shown}</div>'
