"""Presets are found, checked, and complete."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from magicapture_core import presets
from magicapture_core.presets import load_preset, preset_names
from magicapture_core.problems import Problem

WHOLE: dict[str, Any] = {
    "title": "Plain",
    "description": "A plain one.",
    "prompts": ["a photo of a {subject} in the {style}"],
    "negative_prompt": "blurry",
    "overrides": {"lambda_id": 0.4},
    "output": None,
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A presets folder with one preset, `plain`, and its only photo."""
    monkeypatch.setattr(presets, "PRESETS", tmp_path)
    plain = tmp_path / "plain"
    plain.mkdir()
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(plain / "1.jpg")
    (plain / "preset.json").write_text(json.dumps(WHOLE))
    return plain


def test_a_preset_is_read_whole(folder: Path) -> None:
    assert preset_names() == ["plain"]
    preset = load_preset("plain")
    assert (preset.name, preset.title, preset.overrides["lambda_id"]) == ("plain", "Plain", 0.4)
    assert preset.photos == (folder / "1.jpg",)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"prompts": []}, "at least one prompt"),
        ({"prompts": ["a {person}"]}, r"\{person\}"),
        ({"overrides": {"lambda": 1}}, "no setting 'lambda'"),
        ({"colour": "blue"}, "colour"),
    ],
)
def test_a_wrong_preset_is_told(folder: Path, change: dict[str, Any], said: str) -> None:
    (folder / "preset.json").write_text(json.dumps({**WHOLE, **change}))
    with pytest.raises(Problem, match=said):
        load_preset("plain")


def test_a_broken_file_and_an_unknown_name_are_told(folder: Path) -> None:
    (folder / "preset.json").write_text("{")
    with pytest.raises(Problem, match=r"preset\.json cannot be used"):
        load_preset("plain")
    with pytest.raises(Problem, match="Choose one of: plain"):
        load_preset("../plain")


@pytest.mark.parametrize("name", preset_names())
def test_every_shipped_preset_can_be_used(name: str) -> None:
    preset = load_preset(name)
    assert preset.title
    assert preset.description
    assert 4 <= len(preset.photos) <= 6
    assert all("{subject}" in prompt and "{style}" in prompt for prompt in preset.prompts)


def test_a_file_that_notepad_saved_is_read(folder: Path) -> None:
    """It begins every file with a byte-order mark."""
    path = folder / "preset.json"
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert load_preset(folder.name).prompts
