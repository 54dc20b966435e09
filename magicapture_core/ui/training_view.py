"""A training as the page shows it: progress, curves, and what the model pays attention to."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from magicapture_core.checkpoints import Run
from magicapture_core.languages import N_, _, n_
from magicapture_core.ui import cards
from magicapture_core.ui.charts import TERM_TITLES, charts, curve, right_end
from magicapture_core.ui.jobs import Snapshot
from magicapture_core.ui.run_pictures import strip_item
from magicapture_core.ui.stored_session import Session, StoredRun

if TYPE_CHECKING:
    from magicapture_core.training import StepReport

PHASES = {
    "textual_inversion": N_("Finding words for the face and the look"),
    "lora": N_("Learning the face in this look"),
}
PLACES = {
    ("<subject>", "source"): N_("The word “me” in one of your photos"),
    ("<subject>", "composed"): N_("The word “me” with both words, in a photo of the look"),
    ("<style>", "reference"): N_("The words “this look” in a photo of the look"),
    ("<style>", "composed"): N_("The words “this look” with both words, in a photo of the look"),
}
"""What is listened to: by the placeholder tokens of prompts.py, and the tasks whose prompts have them."""
ELSEWHERE = {"<subject>": N_("The word “me”: elsewhere"), "<style>": N_("The words “this look”: elsewhere")}
FIRST = {"<subject>": "source", "<style>": "reference"}
"""What is shown first of each; the rest can be opened."""


def attention(session: Session, folder: Path, settings: Mapping[str, Any], until: int) -> str:
    """Where both words look now, beside where they should; and the share outside over time, up to a step."""
    rows = [row for row in Run(folder).attention() if row["step"] <= until]
    if not rows:
        return ""
    newest = rows[-1]["step"]
    looks = [look for token in ELSEWHERE for look in _looks(session, folder, token, newest, rows)]
    figures, others = ("".join(html for first, html in looks if first is wanted) for wanted in (True, False))
    total = settings["ti_steps"] + settings["lora_steps"]
    border = settings["ti_steps"] + 1
    curves = [
        curve(
            _(ELSEWHERE[token]),
            _("Share of the attention outside the area where it belongs; it should fall"),
            *_outside(rows, token),
            last_step=right_end(until, total),
            border=border if until >= border else None,
            percent=True,
        )
        for token in ELSEWHERE
    ]
    order = _(
        "After step {step}. From left to right: the photo, what a word pays attention to (bright: most), the area "
        "where it belongs.",
        step=newest,
    )
    return (
        f'<h3 class="mc-sub">{_("What the model pays attention to")}</h3><p class="mc-quiet">{order}</p>'
        f'<div class="mc-attention">{figures}</div><details class="mc-more"><summary>'
        f'{_("Both words together, and the curves")}</summary><div class="mc-attention">{others}</div>'
        f"{charts(_('Attention elsewhere'), curves)}</details>"
    )


def _looks(
    session: Session, folder: Path, token: str, step: int, rows: list[dict[str, Any]]
) -> list[tuple[bool, str]]:
    """For each item that a word was listened to in whether it is shown first, and a figure."""
    strip = folder / "attention" / f"step-{step:06d}-{token.strip('<>')}.png"
    items = [row for row in rows if row["step"] == step and row["token"] == token]
    figures = []
    for number, row in enumerate(items):
        title = _(PLACES[token, row["task"]])
        shown = _("{title}: the photo, what it pays attention to, the area where it belongs", title=title)
        share = _("{share:.0%} of the attention is elsewhere", share=row["outside"])
        html = (
            f'<figure class="mc-look"><img src="{cards.address(strip_item(session, strip, number))}" '
            f'alt="{escape(shown)}"><figcaption>{escape(title)}<small>{share}</small></figcaption></figure>'
        )
        figures.append((row["task"] == FIRST[token], html))
    return figures


def rows_of(reports: tuple[StepReport, ...]) -> list[dict[str, Any]]:
    """Reports as the rows that a run keeps on disk."""
    return [{"step": report.step, "phase": report.phase, **report.losses} for report in reports]


def loss_charts(rows: list[dict[str, Any]], total: int) -> str:
    """A curve per objective."""
    border = next((row["step"] for row in rows if row["phase"] == "lora"), None)
    end = right_end(rows[-1]["step"], total) if rows else total
    figures = []
    for term in TERM_TITLES:
        with_it = [row for row in rows if term in row]
        steps, values = [row["step"] for row in with_it], [row[term] for row in with_it]
        title, hint = _(TERM_TITLES[term][0]), _(TERM_TITLES[term][1])
        figures.append(curve(title, hint, steps, values, last_step=end, border=border))
    return charts(_("How it learns: lower is better"), figures)


def _outside(rows: list[dict[str, Any]], token: str) -> tuple[list[int], list[float]]:
    """Steps, and the mean over the items of each."""
    found: dict[int, list[float]] = {}
    for row in rows:
        if row["token"] == token:
            found.setdefault(row["step"], []).append(row["outside"])
    return list(found), [sum(values) / len(values) for values in found.values()]


def progress(snapshot: Snapshot | None, run: StoredRun | None, saved: int) -> str:
    """How the training stands, in a line and a bar, and for the window's title (page.js).

    saved: step of the run's newest checkpoint.
    """
    if snapshot is None:
        return _saved(run, saved)
    report = snapshot.reports[-1] if snapshot.reports else None
    percent = round(100 * report.step / max(report.total_steps, 1)) if report else 0
    state = snapshot.state if snapshot.ended else "running"
    return (
        f'<div data-progress="{percent}" data-state="{state}" data-about="{escape(_("Learning"))}">'
        f"{_live(snapshot, run, saved)}</div>"
    )


def _live(snapshot: Snapshot, run: StoredRun | None, saved: int) -> str:
    report = snapshot.reports[-1] if snapshot.reports else None
    total = report.total_steps if report else run.total if run else 0
    step = report.step if report else saved
    share = step / max(total, 1)
    steps = _("Step {step} of {total}", step=step, total=total) if step else ""
    if snapshot.state == "failed":
        return _failed(snapshot, step, total)
    if snapshot.state == "waiting" and snapshot.ahead:
        others = n_(
            "{n} other before you; it starts by itself. You may close this page.",
            "{n} others before you; it starts by itself. You may close this page.",
            snapshot.ahead,
        )
        return cards.progress(share, _("Waiting in the queue"), [others, _going_on(saved, total)])
    if snapshot.state == "stopping":
        return cards.progress(share, _("Stopping after this step and saving"), [steps])
    if snapshot.state == "done" or (snapshot.ended and report and report.step == report.total_steps):
        early = report is not None and report.settled
        why = _("It stopped by itself: likeness no longer rose.") if early else ""
        return cards.progress(1, _("Learning finished"), [steps, why, _("Go on to the portraits.")], "good")
    if snapshot.state == "stopped":
        if not step:
            return cards.note(_("Stopped before it began. Start again whenever you like."))
        next_ = _("Resume, or go on to the portraits with what it has learned so far.")
        return cards.progress(share, _("Paused and saved"), [steps, next_])
    if report is None or snapshot.state in ("waiting", "preparing"):
        stay = _("You may close this page; it goes on without it.")
        return cards.progress(
            share or snapshot.share, snapshot.stage or _("Preparing"), [_going_on(saved, total), stay]
        )
    return _learning(report, share, steps)


def _learning(report: StepReport, share: float, steps: str) -> str:
    """At work, with the offer to say when it is done (page.js)."""
    left = (
        _("About {time} left", time=cards.duration(report.seconds_left))
        if report.step > 2
        else _("Measuring how long it takes")
    )
    pace = _("{seconds:.1f} s a step", seconds=report.seconds)
    facts = [left, steps, pace, _("You may close this page.")]
    ask = (
        '<button type="button" class="mc-button mc-notify" data-notify hidden>'
        f"{_('Notify me when it is done')}</button>"
    )
    return cards.progress(share, _(PHASES[report.phase]), facts, button=ask)


def _failed(snapshot: Snapshot, step: int, total: int) -> str:
    """Why it failed, and after how much; a warning where it was only cut off."""
    if not step:
        return cards.failure(_("Learn"), snapshot)
    why = _(
        "Step “Learn”, {step} of {total} done: {problem}", step=step, total=total, problem=snapshot.problem
    )
    return cards.note(why, "warn" if snapshot.cut_off else "bad")


def _going_on(saved: int, total: int) -> str:
    return _("Goes on from step {step} of {total}", step=saved, total=total) if saved else ""


def _saved(run: StoredRun | None, saved: int) -> str:
    if run is None:
        return ""
    if saved >= run.total or run.finished:
        steps = n_("{n} step", "{n} steps", saved)
        return cards.progress(1, _("{training} is finished", training=run.title), [steps], "good")
    if not saved:
        nothing = _("{training} saved nothing before it ended. Start a new training.", training=run.title)
        return cards.note(nothing, "warn")
    return cards.progress(saved / max(run.total, 1), _("{training} was interrupted", training=run.title), [
        _("Saved at step {step} of {total}", step=saved, total=run.total),
        _("Resume it, or go on with what it has learned so far."),
    ])  # fmt: skip
