"""What the command line shows while it works, and how it takes a Ctrl-C."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape

from magicapture_core.config import TrainConfig

if TYPE_CHECKING:
    from magicapture_core.training import StepReport

console = Console()

DONE, BAD_INPUT, INTERRUPTED = 0, 1, 130
"""Exit codes."""


def show_progress(reports: Iterator[StepReport], config: TrainConfig, interrupted: list[bool]) -> bool:
    """Follow a training with a progress bar. Returns whether it came to its end."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
    from rich.table import Column

    columns = (
        # In a narrow terminal the losses are cut short, not the time left.
        TextColumn("{task.description}", table_column=Column(min_width=14, no_wrap=True)),
        BarColumn(bar_width=12),
        MofNCompleteColumn(),
        TextColumn("{task.fields[left]}", table_column=Column(min_width=12, no_wrap=True)),
        TextColumn("{task.fields[losses]}"),
    )
    total = config.ti_steps + config.lora_steps
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("Preparing", total=total, left="", losses="")
        for report in reports:
            progress.update(
                task,
                completed=report.step,
                description="Phase 1: words" if report.phase == "textual_inversion" else "Phase 2: LoRA",
                left=f"{duration(report.seconds_left)} left",
                losses=" ".join(f"{name} {value:.3f}" for name, value in report.losses.items()),
            )
            if report.note:
                console.print(f"[yellow]Note[/] {escape(report.note)}")
            if report.sample is not None and report.sample.identity is not None:
                console.print(f"step {report.step}: sample picture, identity {report.sample.identity:.3f}")
            if interrupted and report.step < total:
                return False
    return True


def duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"


@contextmanager
def polite_interrupt() -> Iterator[list[bool]]:
    """Within the context the first Ctrl-C only fills the list, so that a step can end; a second one stops."""
    interrupted: list[bool] = []

    def note(_signal: int, _frame: object) -> None:
        signal.signal(signal.SIGINT, before)
        interrupted.append(True)
        console.print("Finishing this step, then saving. Press Ctrl-C again to stop at once.")

    before = signal.signal(signal.SIGINT, note)
    try:
        yield interrupted
    finally:
        signal.signal(signal.SIGINT, before)
