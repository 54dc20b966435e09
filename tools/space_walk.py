"""A visitor's way through the app in a Space's environment, on a computer that is none: python -m tools.space_walk

Starts app.py as a Space does (its variables; the hub out of reach), and then, as one visitor by the named endpoints: a
sample person's photos, drafts, a training of a few steps, two portraits, and everything deleted. It prints the seconds.

--hardware cpu: the Space's variables are the only stand-in. --hardware zero-gpu: tools/zero_gpu.py names its stand-ins.
"""

from __future__ import annotations

import base64
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory, TemporaryFile
from typing import Any, Literal

import tyro

ROOT = Path(__file__).resolve().parent.parent
SPACE = {"SYSTEM": "spaces", "SPACE_ID": "ada/magicapture", "HF_HUB_OFFLINE": "1"}
"""What a Space's environment has, as far as the app or gradio reads it; and no hub."""
SHORT = {"ti_steps": 6, "lora_steps": 6, "sample_every": 100, "attention_every": 0, "seed": 1}
PATIENCE = 400.0
"""Seconds that anything may take: the machine may be busy. Less than tests/test_space_walk.py gives to all of it, so
that the walk itself says what was waited for, and ends the server."""
ENDING = 60.0
"""Seconds in which the server may end by itself."""


@dataclass
class Walk:
    """A visitor's way through the app in a Space's environment."""

    hardware: Literal["cpu", "zero-gpu"] = "cpu"
    """Of the Space."""
    steps: int = 12
    """Of the training, half of them in each phase."""


@contextmanager
def space(walk: Walk, runs: Path, log: Any) -> Iterator[str]:
    """The app in a Space's environment, until the context ends: its address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    program = ["app.py"] if walk.hardware == "cpu" else ["-m", "tools.zero_gpu", "--model", "mini"]
    options = ["--port", port, "--runs", str(runs)]
    variables = {**os.environ, **SPACE, "PYTHONUNBUFFERED": "1", "PYTHONFAULTHANDLER": "1"}
    server = subprocess.Popen(
        [sys.executable, *program, *options], cwd=ROOT, env=variables, stdout=log, stderr=subprocess.STDOUT,
        start_new_session=True,
    )  # fmt: skip
    try:
        _wait_for(server, port, log)
        yield f"http://127.0.0.1:{port}/"
    except Exception:
        _tell_all(server, signal.SIGABRT)  # each of its processes writes into the log where it stood
        raise
    finally:
        server.terminate()
        with suppress(subprocess.TimeoutExpired):
            server.wait(ENDING)
        _tell_all(server, signal.SIGKILL)  # a forked process that hangs outlives it
        server.wait()


def _tell_all(server: subprocess.Popen[bytes], what: signal.Signals) -> None:
    """A signal to the server and to what it has started."""
    with suppress(ProcessLookupError):
        os.killpg(server.pid, what)


def _wait_for(server: subprocess.Popen[bytes], port: str, log: Any) -> None:
    """Until the page is served for every address of the machine, as a Space must."""
    end = time.monotonic() + PATIENCE
    while f"http://0.0.0.0:{port}" not in said(log):
        if server.poll() is not None or time.monotonic() > end:
            raise RuntimeError("The app did not start.")
        time.sleep(1)


def said(log: Any) -> str:
    """What the app has written so far."""
    return os.pread(log.fileno(), 10**7, 0).decode(errors="replace")


def visitor(url: str) -> Any:
    """A client whose requests carry a token as a Space's proxy adds it: it says whose daily limit is used."""
    from gradio_client import Client

    payload = base64.urlsafe_b64encode(json.dumps({"user": "ada"}).encode()).decode().rstrip("=")
    return Client(
        url,
        headers={"x-ip-token": f"e30.{payload}.stand-in"},
        verbose=False,
        httpx_kwargs={"timeout": PATIENCE},
    )


def order(client: Any, walk: Walk, runs: Path) -> Iterator[str]:
    """The visitor's way: what to print of each step."""
    answer = client.predict(
        files=None,
        role="subject",
        consent=True,
        person="bruno",
        preset="golden-hour",
        api_name="/check_photos",
    )
    key, levels = answer["session"], [photo["level"] for photo in answer["photos"]]
    yield f"photos: {levels.count('accept')} of {len(levels)} accepted"
    pictures, facts = client.predict(session=key, api_name="/draft")
    likeness = max(fact["likeness"] for fact in facts)
    yield f"drafts: {len(pictures)}, likeness up to {likeness:.2f}"
    half = walk.steps // 2
    settings = {**SHORT, "ti_steps": half, "lora_steps": walk.steps - half}
    client.predict(session=key, schedule="quick", settings=settings, api_name="/train")
    end = time.monotonic() + PATIENCE
    while (status := client.predict(session=key, api_name="/status"))["state"] not in (
        "done",
        "failed",
        "stopped",
    ):
        if time.monotonic() > end:
            raise RuntimeError(f"The training did not end: {status}")
        time.sleep(1)
    if status["state"] != "done":
        raise RuntimeError(f"The training {status['state']}: {status['problem']}")
    stored = next(
        json.loads(path.read_text(encoding="utf-8")) for path in runs.glob("sessions/*/session.json")
    )
    yield f"training: {status['step']} steps on the model {stored['runs'][0]['model']}"
    pictures, facts = client.predict(session=key, count=2, seed=5, api_name="/generate")
    likenesses = ", ".join(f"{fact['likeness']:.2f}" for fact in facts)
    yield f"portraits: {len(pictures)}, likeness {likenesses}"
    client.predict(session=key, api_name="/delete")
    left = [path for path in runs.glob("sessions/*") if path.is_dir()]
    yield f"deleted: {len(left)} sessions left"


def main() -> int:
    """Exit code 1 where a step failed."""
    walk = tyro.cli(Walk, description=__doc__)
    with TemporaryDirectory() as folder, TemporaryFile() as log:
        runs = Path(folder) / "runs"
        began = time.monotonic()
        try:
            with space(walk, runs, log) as url:
                print(
                    f"{time.monotonic() - began:6.1f} s  a Space with {walk.hardware} listens on 0.0.0.0",
                    flush=True,
                )
                client, began = visitor(url), time.monotonic()
                for line in order(client, walk, runs):
                    print(f"{time.monotonic() - began:6.1f} s  {line}", flush=True)
                    began = time.monotonic()
        except Exception as error:  # noqa: BLE001 - of any kind: the log says more than a traceback of this walk
            print(f"{type(error).__name__}: {error}\nThe app wrote:\n{said(log)}", file=sys.stderr)
            return 1
        for line in said(log).splitlines():
            if line.startswith("ZeroGPU stand-in"):
                print(line)
    return 0


if __name__ == "__main__":
    sys.exit(main())
