"""Train, stop, resume, generate, export, delete, over and over: does anything grow?

    python benchmarks/soak.py [--minutes 30] [--json]

One visitor after the other on the mini model, through the wizard's API. Memory, threads and open files of the server,
and files on its disk, after each round; the first rounds load what is loaded late and are not counted. Exit code 1 if
the last third needs noticeably more than the second.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import tyro

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.measuring import machine, resident_bytes, show
from benchmarks.wizard import server_process
from tools import screenshots

ALLOWED = {"memory_mb": 1.05, "threads": 1.1, "open_files": 1.1, "files_on_disk": 1.1}
"""Growth from the second third to the last that counts as none."""


@dataclass
class Arguments:
    """Use the wizard for a long time."""

    minutes: float = 30
    """How long."""
    json: bool = False
    """Print JSON instead of a table."""


def main(arguments: Arguments) -> dict[str, Any]:
    from gradio_client import Client

    rounds: list[dict[str, float]] = []
    with screenshots.wizard(screenshots.Options(model="mini")) as address:
        server, client = server_process(), Client(address, verbose=False)
        folder = _runs_folder(server)
        deadline = time.monotonic() + 60 * arguments.minutes
        while time.monotonic() < deadline or len(rounds) < 6:
            _round(client, len(rounds))
            rounds.append(_state(server, folder))
            print(f"round {len(rounds)}: {rounds[-1]}", file=sys.stderr, flush=True)
    third = len(rounds) // 3
    growth = {
        name: statistics.median(each[name] for each in rounds[-third:])
        / statistics.median(each[name] for each in rounds[third : 2 * third])
        for name in ALLOWED
    }
    return {
        "machine": machine(torch.device("cpu")),
        "rounds": len(rounds),
        "first": rounds[0],
        "last": rounds[-1],
        "growth": {name: round(value, 3) for name, value in growth.items()},
        "flat": all(value <= ALLOWED[name] for name, value in growth.items()),
    }


def _round(client: Any, number: int) -> None:
    """One visitor, from the first photo to deletion."""
    key = client.predict(
        files=None, role="subject", consent=True, person=("alma", "bruno")[number % 2], preset="passport",
        api_name="/check_photos",
    )["session"]  # fmt: skip
    client.predict(session=key, role="subject", api_name="/make_masks")
    settings = {"ti_steps": 2, "lora_steps": 200, "seed": number}
    client.predict(session=key, schedule="quick", settings=settings, api_name="/train")
    _until(client, key, lambda status: status["step"] >= 4)
    client.predict(session=key, stop=True, api_name="/status")
    _until(client, key, lambda status: status["state"] in ("stopped", "done"))
    client.predict(session=key, resume=True, api_name="/train")
    _until(client, key, lambda status: status["step"] >= 7)
    client.predict(session=key, stop=True, api_name="/status")
    _until(client, key, lambda status: status["state"] in ("stopped", "done"))
    client.predict(session=key, count=1, steps=4, api_name="/generate")
    client.predict(session=key, format="kohya", api_name="/export")
    client.predict(session=key, api_name="/delete")


def _until(client: Any, key: str, reached: Any) -> None:
    while not reached(status := {"step": 0, **client.predict(session=key, api_name="/status")}):
        if status["state"] == "failed":
            raise SystemExit(f"The training failed: {status}")
        time.sleep(0.5)


def _state(pid: int, folder: Path) -> dict[str, float]:
    import psutil

    process = psutil.Process(pid)
    return {
        "memory_mb": round(resident_bytes(pid) / 1e6),
        "threads": process.num_threads(),
        "open_files": process.num_fds(),
        "files_on_disk": sum(1 for path in (*folder.rglob("*"), *_temporary()) if path.is_file()),
    }


def _runs_folder(pid: int) -> Path:
    """The wizard's --runs."""
    import psutil

    command = psutil.Process(pid).cmdline()
    return Path(command[command.index("--runs") + 1])


def _temporary() -> list[Path]:
    """What lies about beside it in the folder for temporary files, from MagiCapture."""
    return [path for found in Path(tempfile.gettempdir()).glob("magicapture-*") for path in found.rglob("*")]


if __name__ == "__main__":
    chosen = tyro.cli(Arguments, description=__doc__)
    outcome = main(chosen)
    show(outcome, chosen.json)
    raise SystemExit(0 if outcome["flat"] else 1)
