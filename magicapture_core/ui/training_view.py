"""A training as the page shows it: progress, curves, attention, samples."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from magicapture_core.checkpoints import Run
from magicapture_core.ui import cards
from magicapture_core.ui.charts import TERM_TITLES, charts, curve, right_end
from magicapture_core.ui.jobs import Snapshot
from magicapture_core.ui.run_pictures import pictures, sample_copy, strip_item
from magicapture_core.ui.stored_session import Session, StoredRun

if TYPE_CHECKING:
    from magicapture_core.training import StepReport

PHASES = {
    "textual_inversion": "Part 1 of 2: finding words for the person and the style",
    "lora": "Part 2 of 2: learning the person in the style",
}
PLACES = {
    "source": "in one of your photos",
    "reference": "in a style photo",
    "composed": "with both words, on a style photo",
}
WORDS = {"<subject>": "The person's word", "<style>": "The style's word"}
"""By the placeholder tokens of prompts.py."""


SAMPLES = 6


def samples(session: Session, folder: Path, until: int) -> str:
    """A run's newest sample pictures, newest first, up to a step; from its folder, so that a resumed one has them."""
    from magicapture_core.provenance import read_provenance

    figures = []
    for step, path in pictures(folder / "samples", until)[-SAMPLES:]:
        identity = read_provenance(path).settings.get("identity")
        score = "no face yet" if identity is None else f"likeness {max(identity, 0):.0%}"
        figures.append(
            f'<figure><img src="{cards.address(sample_copy(session, path))}" alt="Sample at step {step}, {score}">'
            f"<figcaption>Step {step} · {score}</figcaption></figure>"
        )
    if not figures:
        return ""
    return f'<h3 class="mc-sub">Samples</h3><div class="mc-samples">{"".join(reversed(figures))}</div>'


def attention(session: Session, folder: Path, settings: Mapping[str, Any], until: int) -> str:
    """Where both words look now, beside where they should; and the share outside over time, up to a step."""
    rows = [row for row in Run(folder).attention() if row["step"] <= until]
    if not rows:
        return ""
    newest = rows[-1]["step"]
    figures = "".join(_looks(session, folder, token, newest, rows) for token in WORDS)
    total = settings["ti_steps"] + settings["lora_steps"]
    border = settings["ti_steps"] + 1
    curves = [
        curve(
            f"{WORDS[token]} looks elsewhere",
            "Share of its attention outside its region; it should fall in part 2",
            *_outside(rows, token),
            last_step=right_end(until, total),
            border=border if until >= border else None,
            percent=True,
        )
        for token in WORDS
    ]
    return (
        f'<h3 class="mc-sub">Where the two words look (step {newest})</h3>'
        '<p class="mc-quiet">From left to right: the photo, where the word looks (bright: most), where it should.'
        "</p>"
        f'<div class="mc-attention">{figures}</div>{charts("Looking in the wrong place", curves)}'
    )


def _looks(session: Session, folder: Path, token: str, step: int, rows: list[dict[str, Any]]) -> str:
    """A figure for each item that a word was listened to in."""
    strip = folder / "attention" / f"step-{step:06d}-{token.strip('<>')}.png"
    items = [row for row in rows if row["step"] == step and row["token"] == token]
    figures = []
    for number, row in enumerate(items):
        title = escape(f"{WORDS[token]} {PLACES[row['task']]}")
        figures.append(
            f'<figure class="mc-look"><img src="{cards.address(strip_item(session, strip, number))}" alt="{title}: the '
            f'photo, where the word looks, where it should look"><figcaption>{title}'
            f"<small>{row['outside']:.0%} of its attention is outside its region</small></figcaption></figure>"
        )
    return "".join(figures)


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
    return charts("How well it learns (lower is better)", figures)


def _outside(rows: list[dict[str, Any]], token: str) -> tuple[list[int], list[float]]:
    """Steps, and the mean over the items of each."""
    found: dict[int, list[float]] = {}
    for row in rows:
        if row["token"] == token:
            found.setdefault(row["step"], []).append(row["outside"])
    return list(found), [sum(values) / len(values) for values in found.values()]


def progress(snapshot: Snapshot | None, run: StoredRun | None, saved: int) -> str:
    """How the training stands, in a line and a bar. saved: step of the run's newest checkpoint."""
    if snapshot is None:
        return _saved(run, saved)
    report = snapshot.reports[-1] if snapshot.reports else None
    total = report.total_steps if report else run.total if run else 0
    step = report.step if report else saved
    share = step / max(total, 1)
    steps = f"Step {step} of {total}" if step else ""
    if snapshot.state == "failed":
        done = f", {step} of {total} done" if step else ""
        return cards.failure("Train", snapshot, done)
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
        return cards.progress(1, "Training finished", [steps, "Go on to the portraits."], "good")
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
    return cards.progress(share, PHASES[report.phase], [steps, left, pace, "You may close this page."])


def _going_on(saved: int, total: int) -> str:
    return f"Goes on from step {saved} of {total}" if saved else ""


def _saved(run: StoredRun | None, saved: int) -> str:
    if run is None:
        return ""
    if saved >= run.total:
        return cards.progress(1, f"{run.title} is finished", [f"{run.total} steps"], "good")
    if not saved:
        return cards.note(f"{run.title} saved nothing before it ended. Start a new training.", "warn")
    share = saved / max(run.total, 1)
    return cards.progress(share, f"{run.title} was interrupted", [
        f"Saved at step {saved} of {run.total}", "Resume it, or go on with what it has learned so far.",
    ])  # fmt: skip
