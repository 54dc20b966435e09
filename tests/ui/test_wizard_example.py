"""The example of docs/api.md, run as it is written."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import pytest

PAGE = Path(__file__).resolve().parents[2] / "docs/api.md"


def test_the_example_runs_as_written(
    server: Any, people: list[list[Path]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = PAGE.read_text(encoding="utf-8")
    code = re.search(r"```python\n(.*?)```", text, re.DOTALL)
    assert code is not None
    for name, photo in zip(("me1.jpg", "me2.jpg"), people[0], strict=False):
        shutil.copyfile(photo, tmp_path / name)
    monkeypatch.chdir(tmp_path)
    assert "http://127.0.0.1:7860/" in code[1]
    values: dict[str, Any] = {}
    exec(compile(code[1].replace("http://127.0.0.1:7860/", server.url), "api.md", "exec"), values)
    assert [photo["level"] for photo in values["answer"]["photos"]] == ["accept", "accept"]
    assert len(values["pictures"]) == len(values["facts"]) == 2
    assert all(Path(path).is_file() for path in values["pictures"])
    assert [Path(path).suffix for path in values["files"]].count(".safetensors") >= 1
    assert server.studio.sessions.owner(values["session"]) not in {
        folder.name for folder in (server.runs / "sessions").iterdir()
    }
