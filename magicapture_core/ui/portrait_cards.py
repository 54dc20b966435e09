"""Portraits as HTML: the grid, and everything about one of them."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from html import escape
from pathlib import Path

from magicapture_core.languages import N_, _, n_
from magicapture_core.ui import likeness
from magicapture_core.ui.cards import address, button
from magicapture_core.ui.prompt_words import TITLES, in_plain_words, to_page, with_tokens
from magicapture_core.ui.stored_session import Session, StoredPhoto, StoredPortrait

SETTING_TITLES = {
    "negative_prompt": N_("Avoid"),
    "steps": N_("Steps"),
    "guidance_scale": N_("Guidance"),
    "adapter_scale": N_("Strength"),
    "adapter_start": N_("Variety"),
    "scheduler": N_("Sampler"),
    "near": N_("Near to seeds"),
    "variation": N_("Distance from it"),
    "model": N_("Model"),
}

FILM = """
watch('value', () => {
  const film = element.querySelector('.mc-film'), chosen = film?.querySelector('.mc-open[aria-pressed="true"]');
  const card = chosen?.closest('.mc-portrait');
  if (card) film.scrollLeft = card.offsetLeft - (film.clientWidth - card.clientWidth) / 2;
});
"""
"""For gr.HTML with a `film` in it: the chosen portrait stays in sight when the film is drawn anew."""


def in_words(portrait: StoredPortrait) -> str:
    """The score, in words."""
    return _("Hidden by the safety checker") if portrait.nsfw else likeness.in_words(portrait.identity)


def portrait_cards(
    portraits: Sequence[StoredPortrait],
    chosen: str | None,
    sentence: str,
    *,
    new: int | None = None,
    coming: int = 0,
    marked: Collection[str] = (),
    film: bool = False,
) -> str:
    """A grid of buttons, each a portrait with its score; the sentence says what choosing one does.

    new: the batch that is marked as new; coming: how many are still being drawn; marked: ids of what is finished;
    film: on a phone one row that scrolls, so that what is shown of the chosen one below it is near.
    """
    if not portraits and not coming:
        return ""
    made = escape(n_("{n} portrait", "{n} portraits", len(portraits)), quote=True) if portraits else ""
    return (
        f'<h3 class="mc-sub" data-say="{made}">{_("Your portraits")}</h3><p class="mc-quiet">{escape(sentence)}</p>'
        f'<div class="mc-portraits{" mc-film" if film else ""}" aria-busy="{"true" if coming else "false"}">'
        + '<div class="mc-coming mc-waiting"><span></span></div>' * coming
        + "".join(
            _card(
                each,
                number,
                each.id == chosen,
                _("Finished") if each.id in marked else _("New") if each.batch == new else "",
            )
            for number, each in enumerate(portraits, 1)
        )
        + "</div>"
    )


def _card(portrait: StoredPortrait, number: int, chosen: bool, mark: str) -> str:
    badge = f'<span class="mc-badge mc-good">{mark}</span>' if mark else ""
    named = _("Portrait {number}: {description}", number=number, description=to_page(portrait.prompt))
    return (
        f'<div class="mc-portrait"><button type="button" class="mc-open" data-act="portrait" data-id="{portrait.id}" '
        f'aria-pressed="{"true" if chosen else "false"}"><span class="mc-thumb"><img class="mc-square" '
        f'src="{address(portrait.picture)}" alt="{escape(named, quote=True)}">{badge}</span>'
        f"<span>{in_words(portrait)}</span></button>{heart(portrait)}</div>"
    )


def heart(portrait: StoredPortrait, word: str = "") -> str:
    """The button that makes a portrait a favourite, or not. word: what stands beside its sign."""
    pressed = "true" if portrait.favourite else "false"
    kind, sign = "mc-button" if word else "mc-heart", "♥" if portrait.favourite else "♡"
    return (
        f'<button type="button" class="{kind}" data-act="favourite" data-id="{portrait.id}" aria-pressed="{pressed}" '
        f'aria-label="{escape(_("Favourite"), quote=True)}"><span aria-hidden="true">{sign}</span>'
        f'<span class="mc-word"> {word}</span></button>'
    )


def undo(session: Session) -> str:
    """What was deleted a moment ago, and how to have it back."""
    if not session.removed:
        return ""
    return (
        '<div class="mc-note mc-undo" role="status">'
        f"{n_('{n} portrait deleted.', '{n} portraits deleted.', len(session.removed))} "
        f"{button('undo', session.removed[-1].id, _('Undo'))}</div>"
    )


def _about(portrait: StoredPortrait) -> str:
    """What was asked for, as the text in a picture's place."""
    return escape(to_page(portrait.prompt), quote=True)


def large(portrait: StoredPortrait) -> str:
    """One portrait, as large as it is."""
    return (
        f'<figure class="mc-large" data-shown="{portrait.id}"><img src="{address(portrait.picture)}" '
        f'alt="{_about(portrait)}"><figcaption>{in_words(portrait)}</figcaption></figure>'
    )


def portrait_detail(
    portrait: StoredPortrait,
    photo: StoredPhoto | None,
    words: Sequence[str],
    word: str | None,
    heat: Path | None,
) -> str:
    """One portrait, large beside a photo of the person, what can be done with it, and how it was made.

    It stays as it is while others are drawn, so it offers everything: a press that comes too early is told so.
    """
    picture = address(portrait.picture)
    original = ""
    if photo is not None:
        original = (
            f'<figure><img src="{address(photo.views.get("photo", photo.thumb))}" '
            f'alt="{escape(_("One of the photos"), quote=True)}"><figcaption>'
            f"<strong>{_('One of your photos')}</strong></figcaption></figure>"
        )
    looks = _looks(words, word, heat)
    close = button("close", portrait.id, "✕", _("Close"), kind="mc-close")
    near = button("near", portrait.id, _("More like this"))
    warnings = "".join(
        f'<p class="mc-quiet">{escape(in_plain_words(each))}</p>' for each in portrait.warnings
    )
    return (
        f'<div class="mc-about" data-shown="{portrait.id}"><div class="mc-pair mc-three"><figure><img src="{picture}" '
        f'alt="{_about(portrait)}"><figcaption><strong>{in_words(portrait)}</strong></figcaption></figure>{original}'
        f'{looks}</div>{close}<div class="mc-tools">{near}{heart(portrait, _("Favourite"))}<a class="mc-button" '
        f'href="{picture}" download="portrait-seed-{portrait.seed}.png">{_("Download")}</a>'
        f"{button('remove', portrait.id, _('Delete'))}</div>"
        f'<p>{with_tokens(portrait.prompt)}</p>{warnings}<details class="mc-more"><summary>'
        f"{_('Advanced: how it was made')}</summary>{_facts(portrait)}</details></div>"
    )


def _looks(words: Sequence[str], word: str | None, heat: Path | None) -> str:
    """What a word pays attention to, as a figure, and the words to choose from: two cells of the grid."""
    if heat is None or word is None:
        return ""
    chips = "".join(
        f'<button type="button" class="mc-chip" data-act="word" data-id="{escape(each, quote=True)}" '
        f'aria-pressed="{"true" if each == word else "false"}">{escape(_title(each))}</button>'
        for each in words
    )
    title = _title(word)
    shown = _("What “{word}” pays attention to: bright is most", word=title)
    return (
        f'<figure><img class="mc-heat" src="{address(heat)}" alt="{escape(shown, quote=True)}">'
        f"<figcaption><strong>{escape(_('What “{word}” pays attention to', word=title))}</strong></figcaption></figure>"
        f'<div class="mc-other"><h3 class="mc-sub">{_("What the model pays attention to")}</h3>'
        f'<div class="mc-words">{chips}</div></div>'
    )


def _title(word: str) -> str:
    """What the page calls a word of a prompt: "me" for {subject}; others stand in the description as they are."""
    return _(TITLES[word]) if word in TITLES else word


def _facts(portrait: StoredPortrait) -> str:
    rows = {_("Seed"): portrait.seed} | {
        _(title): portrait.settings[name]
        for name, title in SETTING_TITLES.items()
        if portrait.settings.get(name)
    }
    facts = "".join(f"<dt>{escape(title)}</dt><dd>{escape(str(value))}</dd>" for title, value in rows.items())
    return f'<dl class="mc-list">{facts}</dl>'
