"""What a training drew on its way, as shown files: made from its folder, so that a resumed or old one has them."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

from PIL import Image

from magicapture_core.files import atomic_file
from magicapture_core.ui.stored_session import Session

CELLS = 3
"""Pictures that a strip holds of each item: the photo, where the word looks, where it should (training/previews.py)."""


def pictures(folder: Path, until: int | None = None) -> list[tuple[int, Path]]:
    """The pictures step-000012….png in a folder, by step."""
    found = [(int(path.stem.split("-")[1]), path) for path in folder.glob("step-*.png")]
    return sorted((step, path) for step, path in found if until is None or step <= until)


def _shown_path(session: Session, path: Path, part: str = "") -> Path:
    """Named after its content: nobody guesses it, and whoever looks again finds it made."""
    name = hashlib.sha256(path.read_bytes() + f"{session.id}{part}".encode()).hexdigest()[:24]
    return session.shown / f"{name}{'.webp' if part else '.png'}"


def sample_copy(session: Session, path: Path) -> Path:
    """The shown copy of a sample picture."""
    target = _shown_path(session, path)
    if not target.exists():
        with atomic_file(target) as fresh:
            shutil.copyfile(path, fresh)
    return target


def strip_item(session: Session, strip: Path, number: int) -> Path:
    """The shown pictures of one item of a strip."""
    target = _shown_path(session, strip, f" {number}")
    if not target.exists():
        with Image.open(strip) as image:
            width = CELLS * image.height
            cut = image.crop((number * width, 0, (number + 1) * width, image.height))
        with atomic_file(target) as path:
            cut.save(path, format="WEBP", quality=82)
    return target


def shown_pictures(session: Session, folder: Path) -> list[Path]:
    """All that was shown of a run, to be removed with it."""
    sources = [path for _, path in pictures(folder / "samples")]
    items = [(path, number) for _, path in pictures(folder / "attention") for number in range(CELLS)]
    return [_shown_path(session, path) for path in sources] + [
        _shown_path(session, path, f" {number}") for path, number in items
    ]
