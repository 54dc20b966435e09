"""The whole way from photos to the file of a finished portrait, by somebody who looks at what is on the page."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import CHROMIUM
from PIL import Image

from magicapture_core.provenance import read_provenance

pytestmark = [pytest.mark.browser, pytest.mark.long]

ROOT = Path(__file__).parents[2]
STATIONS = (
    "photos looked at", "first draft", "look ticked", "faces checked", "learning begun", "first sample",
    "learning finished", "portraits asked for", "first portrait", "all portraits", "a portrait large",
    "portrait finished", "file saved",
)  # fmt: skip


@pytest.mark.timeout(1200)
def test_the_whole_way_by_keyboard_alone(server: Any, tmp_path: Path) -> None:
    if CHROMIUM is None:
        pytest.skip("Chromium is not installed (Debian: apt-get install chromium)")
    out = tmp_path / "walk"
    # A process of its own: Playwright runs once in each.
    done = subprocess.run(
        [sys.executable, "-m", "tools.walk", str(out), "--address", server.url, "--keyboard", "--chromium", CHROMIUM],
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    rows, _, complaints = (out / "times.md").read_text(encoding="utf-8").partition("\n\n")
    assert [row.split("|")[1].strip() for row in rows.splitlines()[2:]] == list(STATIONS)
    assert "keyboard" not in complaints  # it is somewhere, marked, in the window, and nothing covers it
    with Image.open(out / "portrait.png") as portrait:
        assert min(portrait.size) > 64
    assert read_provenance(out / "portrait.png").generated
    frames = sorted(path.name for path in out.glob("*.jpg"))
    assert len(frames) > len(STATIONS)
    assert all(read_provenance(out / name).generated for name in frames)
    assert "usable photos of the person" in (out / "heard.txt").read_text(encoding="utf-8")
