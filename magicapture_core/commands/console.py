"""The terminal of the commands: messages, a training's progress, Ctrl-C. The commands alone write to it."""

from __future__ import annotations

import logging
import os
import signal
import sys
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from io import TextIOWrapper
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape

from magicapture_core.config import TrainConfig
from magicapture_core.progress import duration

if TYPE_CHECKING:
    from magicapture_core.generation import Portrait
    from magicapture_core.training import StepReport

console = Console()

DONE, BAD_INPUT, INTERRUPTED = 0, 1, 130
"""Exit codes."""


def prepare_terminal() -> None:
    """Once, before a command runs: no telemetry, quiet libraries, file names that the terminal cannot encode."""
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper) and stream.errors == "strict":
            stream.reconfigure(errors="backslashreplace")  # a name can have letters that the encoding lacks
    if not sys.warnoptions:  # of libraries; the user cannot do anything about them; python -W shows them
        warnings.simplefilter("ignore")


def show_problem(text: str) -> None:
    """An error that the user can correct."""
    console.print(f"[red]Problem:[/] {escape(text)}")


def show_note(text: str) -> None:
    """Something that the user should know."""
    console.print(f"[yellow]Note[/] {escape(text)}")


def show_progress(reports: Iterator[StepReport], config: TrainConfig, interrupted: list[bool]) -> bool:
    """Show a training with a progress bar. Returns whether it reached its end."""
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
    from rich.progress import Progress as ProgressBar
    from rich.table import Column

    columns = (
        # In a narrow terminal the losses are truncated, not the time left.
        TextColumn("{task.description}", table_column=Column(min_width=14, no_wrap=True)),
        BarColumn(bar_width=12),
        MofNCompleteColumn(),
        TextColumn("{task.fields[left]}", table_column=Column(min_width=12, no_wrap=True)),
        TextColumn("{task.fields[losses]}"),
    )
    total = config.ti_steps + config.lora_steps
    with ProgressBar(*columns, console=console) as bar:
        task = bar.add_task("Preparing", total=total, left="", losses="")
        for report in reports:
            bar.update(
                task,
                completed=report.step,
                description="Phase 1: words" if report.phase == "textual_inversion" else "Phase 2: LoRA",
                left=f"{duration(report.seconds_left)} left",
                losses=" ".join(f"{name} {value:.3f}" for name, value in report.losses.items()),
            )
            if report.note:
                show_note(report.note)
            if report.sample is not None and report.sample.identity is not None:
                console.print(f"step {report.step}: sample picture, identity {report.sample.identity:.3f}")
            if interrupted and report.step < total:
                return False
    return True


def list_portraits(portraits: Iterable[Portrait], files: Mapping[int, Path]) -> None:
    """A line for each portrait: its file and its score. files: by seed."""
    for portrait in portraits:
        score = "no face found" if portrait.identity is None else f"identity {portrait.identity:.3f}"
        console.print(f"{escape(str(files[portrait.seed]))}  {score}", soft_wrap=True)


@contextmanager
def polite_interrupt() -> Iterator[list[bool]]:
    """In the context the first Ctrl-C only fills the list, so that the step can end; a second one stops at once."""
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
