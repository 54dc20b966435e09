"""Presets: ready-made styles with reference photos, prompts and settings."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from magicapture_core.config import TrainConfig, from_dict
from magicapture_core.languages import _
from magicapture_core.photos import list_photos
from magicapture_core.problems import Problem
from magicapture_core.prompts import expand

PRESETS = Path(__file__).resolve().parent.parent / "presets"
"""Folder that holds a folder per preset."""


@dataclass(frozen=True)
class Preset:
    """A style to choose from. `presets/<name>/preset.json` holds every field but the first and the last."""

    name: str
    title: str
    """For people."""
    description: str
    """One line."""
    prompts: tuple[str, ...]
    """Prompts to try, with {subject} and {style}; the first is the default."""
    negative_prompt: str = ""
    overrides: Mapping[str, Any] = field(default_factory=dict)
    """TrainConfig settings that suit this style."""
    output: str | None = None
    """Name of the print format that the preset is meant for, if any."""
    photos: tuple[Path, ...] = ()
    """Reference photos."""


def preset_names() -> list[str]:
    """Names of all presets, alphabetically."""
    return sorted(path.parent.name for path in PRESETS.glob("*/preset.json"))


def load_preset(name: str) -> Preset:
    """Read and check one preset. Raises Problem if there is none of that name or its file is wrong."""
    if name not in preset_names():
        raise Problem(
            _(
                "There is no preset {name!r}. Choose one of: {names}.",
                name=name,
                names=", ".join(preset_names()) or _("(none)"),
            )
        )
    path = PRESETS / name / "preset.json"
    try:
        values = json.loads(path.read_text(encoding="utf-8-sig"))
        preset = Preset(
            **{**values, "name": name, "prompts": tuple(values["prompts"])},
            photos=tuple(list_photos(path.parent)),
        )
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise Problem(_("{path} cannot be used: {error}.", path=path, error=error)) from error
    if not preset.prompts:
        raise Problem(_("{path} needs at least one prompt.", path=path))
    for prompt in preset.prompts:
        expand(prompt)
    expand(preset.negative_prompt, negative=True)
    from_dict(TrainConfig, dict(preset.overrides))
    return preset
