"""What several commands read: photos, their faces, the style."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from rich.markup import escape

from magicapture_core.console import console
from magicapture_core.problems import Problem

if TYPE_CHECKING:
    import numpy as np

    from magicapture_core.concepts import Concept, Role
    from magicapture_core.config import Framing, SubjectKind
    from magicapture_core.faces import FaceAnalyser
    from magicapture_core.photos import Photo

FaceVariant = Literal["auto", "bundled", "facexlib"]


def analyser_for(variant: FaceVariant) -> FaceAnalyser:
    """The face networks, and one line that says which they are."""
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
    """Read photos and folders of photos; says which cannot be read. Returns them and how many could not."""
    from magicapture_core.photos import list_photos, read_photo

    photos, unreadable = [], 0
    for source in sources:
        for path in list_photos(source) if source.is_dir() else [source]:
            try:
                photos.append(read_photo(path))
            except Problem as problem:
                unreadable += 1
                console.print(f"{escape(path.name)}: refuse {escape(str(problem))}")
    return photos, unreadable


def read_concept(
    role: Role,
    folder: Path,
    *,
    resolution: int,
    framing: Framing,
    analyser: FaceAnalyser,
    kind: SubjectKind = "person",
    masks: Path | None = None,
) -> Concept:
    """The photos of a folder, ready to learn from; says what is odd about them. masks: folder of the user's own."""
    from magicapture_core.concepts import prepare_concept

    photos, unreadable = read_photos((folder,))
    if unreadable:
        raise Problem(f"Take the unreadable files out of {folder}, or replace them.")
    own: Mapping[str, np.ndarray] | None = read_masks(masks, photos) if masks else None
    concept = prepare_concept(
        photos, role, resolution=resolution, analyser=analyser, kind=kind, masks=own, framing=framing
    )
    for example in concept.examples:
        for warning in example.warnings:
            console.print(f"[yellow]Note[/] {escape(example.name)}: {escape(warning)}")
    return concept


def read_masks(folder: Path, photos: list[Photo]) -> dict[str, np.ndarray]:
    """The user's masks by photo name; photos without one get an automatic mask."""
    from PIL import Image, UnidentifiedImageError

    from magicapture_core.masks import mask_from_image

    masks = {}
    for photo in photos:
        path = folder / f"{Path(photo.name).stem}.png"
        if not path.exists():
            continue
        height, width = photo.pixels.shape[:2]
        try:
            with Image.open(path) as image:
                # Large photos are scaled down when read, so their masks are, too.
                same = abs(image.width * height - image.height * width) <= max(image.size)
                scaled = image.resize((width, height), Image.Resampling.NEAREST) if same else image
                masks[photo.name] = mask_from_image(scaled)[0].numpy()
        except (UnidentifiedImageError, Image.DecompressionBombError) as error:
            raise Problem(f"{path} is no picture of a mask ({error}). Save it as PNG.") from error
    if not masks:
        raise Problem(f"{folder} holds no mask: expected <photo name>.png for at least one photo.")
    return masks
