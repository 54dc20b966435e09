"""What a command leaves of portraits: the files, and what is to be said of them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from magicapture_core.commands.console import show_note
from magicapture_core.files import unused

if TYPE_CHECKING:
    import numpy as np

    from magicapture_core.generation import Portrait


def save_portrait(portrait: Portrait, path: Path, *, private: bool) -> None:
    """Write the portrait, and beside it where the words that were asked for look."""
    portrait.save(path, private=private)
    for word, heat in portrait.attention.items():
        _write_heat(portrait, heat, unused(path.with_suffix(f".{_file_part(word)}.png")), private)


def show_warnings(portraits: Iterable[Portrait]) -> None:
    """Say once what is to be said of any of them."""
    for warning in dict.fromkeys(warning for portrait in portraits for warning in portrait.warnings):
        show_note(warning)


def _write_heat(portrait: Portrait, heat: np.ndarray, path: Path, private: bool) -> None:
    """Write the heat map over the portrait. It shows the face, so it gets the same provenance marks as the portrait."""
    import numpy as np
    from PIL import Image

    from magicapture_core.heat import heat_overlay

    coloured = Image.fromarray(heat_overlay(np.asarray(portrait.image.convert("RGB")), heat))
    replace(portrait, image=coloured).save(path, private=private)


def _file_part(word: str) -> str:
    """The word as a part of a file name: at most 40 letters, which are at most 160 bytes."""
    return "".join(letter if letter.isalnum() else "_" for letter in word).strip("_")[:40] or "word"
