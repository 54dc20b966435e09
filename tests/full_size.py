"""What the tests of full-size models share: a random model in any layout, made by the tool as a user would."""

from __future__ import annotations

import functools
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

TOOLS = Path(__file__).resolve().parent.parent / "tools"
LAYOUTS = ("folder", "single", "hub-cache")


def said(what: str, since: float) -> None:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"{what}: {time.monotonic() - since:.0f} s, peak memory so far {peak:.1f} GiB", flush=True)


def maker(tool: str, root: Path) -> Callable[[str], Path]:
    """Layout → where the same random model lies in it, fp16 on disk; made when it is first asked for."""
    places = {"folder": root / "folder", "single": root / "model.safetensors", "hub-cache": root / "hub"}

    @functools.cache
    def make(layout: str) -> Path:
        started = time.monotonic()
        arguments = ["--out", places[layout], "--as", layout, "--dtype", "fp16"]
        subprocess.run([sys.executable, TOOLS / tool, *arguments], check=True)
        said(f"made {layout}", started)
        return places[layout]

    return make


def named(made: Callable[[str], Path], layout: str, hub_id: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """What the user gives as the model."""
    path = made(layout)
    if layout != "hub-cache":
        return str(path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(path))
    return hub_id
