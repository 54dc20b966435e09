"""What several commands read: photos, their faces, the style."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from rich.markup import escape

from magicapture_core.commands.console import console, show_note
from magicapture_core.problems import Problem

if TYPE_CHECKING:
    import numpy as np

    from magicapture_core.concepts import Concept, Role
    from magicapture_core.config import Framing, SubjectKind
    from magicapture_core.faces import FaceAnalyser
    from magicapture_core.photos import Photo

FaceVariant = Literal["auto", "bundled", "facexlib"]

# Files beside the photos that come with the project.
_OURS = ("preset.json", "person.json")
# File systems allow 255 bytes for a name; suffixes and a number for a second file need some of them.
_LONGEST_STEM = 200


def analyser_for(variant: FaceVariant) -> FaceAnalyser:
    """The face networks; prints which ones they are."""
    from magicapture_core.faces import choose_analyser

    analyser, reason = choose_analyser(variant)
    console.print(f"[dim]{escape(reason)}[/]")
    return analyser


def style_folder(style: Path | None, preset: str | None) -> Path:
    """The folder of the style photos. Raises Problem unless exactly one of the two is given."""
    from magicapture_core.presets import PRESETS, load_preset

    if (style is None) == (preset is None):
        raise Problem("Give either --style FOLDER or --preset NAME, one of the two.")
    if preset is not None:
        return PRESETS / load_preset(preset).name
    assert style is not None
    return style


def read_photos(sources: tuple[Path, ...]) -> tuple[list[Photo], int]:
    """Read photos and folders of photos; prints which ones cannot be read. Returns photos and number of failures."""
    from magicapture_core.photos import list_photos, read_photo

    photos, unreadable = [], 0
    for source in sources:
        if source.is_dir():
            _say_what_is_not_read(source)
        for path in list_photos(source) if source.is_dir() else [source]:
            try:
                photos.append(read_photo(path))
            except Problem as problem:
                unreadable += 1
                console.print(f"{escape(path.name)}: refuse {escape(str(problem))}")
    return photos, unreadable


def _say_what_is_not_read(folder: Path) -> None:
    from magicapture_core.photos import other_files

    others = [path.name for path in other_files(folder) if path.name not in _OURS]
    if others:
        show_note(f"{folder}: not read, for their names do not end as photos' do: {', '.join(others)}")


def read_concept(
    role: Role,
    folder: Path,
    *,
    resolution: int,
    framing: Framing,
    analyser: FaceAnalyser,
    kind: SubjectKind = "person",
    masks: Path | None = None,
    use_all: bool = False,
) -> Concept:
    """The photos of a folder, ready for training; prints warnings about them. masks: folder with the user's own masks.

    use_all: also those that would be left out (Verdict.left_out).
    """
    from magicapture_core.concepts import prepare_concept
    from magicapture_core.photos import list_photos

    list_photos(folder)  # raises a Problem about the folder, before those about photos
    photos, unreadable = read_photos((folder,))
    if unreadable:
        raise Problem(f"Take the unreadable files out of {folder}, or replace them.")
    own: Mapping[str, np.ndarray] = read_masks(masks, photos) if masks else {}
    if not use_all:
        photos = _without_left_out(photos, role, folder, resolution=resolution, analyser=analyser, kind=kind)
        own = {photo.name: own[photo.name] for photo in photos if photo.name in own}
    concept = prepare_concept(
        photos, role, resolution=resolution, analyser=analyser, kind=kind, masks=own, framing=framing
    )
    for example in concept.examples:
        for warning in example.warnings:
            show_note(f"{example.name}: {warning}")
    return concept


def _without_left_out(
    photos: list[Photo],
    role: Role,
    folder: Path,
    *,
    resolution: int,
    analyser: FaceAnalyser,
    kind: SubjectKind,
) -> list[Photo]:
    """The photos to learn from; prints which ones are left out, and why. Problem if none remains."""
    from magicapture_core.concepts import judge_photos

    verdicts = judge_photos(photos, role, analyser=analyser, resolution=resolution, kind=kind)
    out = [verdict for verdict in verdicts if verdict.left_out]
    if out:
        console.print(f"[yellow]Left out[/] {len(out)} of the {len(photos)} {role} photos:")
    for verdict in out:
        why = " ".join(reason.text for reason in verdict.reasons)
        console.print(f"  {escape(verdict.name)}: {escape(why)}", soft_wrap=True)
    if len(out) == len(photos):
        raise Problem(
            f"None of the photos in {folder} is left. Give others, or --use-all to use them all the same."
        )
    if out:
        console.print("Give --use-all to use them all the same.")
    return [photo for photo, verdict in zip(photos, verdicts, strict=True) if not verdict.left_out]


def read_masks(folder: Path, photos: list[Photo]) -> dict[str, np.ndarray]:
    """The user's masks by photo name; photos without one get an automatic mask. Prints which files are not used."""
    if not folder.is_dir():
        raise Problem(f"{folder} is no folder: expected one with <photo name>.png for at least one photo.")
    masks: dict[str, np.ndarray] = {}
    unused = []
    for path in sorted(path for path in folder.iterdir() if path.is_file() and not path.name.startswith(".")):
        photo = _masked_by(path, photos) if path.suffix.lower() == ".png" else None
        if photo is None:
            unused.append(path.name)
        elif photo.name in masks:
            raise Problem(f"{path} is a second mask of {photo.name}. Leave one of them.")
        else:
            masks[photo.name] = _read_mask(path, photo)
    if not masks:
        raise Problem(f"{folder} holds no mask: expected <photo name>.png for at least one photo.")
    if unused:
        show_note(f"{folder}: no mask of any photo, so not used: {', '.join(unused)}")
    return masks


def _masked_by(path: Path, photos: list[Photo]) -> Photo | None:
    """The photo that a mask belongs to: both "a.png" and "a.jpg.png" belong to a.jpg. Problem if several photos fit."""

    def called(name: str) -> str:
        return unicodedata.normalize("NFC", name).casefold()  # file systems can change both

    mask = called(path.stem)
    whole = [photo for photo in photos if called(photo.name) == mask]
    found = whole or [photo for photo in photos if called(Path(photo.name).stem) == mask]
    if len(found) > 1:
        names = " and of ".join(photo.name for photo in found)
        better = " and ".join(f"{photo.name}.png" for photo in found)
        raise Problem(f"{path} could be the mask of {names}. Name the masks {better}.")
    return found[0] if found else None


def _read_mask(path: Path, photo: Photo) -> np.ndarray:
    from PIL import Image, UnidentifiedImageError

    from magicapture_core.masks import mask_from_image

    height, width = photo.pixels.shape[:2]
    try:
        with Image.open(path) as image:
            # Large photos are made smaller when they are read, so their masks must be, too.
            same = abs(image.width * height - image.height * width) <= max(image.size)
            scaled = image.resize((width, height), Image.Resampling.NEAREST) if same else image
            mask: np.ndarray = mask_from_image(scaled)[0].numpy()
            return mask
    except (UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise Problem(f"{path} is no picture of a mask ({error}). Save it as PNG.") from error


def written_stem(name: str) -> str:
    """The stem of a file's name, shortened so that suffixes can be added."""
    return Path(name).stem.encode()[:_LONGEST_STEM].decode(errors="ignore")
