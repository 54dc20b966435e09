"""Start-up and idle cost: command line, wizard's first page, and a session that only looks.

    python benchmarks/wizard.py [--sessions 20] [--json]

Needs requirements-dev.txt and Chromium. First page: from `python app.py` until a browser shows the first step's sample
people. A session: a browser page of its own that has loaded everything and does nothing more.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import tyro

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.measuring import ROOT, machine, resident_bytes
from tools import screenshots

READY = "#mc-people [data-act=person]"
FIRST, SETTLING = 3, 5.0
"""Visitors that are not counted, and seconds for the server to come to rest."""


@dataclass
class Arguments:
    """Measure start-up and idle sessions."""

    sessions: int = 20
    """Pages to open."""
    rounds: int = 3
    """Starts to take the median of."""
    json: bool = False
    """Print JSON instead of a table."""


def main(arguments: Arguments) -> dict[str, Any]:
    rounds = range(arguments.rounds)
    results: dict[str, Any] = {"machine": machine(torch.device("cpu"))}
    results["help_seconds"] = statistics.median(_seconds("-m", "magicapture_core", "--help") for _ in rounds)
    results["import_seconds"] = statistics.median(_seconds("-c", "import magicapture_core") for _ in rounds)
    starts = [_first_page() for _ in rounds]
    results["first_answer_seconds"] = statistics.median(start[0] for start in starts)
    results["first_page_seconds"] = statistics.median(start[1] for start in starts)
    results |= _idle(arguments.sessions)
    return {k: round(v, 2) if isinstance(v, float) else v for k, v in results.items()}


def _seconds(*command: str) -> float:
    started = time.perf_counter()
    subprocess.run([sys.executable, *command], cwd=ROOT, check=True, capture_output=True)
    return time.perf_counter() - started


def _first_page() -> tuple[float, float]:
    """Seconds from the start of app.py to its first answer, and to the first step in a browser."""
    from playwright.sync_api import sync_playwright

    options = screenshots.Options()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=options.chromium, args=screenshots.ARGUMENTS)
        page = browser.new_page()
        started = time.perf_counter()
        with screenshots.wizard(options) as address:
            answered = time.perf_counter() - started
            page.goto(address)
            page.wait_for_selector(READY)
            shown = time.perf_counter() - started
            browser.close()
    return answered, shown


def _idle(sessions: int) -> dict[str, Any]:
    """Memory of the server before the first visitor, after some, and for each further one.

    The first visitors are not counted: with them the server loads in the background what it will need.
    """
    from playwright.sync_api import sync_playwright

    options = screenshots.Options()
    with screenshots.wizard(options) as address, sync_playwright() as playwright:
        server = server_process()
        empty = resident_bytes(server)
        browser = playwright.chromium.launch(executable_path=options.chromium, args=screenshots.ARGUMENTS)

        def visit() -> None:
            page = browser.new_context().new_page()
            page.goto(address)
            page.wait_for_selector(READY, timeout=60_000)

        for _ in range(FIRST):
            visit()
        time.sleep(SETTLING)
        before = resident_bytes(server)
        for _ in range(sessions):
            visit()
        time.sleep(SETTLING)
        after = resident_bytes(server)
        browser.close()
    return {
        "wizard_mb": empty / 1e6,
        "visited_mb": before / 1e6,
        "idle_session_mb": (after - before) / sessions / 1e6,
    }


def server_process() -> int:
    """The process of the wizard that was just started."""
    import psutil

    return next(
        child.pid
        for child in psutil.Process().children(recursive=True)
        if "app.py" in " ".join(child.cmdline())
    )


def _table(results: dict[str, Any]) -> str:
    titles = {"help_seconds": "`python -m magicapture_core --help`, s",
              "import_seconds": "`import magicapture_core`, s",
              "first_answer_seconds": "`python app.py` to its first answer, s",
              "first_page_seconds": "… to the first step in a browser, s", "wizard_mb": "memory of the wizard, MB",
              "visited_mb": "… once visited, MB",
              "idle_session_mb": "… per further idle session, MB"}  # fmt: skip
    facts = ", ".join(f"{name} {value}" for name, value in results["machine"].items())
    lines = [f"| {title} | {results[name]:g} |" for name, title in titles.items()]
    return "\n".join(["| | |", "|---|---|", *lines, "", facts])


if __name__ == "__main__":
    chosen = tyro.cli(Arguments, description=__doc__)
    outcome = main(chosen)
    print(json.dumps(outcome, indent=1) if chosen.json else _table(outcome))
