"""python -m magicapture_core masks: the face in every photo, a verdict on the photo, its masks as pictures."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import tyro
from rich.markup import escape

from magicapture_core.commands.console import BAD_INPUT, DONE, console
from magicapture_core.commands.inputs import FaceVariant, analyser_for, read_photos, written_stem

if TYPE_CHECKING:
    from magicapture_core.faces import Face, FaceAnalyser
    from magicapture_core.photos import Photo


@dataclass
class Masks:
    """Find the face in every photo, judge the photo, and write its masks as pictures."""

    photos: tyro.conf.Positional[tuple[Path, ...]]
    """Photos, or folders of photos."""
    out: Path
    """Folder for <name>.face.png, <name>.nonface.png and <name>.overlay.png."""
    faces: FaceVariant = "auto"
    """Which face networks to use."""

    def run(self) -> int:
        """Exits 1 if a photo has no face or cannot be read."""
        from magicapture_core.concepts import judge_photos

        analyser = analyser_for(self.faces)
        photos, unreadable = read_photos(self.photos)
        verdicts = judge_photos(photos, "subject", analyser=analyser)
        self.out.mkdir(parents=True, exist_ok=True)
        faceless = 0
        stems: set[str] = set()
        for photo, verdict in zip(photos, verdicts, strict=True):
            reasons = "; ".join(reason.text for reason in verdict.reasons)
            console.print(
                f"{escape(photo.name)}: {verdict.level}{escape(f' - {reasons}' if reasons else '')}"
            )
            if verdict.face is None:
                faceless += 1
                continue
            _write_masks(photo, verdict.face, analyser, self.out, stems)
        return BAD_INPUT if faceless or unreadable else DONE


def _write_masks(photo: Photo, face: Face, analyser: FaceAnalyser, out: Path, stems: set[str]) -> None:
    from PIL import Image

    from magicapture_core.masks import face_masks, overlay

    masks = face_masks(photo.pixels, face, analyser)
    stem, number = written_stem(photo.name), 1
    while stem in stems:  # photos of two folders may share a name
        number += 1
        stem = f"{written_stem(photo.name)}-{number}"
    stems.add(stem)
    for name, mask in (("face", masks.face), ("nonface", masks.nonface)):
        Image.fromarray((mask[0].numpy() * 255).astype("uint8")).save(out / f"{stem}.{name}.png")
    Image.fromarray(overlay(photo.pixels, masks.face)).save(out / f"{stem}.overlay.png")
