"""What a training draws on its way: one sample large beside a photo of the person, and all of them to choose from."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from pathlib import Path

from magicapture_core.checkpoints import Run
from magicapture_core.languages import _
from magicapture_core.ui import cards
from magicapture_core.ui.likeness import in_words, level
from magicapture_core.ui.run_pictures import pictures, sample_copy
from magicapture_core.ui.stored_session import Session, StoredDraft

MOST = 24
"""Samples to choose from: the newest ones, and the best."""
SCORED = "data-scored"
"""Attribute of what says a likeness, whatever the language."""


@dataclass(frozen=True)
class SeenSample:
    """One sample of a run."""

    step: int
    picture: Path
    """Shown picture."""
    likeness: float | None
    """Mean cosine over its pictures; None: not looked for, as of an object."""


def samples(session: Session, folder: Path, until: int, looked: int | None, finished: bool) -> str:
    """The samples of a run up to a step, from its folder, so that a resumed one has them.

    looked: the step of the sample that somebody chose; None: the newest, or the one in use once the run has `finished`.
    """
    found = _found(session, folder, until)
    if not found:
        return ""
    best = _best(folder, found)
    usual = best if finished and best is not None else found[-1]
    shown = next((each for each in found if each.step == looked), usual)
    title = _("In use") if finished and shown is best else _("Newest") if shown is found[-1] else _("Best so far") if (
        shown is best
    ) else _("Step {step}", step=shown.step)  # fmt: skip
    about = _("Sample at step {step}", step=shown.step)
    strip = "".join(_small(each, each is shown, each is best, finished) for each in reversed(found))
    return (
        f"{_beside_a_photo(session, cards.address(shown.picture), about, title, shown.likeness)}"
        f'<div class="mc-reel" role="group" aria-label="{escape(_("All samples, newest first"))}" tabindex="0">'
        f"{strip}</div>"
    )


def before_learning(session: Session, draft: StoredDraft) -> str:
    """What the model draws before the first sample."""
    title = _("Draft, before learning")
    return _beside_a_photo(session, cards.address(draft.picture), title, title, draft.identity)


def _beside_a_photo(session: Session, picture: str, about: str, title: str, likeness: float | None) -> str:
    words = f"<span {SCORED}>{in_words(likeness)}</span>" if likeness is not None else ""
    shown = (
        f'<figure><img src="{picture}" alt="{escape(about)}">'
        f"<figcaption><strong>{title}</strong>{words}</figcaption></figure>"
    )
    first = next(iter(session.usable("subject")), None)
    if first is not None:
        photo = cards.address(first.views.get("photo", first.thumb))
        shown += (
            f'<figure><img src="{photo}" alt="{escape(_("One of the photos"))}"><figcaption><strong>'
            f"{_('One of your photos')}</strong></figcaption></figure>"
        )
    return f'<div class="mc-pair">{shown}</div>'


def _found(session: Session, folder: Path, until: int) -> list[SeenSample]:
    from magicapture_core.provenance import read_provenance

    everything = pictures(folder / "samples", until)
    found = []
    for step, path in everything[-MOST:]:
        settings = read_provenance(path).settings
        likeness = settings.get("likeness", settings.get("identity"))
        found.append(SeenSample(step, sample_copy(session, path), likeness))
    return found


def _best(folder: Path, found: list[SeenSample]) -> SeenSample | None:
    """The sample of the checkpoint in use; None where that has no sample, or nothing is compared."""
    step = Run(folder).best_step()
    best = next((each for each in found if each.step == step), None)
    return best if best is not None and best.likeness is not None else None


def _small(sample: SeenSample, shown: bool, best: bool, finished: bool) -> str:
    scored = "" if sample.likeness is None else f" {SCORED}"
    word = _("Step {step}", step=sample.step) if sample.likeness is None else level(sample.likeness)
    mark = (_("In use") if finished else _("Best")) if best else ""
    badge = f'<span class="mc-badge mc-good">{mark}</span>' if mark else ""
    return (
        f'<button type="button" class="mc-frame" data-act="sample" data-id="{sample.step}" '
        f'aria-pressed="{"true" if shown else "false"}" aria-label="{escape(_label(sample, mark))}">'
        f'<img src="{cards.address(sample.picture)}" alt="">{badge}<span{scored}>{word}</span></button>'
    )


def _label(sample: SeenSample, mark: str) -> str:
    if sample.likeness is None:
        return _("Sample at step {step}, shown large", step=sample.step)
    likeness = in_words(sample.likeness)
    if not mark:
        return _("Sample at step {step}, {likeness}", step=sample.step, likeness=likeness)
    return _("Sample at step {step}, {likeness}, {mark}", step=sample.step, likeness=likeness, mark=mark)
