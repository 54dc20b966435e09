"""Cards of looks and of masks as HTML. Everything a visitor typed is escaped."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape

from magicapture_core.languages import N_, _
from magicapture_core.ui.cards import address, sentence
from magicapture_core.ui.stored_session import Role


@dataclass(frozen=True)
class LookCard:
    """A look to tick: what it is called, and what is shown of it."""

    name: str
    title: str
    description: str
    picture: str | None
    """Shown picture: a draft, or an example of the look; None: there is none yet."""
    draft: bool
    """Whether the picture is a draft of the visitor."""
    examples: Sequence[str] = ()
    """Shown pictures of others in the look."""
    lighter: bool = False
    """Whether the draft shows a lighter face than the photos do."""


DRAFT = N_("Draft: the look, not yet your face")
LIGHTER = N_("Lighter than your photos")


def look_cards(looks: Sequence[LookCard], ticked: Sequence[str]) -> str:
    """Looks to tick, each with a large picture; drafts say what they are."""
    return f'<div class="mc-looks">{"".join(_look_card(look, look.name in ticked) for look in looks)}</div>'


def _look_card(look: LookCard, ticked: bool) -> str:
    picture = (
        f'<img src="{address(look.picture)}" alt="">' if look.picture else '<span class="mc-plus">+</span>'
    )
    said = f'<span class="mc-draft">{escape(_(DRAFT))}</span>' if look.draft else ""
    if look.picture and not look.draft:
        said = f'<span class="mc-example">{escape(_("Example"))}</span>'
    others = (
        "".join(f'<img src="{address(path)}" alt="">' for path in look.examples[:3]) if look.draft else ""
    )
    lighter = f'<em class="mc-lighter">{escape(_(LIGHTER))}</em>' if look.lighter else ""
    return (
        f'<button type="button" class="mc-lookcard" data-act="look" data-id="{escape(look.name, quote=True)}" '
        f'aria-pressed="{"true" if ticked else "false"}"><span class="mc-face">{picture}'
        f'<i class="mc-mark" aria-hidden="true"></i><span class="mc-others">{others}</span>{said}</span>'
        f"<strong>{escape(look.title)}</strong>{lighter}<span>{escape(look.description)}</span></button>"
    )


def first_draft(picture: str, title: str, lighter: bool) -> str:
    """The first draft, beside the photos it is made of. lighter: it shows a lighter face than they do."""
    named = _("The first draft: {look}", look=title)
    said = _("Draft: the look, not yet your face. Press “Next” for all looks.")
    more = f"<br>{escape(_('The face is lighter than in your photos.'))}" if lighter else ""
    return (
        f'<div class="mc-first"><img src="{address(picture)}" alt=""><p role="status">'
        f"<strong>{escape(named)}</strong><br>{escape(said)}{more}</p></div>"
    )


def first_draft_coming() -> str:
    """The place of the first draft while it is drawn."""
    said = _("Drawing a first draft …")
    return f'<div class="mc-first"><i aria-hidden="true"></i><p role="status">{escape(said)}</p></div>'


@dataclass(frozen=True)
class MaskCard:
    """A photo as training sees it."""

    id: str
    name: str
    picture: str
    corrected: bool
    problem: str | None
    """Why it cannot be used without a mask."""
    doubt: str | None
    """Why somebody should look at it."""


def mask_cards(title: str, role: Role, photos: Iterable[MaskCard]) -> str:
    """Photos as training sees them, each a button that opens the brush; a badge only where it says something."""
    cards = "".join(_mask_card(role, photo) for photo in photos)
    return f'<h3 class="mc-sub">{escape(title)}</h3><div class="mc-masks">{cards}</div>' if cards else ""


def _mask_card(role: Role, photo: MaskCard) -> str:
    kind, badge, said = "", "", photo.problem
    if photo.problem:
        kind, badge = "bad", _("Needs a mask")
    elif photo.corrected:
        kind, badge = "good", _("Corrected")
    elif photo.doubt:
        kind, badge, said = "fair", _("Please check"), photo.doubt
    tag = f'<span class="mc-badge mc-{kind}">{escape(badge)}</span>' if badge else ""
    label = _("Correct the mask of {name}", name=photo.name)
    words = ""
    if said:
        words = f'<span class="mc-problem">{escape(sentence(said))}</span>'
        label = _("Correct the mask of {name}. {problem}", name=photo.name, problem=sentence(said))
    return (
        f'<button type="button" class="mc-mask" data-act="edit-{role}" data-id="{escape(photo.id)}" '
        f'aria-label="{escape(label, quote=True)}">'
        f'<span class="mc-thumb"><img src="{address(photo.picture)}" alt="">{tag}</span>{words}</button>'
    )


LEARNING = {
    "done": ("✓", N_(", learned")), "now": ("●", N_(", being learned")), "": ("○", N_(", not learned yet")),
}  # fmt: skip
"""Sign of a look's state, and what is read aloud after its title."""


def learning_order(looks: Sequence[tuple[str, str]]) -> str:
    """Several looks in the order in which they are learned: (title, "done", "now" or ""). Nothing for a single one."""
    if len(looks) < 2:
        return ""
    items = "".join(
        f'<li class="mc-is-{state or "coming"}"><i aria-hidden="true">{LEARNING[state][0]}</i> {escape(title)}'
        f'<span class="mc-unseen">{escape(_(LEARNING[state][1]))}</span></li>'
        for title, state in looks
    )
    name = escape(_("Looks, learned one after the other"), quote=True)
    return f'<ol class="mc-order" aria-label="{name}">{items}</ol>'
