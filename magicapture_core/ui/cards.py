"""Pieces of the page as HTML: photo cards, choices, notes, progress. Everything a visitor typed is escaped."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path
from urllib.parse import quote

from magicapture_core.languages import N_, _, n_, together
from magicapture_core.ui.jobs import Snapshot
from magicapture_core.ui.stored_session import UNSEEN, Role, StoredPhoto

Example = tuple[str, Sequence[str]]
"""A caption and the shown pictures above it."""

CLICKS = """
element.addEventListener('click', event => {
  const button = event.target.closest('[data-act]');
  if (button) trigger('click', {act: button.dataset.act, id: button.dataset.id || ''});
});
"""
"""For gr.HTML: tells the server which of its buttons was pressed."""

INTO_VIEW = """
let shown = '';
watch('value', () => {
  const id = element.querySelector('[data-shown]')?.dataset.shown || '';
  if (id && id !== shown) element.scrollIntoView({block: 'nearest', behavior: magicapture.motion()});
  shown = id;
});
"""
"""For gr.HTML: comes into view when it shows something else, by its data-shown."""


def live(then: str = "") -> str:
    """For gr.HTML: says how far a job is, and has the keyboard while it does (page.js).

    then: a CSS selector of what the job makes, which has the keyboard after it, and comes into view.
    """
    named = json.dumps({"role": "group", "aria-label": _("Progress"), "tabindex": "-1", "data-then": then})
    return (
        f"element.classList.add('mc-live');"
        f"for (const [name, value] of Object.entries({named})) element.setAttribute(name, value);"
    )


WAITS = """
const part = element.closest('.mc-waits') || element.closest('.tabitem');
const release = () => { part.classList.remove('mc-filling'); part.removeAttribute('aria-disabled'); };
part.classList.add('mc-filling'); part.setAttribute('aria-disabled', 'true');
props.label = 'filling';
watch('label', release);
setTimeout(release, 5000);
"""
"""For a gr.HTML at the end of a part of the page: the part takes no input before it is filled.

gradio (6.31) makes what stands in an accordion or a step when it is first opened. A moment later it sends every
property once more, in order, and what was typed or chosen in between is lost. On a slow machine the moment is long.
This gr.HTML is the last to get its own back; until then nothing in the part can be pressed. (Its label, for gradio
would first read back a value changed here.) Should a later gradio send nothing, the part opens by itself.
"""

BADGES = {
    "accept": ("good", N_("Good")),
    "warn": ("fair", N_("Could be better")),
    "refuse": ("bad", N_("Cannot be used")),
    UNSEEN: ("coming", N_("Looking at it …")),
}


def address(path: str | Path) -> str:
    """Where the browser finds a shown file, relative to the page."""
    return "gradio_api/file=" + escape(quote(str(path), safe="/:\\"), quote=True)


def heading(title: str, sentence: str) -> str:
    """A step's title and what it is for."""
    return f'<div class="mc-heading"><h2>{escape(title)}</h2><p>{escape(sentence)}</p></div>'


def way(steps: Sequence[str], current: int, reached: int) -> str:
    """The row of steps, by their names: a button for each. Those after `reached` cannot be pressed."""
    items = "".join(_way_item(number, name, current, reached) for number, name in enumerate(steps))
    return f'<nav class="mc-way" aria-label="{escape(_("Steps of this page"), quote=True)}"><ol>{items}</ol></nav>'


def _way_item(number: int, name: str, current: int, reached: int) -> str:
    state = ' aria-current="step"' if number == current else " disabled" if number > reached else ""
    kind, mark, more = "", str(number + 1), ""
    if number < current:
        # Translators: read aloud after the name of a step.
        kind, mark, more = "mc-done", "✓", f'<span class="mc-unseen">{escape(_(", done"))}</span>'
    return (
        f'<li class="{kind}"><button type="button" data-act="step" data-id="{number}"{state}>'
        f'<span class="mc-number" aria-hidden="true">{mark}</span><span>{escape(name)}{more}</span></button></li>'
    )


def note(text: str, kind: str = "info") -> str:
    """A message in a box; nothing for an empty text. kind: info, warn, good or bad."""
    if not text:
        return ""
    role = "alert" if kind in ("warn", "bad") else "status"
    lines = "<br>".join(escape(line) for line in text.splitlines())
    return f'<div class="mc-note mc-{kind}" role="{role}">{lines}</div>'


def failure(step: str, snapshot: Snapshot) -> str:
    """Why a job failed, in which step (its name); a warning where it was only cut off."""
    said = _("Step “{step}”: {problem}", step=step, problem=snapshot.problem)
    return note(said, "warn" if snapshot.cut_off else "bad")


def photo_cards(photos: Sequence[StoredPhoto]) -> str:
    """Every photo with its verdict, the reasons, and what can be done about it."""
    if not photos:
        return ""
    return f'<ul class="mc-photos">{"".join(_photo_card(photo) for photo in photos)}</ul>'


def _photo_card(photo: StoredPhoto) -> str:
    kind, title = BADGES[photo.level]
    reasons = ""
    if photo.kept and photo.level == "warn":
        kind, title = "good", N_("Used anyway") if photo.left_out else N_("Good")
    else:
        reasons = "".join(f"<li>{escape(sentence(reason))}</li>" for reason in photo.reasons)
    could = photo.level not in ("refuse", UNSEEN)
    if could and not photo.used:
        title = N_("Not used")
    name = escape(photo.name)
    return (
        f'<li class="mc-photo mc-level-{kind}{"" if photo.used or not could else " mc-unticked"}">'
        f'<div class="mc-thumb"><img src="{address(photo.thumb)}" alt="{name}">{_tick(photo) if could else ""}'
        f"{button('remove', photo.id, '✕', _('Remove {name}', name=photo.name), kind='mc-remove')}"
        f'<span class="mc-badge mc-{kind}">{escape(_(title))}</span></div>'
        f'<p class="mc-name" title="{name}">{name}</p>'
        + (f'<ul class="mc-reasons">{reasons}</ul>' if reasons else "")
        + "</li>"
    )


def _tick(photo: StoredPhoto) -> str:
    """The box that says whether a photo is used."""
    ticked = "true" if photo.used else "false"
    return (
        f'<button type="button" class="mc-tick" role="checkbox" aria-checked="{ticked}" '
        f'data-act="{"leave" if photo.used else "use"}" data-id="{escape(photo.id, quote=True)}" '
        f'aria-label="{escape(_("Use {name}", name=photo.name), quote=True)}"></button>'
    )


def button(act: str, target: str, text: str, label: str = "", *, kind: str = "") -> str:
    """A button that sends `act` and `target` to the server. label: its name, where the text does not say enough."""
    named = f' aria-label="{escape(label, quote=True)}"' if label else ""
    return (
        f'<button type="button" class="{f"mc-button {kind}".strip()}" data-act="{act}" '
        f'data-id="{escape(target, quote=True)}"{named}>{escape(text)}</button>'
    )


def sentence(text: str) -> str:
    """With a capital letter and a full stop."""
    text = text.strip()
    return text[:1].upper() + text[1:] + ("" if text.endswith((".", "!", "?", "。", "！", "？")) else ".")


def summary(photos: Sequence[StoredPhoto], role: Role, kind: str = "person") -> str:
    """How many photos are learned from and whether they are enough."""
    if not photos:
        return ""
    waiting = sum(photo.level == UNSEEN for photo in photos)
    if waiting:
        done, every = len(photos) - waiting, len(photos)
        return note(_("Looking at the photos: {done} of {all} …", done=done, all=every))
    usable = [photo for photo in photos if photo.used]
    refused = sum(photo.level == "refuse" for photo in photos)
    left_out = len(photos) - len(usable) - refused
    rest = [n_("{n} cannot be used.", "{n} cannot be used.", refused)] if refused else []
    if left_out:
        rest.append(n_("{n} is not ticked, so not used.", "{n} are not ticked, so not used.", left_out))
    if not usable and left_out:
        return note(together(_("None of these photos is used."), *rest), "bad")
    if not usable:
        rest = rest if len(photos) > 1 else []
        return note(together(_("None of these photos can be used."), *rest, _("Add others.")), "bad")
    said = together(_usable(len(usable), role, kind), *rest)
    if len(usable) < 4:
        more = _("It works with fewer, but 4 to 6 give a clearly better result.")
        return note(together(said, more), "warn")
    return note(said, "good")


def _usable(number: int, role: Role, kind: str) -> str:
    if role == "style":
        return n_("{n} usable photo of the style.", "{n} usable photos of the style.", number)
    if kind == "person":
        return n_("{n} usable photo of the person.", "{n} usable photos of the person.", number)
    return n_("{n} usable photo of the object.", "{n} usable photos of the object.", number)


def choices(items: Iterable[tuple[str, str, str, Sequence[str]]], chosen: str | None, act: str) -> str:
    """Cards to choose from: (id, title, description, shown pictures)."""
    cards = []
    for item, title, description, pictures in items:
        pressed = "true" if item == chosen else "false"
        about = f"<span>{escape(description)}</span>" if description else ""
        cards.append(
            f'<button type="button" class="mc-choice" data-act="{act}" data-id="{escape(item)}" '
            f'aria-pressed="{pressed}"><span class="mc-strip">{_pictures(pictures)}</span>'
            f"<strong>{escape(title)}</strong>{about}</button>"
        )
    return f'<div class="mc-choices">{"".join(cards)}</div>' if cards else ""


LIKENESS = (0.55, 0.35)
"""Least cosine of SFace for a strong and for a fair likeness: photos of one person have .5 to .8 to each other, other
people .33 at most."""


def downloads(paths: Sequence[Path]) -> str:
    """Links to shown files."""
    links = "".join(
        f'<a class="mc-link" href="{address(path)}" download="{escape(path.name)}">{escape(path.name)} '
        f"<small>{max(1, path.stat().st_size // 1000)} kB</small></a>"
        for path in paths
    )
    return f'<div class="mc-links">{links}</div>'


def progress(
    share: float, title: str, details: Sequence[str], kind: str = "info", *, button: str = ""
) -> str:
    """A bar from 0 to 1, what is being done, facts about it, and a button (HTML) in their row."""
    percent = round(100 * min(max(share, 0), 1))
    facts = "".join(f"<span>{escape(detail)}</span>" for detail in details if detail)
    return (
        f'<div class="mc-progress mc-{kind}" role="group"><div class="mc-row"><strong>{escape(title)}</strong>'
        f'<span class="mc-percent">{percent}%</span></div>'
        f'<div class="mc-bar" role="progressbar" aria-label="{escape(title, quote=True)}" aria-valuemin="0" '
        f'aria-valuemax="100" aria-valuenow="{percent}"><i style="width:{percent}%"></i></div>'
        f'<div class="mc-facts">{facts}{button}</div></div>'
    )


def duration(seconds: float) -> str:
    """A length of time, rounded, in words."""
    if seconds < 50:
        return n_("{n} second", "{n} seconds", max(5, round(seconds / 5) * 5))
    if seconds < 5400:
        return n_("{n} minute", "{n} minutes", 1 if seconds < 90 else round(seconds / 60))
    if seconds < 172800:
        return _("{number} hours", number=f"{seconds / 3600:.1f}".removesuffix(".0"))
    return n_("{n} day", "{n} days", round(seconds / 86400))


def labelled(items: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    """What gradio offers to choose from, (label, value), the labels in the visitor's language."""
    return [(_(label), value) for label, value in items]


def guidance(
    title: str, good: Sequence[Example], other: str, bad: Sequence[Example], notes: Sequence[str]
) -> str:
    """What works and what does not, each with a small picture, and a few words more."""
    lines = "".join(f"<li>{escape(line)}</li>" for line in notes)
    return (
        f'<div class="mc-guide"><h3>{escape(title)}</h3>{_examples(good, "yes")}<h3>{escape(other)}</h3>'
        f"{_examples(bad, 'no')}<ul>{lines}</ul></div>"
    )


def _examples(examples: Sequence[Example], kind: str) -> str:
    mark = {"yes": "✓", "no": "✕"}[kind]
    figures = "".join(
        f'<figure><span class="mc-strip">{_pictures(pictures)}</span><figcaption><i aria-hidden="true">{mark}</i> '
        f"{escape(caption)}</figcaption></figure>"
        for caption, pictures in examples
    )
    return f'<div class="mc-examples mc-{kind} mc-of-{len(examples)}">{figures}</div>'


def _pictures(paths: Sequence[str]) -> str:
    return "".join(f'<img src="{address(path)}" alt="">' for path in paths[:3])
