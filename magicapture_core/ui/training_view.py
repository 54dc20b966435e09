"""A training as the page shows it: progress, curves, and what the model pays attention to."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from magicapture_core.checkpoints import Run
from magicapture_core.ui import cards
from magicapture_core.ui.charts import TERM_TITLES, charts, curve, right_end
from magicapture_core.ui.jobs import Snapshot
from magicapture_core.ui.run_pictures import strip_item
from magicapture_core.ui.stored_session import Session, StoredRun

if TYPE_CHECKING:
    from magicapture_core.training import StepReport

PHASES = {
    "textual_inversion": "Finding words for the face and the look",
    "lora": "Learning the face in this look",
}
PLACES = {
    "source": "in one of your photos",
    "reference": "in a photo of the look",
    "composed": "with both words, in a photo of the look",
}
WORDS = {"<subject>": "The word “me”", "<style>": "The words “this look”"}
"""By the placeholder tokens of prompts.py."""
FINISHED = "Learning finished"
FIRST = {"<subject>": "source", "<style>": "reference"}
"""What is shown first of each; the rest can be opened."""


def attention(session: Session, folder: Path, settings: Mapping[str, Any], until: int) -> str:
    """Where both words look now, beside where they should; and the share outside over time, up to a step."""
    rows = [row for row in Run(folder).attention() if row["step"] <= until]
    if not rows:
        return ""
    newest = rows[-1]["step"]
    looks = [look for token in WORDS for look in _looks(session, folder, token, newest, rows)]
    figures, others = ("".join(html for first, html in looks if first is wanted) for wanted in (True, False))
    total = settings["ti_steps"] + settings["lora_steps"]
    border = settings["ti_steps"] + 1
    curves = [
        curve(
            f"{WORDS[token]}: elsewhere",
            "Share of the attention outside the area where it belongs; it should fall",
            *_outside(rows, token),
            last_step=right_end(until, total),
            border=border if until >= border else None,
            percent=True,
        )
        for token in WORDS
    ]
    return (
        '<h3 class="mc-sub">What the model pays attention to</h3>'
        f'<p class="mc-quiet">After step {newest}. From left to right: the photo, what a word pays attention to '
        "(bright: most), the area where it belongs.</p>"
        f'<div class="mc-attention">{figures}</div><details class="mc-more"><summary>Both words together, and the '
        f'curves</summary><div class="mc-attention">{others}</div>{charts("Attention elsewhere", curves)}</details>'
    )


def _looks(
    session: Session, folder: Path, token: str, step: int, rows: list[dict[str, Any]]
) -> list[tuple[bool, str]]:
    """For each item that a word was listened to in whether it is shown first, and a figure."""
    strip = folder / "attention" / f"step-{step:06d}-{token.strip('<>')}.png"
    items = [row for row in rows if row["step"] == step and row["token"] == token]
    figures = []
    for number, row in enumerate(items):
        title = escape(f"{WORDS[token]} {PLACES[row['task']]}")
        html = (
            f'<figure class="mc-look"><img src="{cards.address(strip_item(session, strip, number))}" alt="{title}: the '
            f'photo, what it pays attention to, the area where it belongs"><figcaption>{title}'
            f"<small>{row['outside']:.0%} of the attention is elsewhere</small></figcaption></figure>"
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
    for term, (title, hint) in TERM_TITLES.items():
        found = [(row["step"], row[term]) for row in rows if term in row]
        steps, values = [step for step, _ in found], [value for _, value in found]
        figures.append(curve(title, hint, steps, values, last_step=end, border=border))
    return charts("How it learns: lower is better", figures)


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
        f'<div data-progress="{percent}" data-state="{state}" data-about="Learning">'
        f"{_live(snapshot, run, saved)}</div>"
    )


def _live(snapshot: Snapshot, run: StoredRun | None, saved: int) -> str:
    report = snapshot.reports[-1] if snapshot.reports else None
    total = report.total_steps if report else run.total if run else 0
    step = report.step if report else saved
    share = step / max(total, 1)
    steps = f"Step {step} of {total}" if step else ""
    if snapshot.state == "failed":
        done = f", {step} of {total} done" if step else ""
        return cards.failure("Learn", snapshot, done)
    if snapshot.state == "waiting" and snapshot.ahead:
        others = f"{snapshot.ahead} other{'s' if snapshot.ahead > 1 else ''} before you"
        return cards.progress(
            share,
            "Waiting in the queue",
            [f"{others}; it starts by itself. You may close this page.", _going_on(saved, total)],
        )
    if snapshot.state == "stopping":
        return cards.progress(share, "Stopping after this step and saving", [steps])
    if snapshot.state == "done" or (snapshot.ended and report and report.step == report.total_steps):
        early = report is not None and report.settled
        why = "It stopped by itself: likeness no longer rose." if early else ""
        return cards.progress(1, FINISHED, [steps, why, "Go on to the portraits."], "good")
    if snapshot.state == "stopped":
        if not step:
            return cards.note("Stopped before it began. Start again whenever you like.")
        return cards.progress(
            share,
            "Paused and saved",
            [steps, "Resume, or go on to the portraits with what it has learned so far."],
        )
    if report is None or snapshot.state in ("waiting", "preparing"):
        stay = "You may close this page; it goes on without it."
        return cards.progress(
            share or snapshot.share, snapshot.stage or "Preparing", [_going_on(saved, total), stay]
        )
    left = (
        f"About {cards.duration(report.seconds_left)} left"
        if report.step > 2
        else "Measuring how long it takes"
    )
    pace = f"{report.seconds:.1f} s a step"
    ask = (
        '<p class="mc-ask"><button type="button" class="mc-button mc-notify" data-notify hidden>Notify me when it is '
        "done</button></p>"
    )
    return cards.progress(share, PHASES[report.phase], [left, steps, pace, "You may close this page."]) + ask


def _going_on(saved: int, total: int) -> str:
    return f"Goes on from step {saved} of {total}" if saved else ""


def _saved(run: StoredRun | None, saved: int) -> str:
    if run is None:
        return ""
    if saved >= run.total or run.finished:
        return cards.progress(1, f"{run.title} is finished", [f"{saved} steps"], "good")
    if not saved:
        return cards.note(f"{run.title} saved nothing before it ended. Start a new training.", "warn")
    share = saved / max(run.total, 1)
    return cards.progress(share, f"{run.title} was interrupted", [
        f"Saved at step {saved} of {run.total}", "Resume it, or go on with what it has learned so far.",
    ])  # fmt: skip
