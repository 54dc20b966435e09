"""A training as the page shows it: progress, curves, attention, samples."""

from __future__ import annotations

import threading
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from magicapture_core.jobs import Snapshot
from magicapture_core.ui import cards
from magicapture_core.ui.charts import TERM_TITLES, charts, curve, right_end
from magicapture_core.ui.sessions import Session, StoredRun

if TYPE_CHECKING:
    from magicapture_core.training import AttentionView, StepReport

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


class TrainingView:
    """Makes pictures of a job's reports once, whoever looks."""

    def __init__(self) -> None:
        self._made: dict[tuple[str, str, int], str] = {}
        self._lock = threading.Lock()

    def samples(self, session: Session, job_id: str, reports: tuple[StepReport, ...]) -> str:
        """The newest sample pictures, newest first."""
        from magicapture_core.provenance import save_picture

        figures = []
        for report in [report for report in reports if report.sample is not None][-6:]:
            sample = report.sample
            assert sample is not None
            with self._lock:
                made = (job_id, "sample", report.step)
                if made not in self._made:
                    path = session.new_shown(".png")
                    settings = {"identity": sample.identity}
                    save_picture(
                        sample.image, path, prompt=sample.prompt, seed=sample.seed, settings=settings
                    )
                    self._made[made] = str(path)
            score = "no face yet" if sample.identity is None else f"likeness {max(sample.identity, 0):.0%}"
            figures.append(
                f'<figure><img src="{cards.address(self._made[made])}" alt="Sample at step {report.step}, {score}">'
                f"<figcaption>Step {report.step} · {score}</figcaption></figure>"
            )
        if not figures:
            return ""
        return f'<h3 class="mc-sub">Samples</h3><div class="mc-samples">{"".join(reversed(figures))}</div>'

    def attention(self, session: Session, job_id: str, reports: tuple[StepReport, ...]) -> str:
        """Where both words look now, beside where they should; and the share outside over time."""
        listened = [report for report in reports if report.attention]
        if not listened:
            return ""
        newest = listened[-1]
        figures = "".join(
            self._look(session, job_id, newest.step * 8 + number, view)
            for number, view in enumerate(newest.attention)
        )
        curves = [
            curve(
                f"{WORDS[token]} looks elsewhere",
                "Share of its attention outside its region; it should fall in part 2",
                [report.step for report in listened],
                [_outside(report.attention, token) for report in listened],
                last_step=right_end(reports[-1].step, newest.total_steps),
                border=_border(reports),
                percent=True,
            )
            for token in WORDS
        ]
        return (
            f'<h3 class="mc-sub">Where the two words look (step {newest.step})</h3>'
            '<p class="mc-quiet">From left to right: the photo, where the word looks (bright: most), where it should.'
            "</p>"
            f'<div class="mc-attention">{figures}</div>{charts("Looking in the wrong place", curves)}'
        )

    def _look(self, session: Session, job_id: str, number: int, view: AttentionView) -> str:
        from magicapture_core.training.previews import strip_cells

        with self._lock:
            made = (job_id, "attention", number)
            if made not in self._made:
                path = session.new_shown(".webp")
                Image.fromarray(np.concatenate(strip_cells(view), axis=1)).save(path, quality=82)
                self._made[made] = str(path)
        title = f"{WORDS[view.token]} {PLACES[view.task]}"
        return (
            f'<figure class="mc-look"><img src="{cards.address(self._made[made])}" alt="{escape(title)}: the photo, '
            f'where the word looks, where it should look"><figcaption>{escape(title)}'
            f"<small>{view.outside:.0%} of its attention is outside its region</small></figcaption></figure>"
        )


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


def _border(reports: tuple[StepReport, ...]) -> int | None:
    return next((report.step for report in reports if report.phase == "lora"), None)


def _outside(views: list[AttentionView], token: str) -> float:
    return float(np.mean([view.outside for view in views if view.token == token]))


def progress(snapshot: Snapshot | None, run: StoredRun | None, saved: int) -> str:
    """How the training stands, in a line and a bar. saved: step of the run's newest checkpoint."""
    if snapshot is None:
        return _saved(run, saved)
    report = snapshot.reports[-1] if snapshot.reports else None
    share = report.step / report.total_steps if report else 0.0
    steps = f"Step {report.step} of {report.total_steps}" if report else ""
    if snapshot.state == "failed":
        done = f", {report.step} of {report.total_steps} done" if report else ""
        return cards.failure("Train", snapshot, done)
    if snapshot.state == "waiting" and snapshot.ahead:
        others = f"{snapshot.ahead} other{'s' if snapshot.ahead > 1 else ''} before you"
        return cards.progress(
            0, "Waiting in the queue", [f"{others}; it starts by itself. You may close this page."]
        )
    if snapshot.state == "stopping":
        return cards.progress(share, "Stopping after this step and saving", [steps])
    if snapshot.state == "done" or (snapshot.ended and report and report.step == report.total_steps):
        return cards.progress(1, "Training finished", [steps, "Go on to the portraits."], "good")
    if snapshot.state == "stopped":
        if not report:
            return cards.note("Stopped before it began. Start again whenever you like.")
        return cards.progress(
            share,
            "Paused and saved",
            [steps, "Resume, or go on to the portraits with what it has learned so far."],
        )
    if report is None or snapshot.state in ("waiting", "preparing"):
        return cards.progress(
            snapshot.share, snapshot.stage or "Preparing", ["You may close this page; it goes on without it."]
        )
    left = (
        f"About {cards.duration(report.seconds_left)} left"
        if report.step > 2
        else "Measuring how long it takes"
    )
    pace = f"{report.seconds:.1f} s a step"
    return cards.progress(share, PHASES[report.phase], [steps, left, pace, "You may close this page."])


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
