"""What one visitor may take of a server. Imports nothing heavy: the options of app.py are made of it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from magicapture_core.languages import _
from magicapture_core.problems import Problem


@dataclass(frozen=True)
class Limits:
    """A session has one job at a time, for a device does one after the other; the rest is set here."""

    photos: int = 20
    """Photos of the person, and as many of the style."""
    megapixels: float = 120.0
    """Size of one photo; above 120 changes nothing, for that is the most that is read at all."""
    disk_mb: float = 8000.0
    """Disk for one session's photos, trainings and pictures, in megabytes."""
    minutes: float = 1440.0
    """How long one training or other job may work before it is stopped; a training is saved and can go on."""
    waiting: int = 50
    """Jobs of all sessions together that run or wait; more are refused."""

    def __post_init__(self) -> None:
        """Raises Problem for a limit that nothing could keep."""
        for name in ("photos", "megapixels", "disk_mb", "minutes", "waiting"):
            value = getattr(self, name)
            if not value > 0:
                raise Problem(f"--limits.{name.replace('_', '-')} must be above 0, got {value}.")

    def check_disk(self, *folders: Path) -> None:
        """Raises Problem if a session's folders hold as much as they may."""
        used = sum(map(size_of, folders)) / 1e6
        if used >= self.disk_mb:
            raise Problem(
                _(
                    "Your photos, trainings and pictures take {used:.0f} MB here, and {most:.0f} MB is the most. "
                    "Delete past trainings (step “Portraits”), or delete your data and begin anew.",
                    used=used,
                    most=self.disk_mb,
                )
            )


def size_of(folder: Path) -> int:
    """Bytes in a folder; files that vanish meanwhile count as none."""
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.stat().st_size if path.is_file() else 0
        except OSError:
            continue
    return total
