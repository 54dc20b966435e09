"""Nothing leaves the machine: every way through the program, where reaching out is refused and written down."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent
FEW = {"ti-steps": 1, "lora-steps": 1, "sample-every": 0, "attention-every": 0}


def guarded(log: Path, *command: str) -> list[str]:
    return [sys.executable, str(ROOT / "tests" / "no_network.py"), str(log), *command]


def environment(folder: Path) -> dict[str, str]:
    """As on a machine that never asked the hub for anything."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "GRADIO_"))}
    return {**kept, "HF_HOME": str(folder / "hub"), "PYTHONPATH": str(ROOT)}


def test_the_guard_refuses_and_writes_down(tmp_path: Path) -> None:
    log, script = tmp_path / "log", tmp_path / "script.py"
    script.write_text("import urllib.request as r\nr.urlopen('http://example.com/')\n", encoding="utf-8")
    done = subprocess.run(guarded(log, str(script)), capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode != 0
    assert log.read_text(encoding="utf-8") == "socket.getaddrinfo example.com\n"


@pytest.mark.long
def test_the_command_line_stays_at_home(tmp_path: Path) -> None:
    log, run = tmp_path / "log", str(tmp_path / "run")
    steps = [part for name, value in FEW.items() for part in (f"--{name}", str(value))]
    for command in (
        ["train", "--subject", "assets/people/alma", "--preset", "passport", "--out", run, "--model", "mini", *steps],
        ["generate", run, "--out", str(tmp_path / "pictures"), "--count", "1", "--steps", "2"],
        ["finish", str(tmp_path / "pictures"), "--out", str(tmp_path / "finished"), "--likeness", run],
        ["export", run, "--out", str(tmp_path / "exported")],
        ["weights", "list"],
    ):  # fmt: skip
        done = subprocess.run(
            guarded(log, "-m", "magicapture_core", *command), capture_output=True, text=True, cwd=ROOT,
            env=environment(tmp_path),
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
    assert list((tmp_path / "pictures").glob("*.png"))
    assert not log.exists(), log.read_text(encoding="utf-8")


@contextmanager
def wizard(log: Path, folder: Path) -> Iterator[str]:
    """The wizard on the mini model, as a program of its own; its address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = guarded(log, "app.py", "--model", "mini", "--port", str(port), "--runs", str(folder / "runs"))
    with (folder / "output").open("wb") as output:
        process = subprocess.Popen(
            command, cwd=ROOT, env=environment(folder), stdout=output, stderr=subprocess.STDOUT
        )
        try:
            deadline = time.monotonic() + 120
            while time.monotonic() < deadline and process.poll() is None:
                with socket.socket() as probe:
                    if probe.connect_ex(("127.0.0.1", port)) == 0:
                        break
                time.sleep(0.2)
            yield f"http://127.0.0.1:{port}/"
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(60)


@pytest.mark.long
def test_the_wizard_stays_at_home(tmp_path: Path) -> None:
    from gradio_client import Client

    log = tmp_path / "log"
    with wizard(log, tmp_path) as address:
        client = Client(address, verbose=False)

        def ask(endpoint: str, **values: Any) -> Any:
            return client.predict(api_name=endpoint, **values)

        key = ask("/check_photos", files=None, consent=True, person="alma", preset="passport")["session"]
        assert len(ask("/make_masks", session=key, role="subject")[0]) >= 4
        few = {name.replace("-", "_"): value for name, value in FEW.items()}
        ask("/train", session=key, schedule="quick", settings=few)
        deadline = time.monotonic() + 300
        while (state := ask("/status", session=key)["state"]) not in ("done", "failed"):
            assert time.monotonic() < deadline
            time.sleep(0.5)
        assert state == "done"
        assert len(ask("/generate", session=key, count=1, steps=2)[0]) == 1
        assert ask("/export", session=key, format="kohya")
        ask("/delete", session=key)
    assert not log.exists(), log.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("host", "here"),
    [
        ("127.0.0.1", True), ("::1", True), (None, True), (b"localhost", True), ("example.com", False),
        ("10.0.0.1", False),
    ],
)  # fmt: skip
def test_what_counts_as_here(host: Any, here: bool) -> None:
    from no_network import is_here

    assert is_here(host) == here
