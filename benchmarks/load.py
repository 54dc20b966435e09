"""Many visitors at once: some make portraits, the others look around.

    python benchmarks/load.py [--browsing 50] [--generating 20] [--apart 0] [--json]

Every visitor is a client of the wizard's API with a session of its own, on the mini model. Those who generate first
train for two steps. Reported: errors, how long the lookers wait for an answer, whether the queue is served in order,
and memory.
"""

from __future__ import annotations

import statistics
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import tyro

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.measuring import machine, resident_bytes, show
from benchmarks.wizard import server_process
from tools import screenshots

PEOPLE = ("alma", "bruno")
STEPS = {"ti_steps": 1, "lora_steps": 1, "sample_every": 0, "attention_every": 0}


@dataclass
class Arguments:
    """Put the wizard under load."""

    browsing: int = 50
    """Sessions that look around."""
    generating: int = 20
    """Sessions that make a portrait at the same time."""
    apart: float = 0.0
    """Seconds between two of them asking. With more than the longest wait for an answer, the order that they are
    served in is that of asking, or the queue is not fair."""
    json: bool = False
    """Print JSON instead of a table."""


@dataclass
class Seen:
    """What the visitors met."""

    errors: list[str] = field(default_factory=list)
    waits: list[float] = field(default_factory=list)
    """Seconds until an answer, of those who look."""
    finished: list[tuple[float, float]] = field(default_factory=list)
    """When each portrait was asked for and when it came."""


def main(arguments: Arguments) -> dict[str, Any]:
    seen, over = Seen(), threading.Event()
    with (
        screenshots.wizard(screenshots.Options(model="mini")) as address,
        _memory(server_process()) as memory,
    ):
        with ThreadPoolExecutor(arguments.generating) as pool:
            makers = list(pool.map(lambda number: _trained(address, number), range(arguments.generating)))
        settled = memory[-1]
        with ThreadPoolExecutor(arguments.browsing + arguments.generating) as pool:
            lookers = [
                pool.submit(_look, address, number, seen, over) for number in range(arguments.browsing)
            ]
            started = time.monotonic()
            asking = [
                pool.submit(_make, client, key, arguments.apart * number, seen)
                for number, (client, key) in enumerate(makers)
            ]
            for future in asking:
                future.result()
            seconds = time.monotonic() - started
            over.set()
            for future in lookers:
                future.result()
    order = [asked for asked, _ in sorted(seen.finished, key=lambda pair: pair[1])]
    return {
        "machine": machine(torch.device("cpu")),
        "errors": seen.errors,
        "answers": len(seen.waits),
        "median_wait_seconds": round(statistics.median(seen.waits), 2),
        "longest_wait_seconds": round(max(seen.waits), 2),
        "portraits": len(seen.finished),
        "seconds_for_all_portraits": round(seconds, 1),
        "overtaken_portraits": sum(
            any(asked < other for other in order[:k]) for k, asked in enumerate(order)
        ),
        "memory_before_mb": round(settled / 1e6),
        "memory_peak_mb": round(max(memory) / 1e6),
    }


def _trained(address: str, number: int) -> tuple[Any, str]:
    """A client with a session that has a run."""
    from gradio_client import Client

    client = Client(address, verbose=False)
    key = _begin(client, number)
    client.predict(session=key, schedule="quick", settings={**STEPS, "seed": number}, api_name="/train")
    while (state := client.predict(session=key, api_name="/status")["state"]) != "done":
        if state in ("failed", "stopped"):
            raise SystemExit(f"A training of two steps ended as {state!r}.")
        time.sleep(2)
    return client, key


def _begin(client: Any, number: int) -> str:
    answer = client.predict(
        files=None, role="subject", consent=True, person=PEOPLE[number % len(PEOPLE)], preset="passport",
        api_name="/check_photos",
    )  # fmt: skip
    return str(answer["session"])


def _make(client: Any, key: str, after: float, seen: Seen) -> None:
    time.sleep(after)
    asked = time.monotonic()
    try:
        client.predict(session=key, count=1, api_name="/generate")
        seen.finished.append((asked, time.monotonic()))
    except Exception as error:  # noqa: BLE001 - whatever a visitor would meet is what is measured
        seen.errors.append(f"generate: {error}")


def _look(address: str, number: int, seen: Seen, over: threading.Event) -> None:
    """Open the page, begin a session, look at its photos and state until the portraits are done, delete it."""
    from gradio_client import Client

    try:
        client = Client(address, verbose=False)
        key = _begin(client, number)
        while not over.is_set():
            asked = time.monotonic()
            client.predict(session=key, api_name="/status")
            seen.waits.append(time.monotonic() - asked)
            over.wait(1.0)
        client.predict(session=key, api_name="/delete")
    except Exception as error:  # noqa: BLE001 - as above
        seen.errors.append(f"look: {error}")


@contextmanager
def _memory(pid: int) -> Iterator[list[int]]:
    """The memory of a process, every half second."""
    taken, over = [resident_bytes(pid)], threading.Event()

    def watch() -> None:
        while not over.wait(0.5):
            taken.append(resident_bytes(pid))

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield taken
    finally:
        over.set()
        thread.join()


if __name__ == "__main__":
    chosen = tyro.cli(Arguments, description=__doc__)
    outcome = main(chosen)
    show(outcome, chosen.json)
