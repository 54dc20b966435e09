"""From photos to training examples: a square picture, its masks and its landmarks. The wizard shows them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from magicapture_core.concepts.framing import Frame, aligned_frame
from magicapture_core.config import Framing
from magicapture_core.faces import Face, FaceAnalyser
from magicapture_core.languages import _, n_
from magicapture_core.masks import Masks, face_masks, object_masks, resize_mask
from magicapture_core.photos import Photo
from magicapture_core.problems import PhotoProblem

Role = Literal["subject", "style"]
Kind = Literal["person", "object"]

# The subject's square, in sizes of the face (brow to chin): the whole head with hair, the face a quarter of the
# area. Wider than tight, because the composed prompt must learn where a face sits.
SUBJECT_CROP = 2.0
# A square grows up to this many face sizes rather than be enlarged: beyond it the face would fall under a third of
# the side, some five cells of a 16×16 attention map.
SUBJECT_CROP_MAX = 3.0
# An object's square: its box and a tenth of it on each side.
OBJECT_CROP = 1.2
# Enlarging by less than this is not visible and is not reported.
TOLERATED_ENLARGEMENT = 1.1
# Smaller faces give unreliable landmarks, and fewer pixels than the recogniser's 112.
MIN_FACE_PIXELS = 48
# Of two faces the larger is meant only if it is clearly larger; at 1 / 0.7 people agree on who is meant.
RIVAL_FACE = 0.7

Box = tuple[int, int, int]
"""Left, top and side of a square in pixels of the photo."""


class Cut(NamedTuple):
    """From where an example was cut, in pixels of the photo. Some models are told it."""

    height: int
    """Of the photo."""
    width: int
    top: float
    """Of the square; 0 or more."""
    left: float
    side: float
    """Of the square."""

    def mirrored(self) -> Cut:
        """In the photo mirrored left to right."""
        return self._replace(left=max(0.0, self.width - self.left - self.side))

    def told(self, resolution: int) -> tuple[float, float, float, float]:
        """As diffusers tells it to SDXL: the photo's height and width; top and left of the square, in whole pixels of
        the photo once the square has `resolution` pixels a side."""
        scale = resolution / self.side
        return (
            float(self.height),
            float(self.width),
            float(round(self.top * scale)),
            float(round(self.left * scale)),
        )


@dataclass(frozen=True, eq=False)
class Example:
    """One training example: a square picture, its masks and its landmarks."""

    name: str
    image: Tensor
    """(3, R, R) float32 in [-1, 1]."""
    masks: Masks
    """(R, R). A subject is learned from masks.face, a style from masks.nonface."""
    landmarks: Tensor | None
    """(5, 2) float32 in pixels of `image`: eyes, nose tip, mouth corners. None without a detected face."""
    digest: str
    """sha256 over the image's and the mask's bytes."""
    warnings: tuple[str, ...] = ()
    cut: Cut | None = None
    """None: the picture is a whole photo."""


@dataclass(frozen=True, eq=False)
class Concept:
    """The training examples of one placeholder token."""

    role: Role
    kind: Kind
    examples: tuple[Example, ...]


def prepare_concept(
    photos: Sequence[Photo],
    role: Role,
    *,
    resolution: int,
    analyser: FaceAnalyser,
    kind: Kind = "person",
    masks: Mapping[str, np.ndarray] | None = None,
    framing: Framing = "photo",
) -> Concept:
    """Crop, mask and scale `photos` to squares of `resolution` pixels.

    `masks`: a user's masks by photo name, (h, w) of the ORIGINAL photo (bool, 0..1 or 0..255; from the middle up it
    is the region). For both roles the region is the face (or the object): what a subject is learned from, and what a
    style leaves out. They override what is found.
    A subject is cropped around the face, with margin; a style to the largest square that keeps the face. framing
    "aligned", for models that know no other faces: both are straightened to FFHQ's frame where there is a face.
    Enlarging is said in Example.warnings.
    PhotoProblem that lists every photo that cannot be used.
    """
    if not photos:
        raise PhotoProblem(
            _("No subject photos: expected 4 to 6. Add some photos.")
            if role == "subject"
            else _("No style photos: expected 4 to 6. Add some photos.")
        )
    if resolution < 8 or resolution % 8:
        raise ValueError(f"resolution must be a multiple of 8, got {resolution}")
    masks = masks or {}
    unknown = sorted(set(masks) - {photo.name for photo in photos})
    problems = [
        _("{name}: a mask was given, but there is no photo of that name", name=name) for name in unknown
    ]
    examples: list[Example] = []
    for photo in photos:
        try:
            examples.append(_example(photo, role, kind, resolution, analyser, masks.get(photo.name), framing))
        except PhotoProblem as problem:
            problems.append(str(problem))
    if problems:
        listed = "\n".join(f"- {text}" for text in problems)
        raise PhotoProblem(
            n_(
                "{n} of the subject photos cannot be used:\n{listed}",
                "{n} of the subject photos cannot be used:\n{listed}",
                len(problems), listed=listed,
            )
            if role == "subject"
            else n_(
                "{n} of the style photos cannot be used:\n{listed}",
                "{n} of the style photos cannot be used:\n{listed}",
                len(problems), listed=listed,
            )
        )  # fmt: skip
    return Concept(role, kind, tuple(examples))


def main_face(faces: Sequence[Face]) -> Face | None:
    """The face that is meant: the largest, unless another one rivals it. None if none is clearly meant."""
    if not faces or (len(faces) > 1 and faces[1].size > RIVAL_FACE * faces[0].size):
        return None
    return faces[0]


def subject_square(face: Face, height: int, width: int, resolution: int) -> Box:
    """The square of the photo around a subject's face."""
    size = max(face.width, face.height)
    side = max(SUBJECT_CROP * size, min(resolution, SUBJECT_CROP_MAX * size))
    x, y = (face.box[0] + face.box[2]) / 2, (face.box[1] + face.box[3]) / 2
    return _square(x, y, side, height, width)


def style_square(faces: Sequence[Face], height: int, width: int) -> Box:
    """The largest square of the photo; if it cannot hold everything it follows the faces."""
    side = min(height, width)
    if not faces:
        return _square(width / 2, height / 2, side, height, width)
    middle = _square(width / 2, height / 2, side, height, width)
    x, y = middle[0] + side / 2, middle[1] + side / 2
    for face in reversed(faces):  # the largest face decides
        left, top, right, bottom = face.box
        x = _shifted(x, side, left, right)
        y = _shifted(y, side, top, bottom)
    return _square(x, y, side, height, width)


def is_enlarged(side: int, resolution: int) -> bool:
    """Whether a square of `side` pixels is enlarged so much to `resolution` that the user should know."""
    return resolution > side * TOLERATED_ENLARGEMENT


def _example(
    photo: Photo,
    role: Role,
    kind: Kind,
    resolution: int,
    analyser: FaceAnalyser,
    given: np.ndarray | None,
    framing: Framing,
) -> Example:
    height, width = photo.pixels.shape[:2]
    faces = analyser.detect(photo.pixels) if kind == "person" else []
    own = None if given is None else _given_masks(photo, role, given)
    if role == "style":
        masks = own or _style_masks(photo, kind, faces, analyser)
        face = faces[0] if faces else None
    else:
        face = _subject_face(photo, faces, own) if kind == "person" else None
        masks = own or _subject_masks(photo, kind, face, analyser)
    if framing == "aligned" and face is not None:
        return _straightened(photo, aligned_frame(face.landmarks, height, width), masks, face, resolution)
    if role == "style":
        square = style_square(faces, height, width)
    elif face is not None:
        square = subject_square(face, height, width, resolution)
    else:
        square = _square_around(masks.face, height, width)
    return _cut(photo, square, masks, face, resolution)


def _subject_face(photo: Photo, faces: Sequence[Face], own: Masks | None) -> Face | None:
    """The face a subject is learned from; None only where the user's mask says where the face is."""
    if own is not None:
        inside = [f for f in faces if own.face[0, _clamped(f, own.face)[1], _clamped(f, own.face)[0]] > 0]
        return inside[0] if inside else None
    face = main_face(faces)
    if face is None and faces:
        raise PhotoProblem(
            n_(
                "{name}: {n} face of similar size; crop it to the person who is meant",
                "{name}: {n} faces of similar size; crop it to the person who is meant",
                len(faces), name=photo.name,
            )
        )  # fmt: skip
    if face is None:
        raise PhotoProblem(
            _(
                "{name}: no face was found; choose a photo with a visible face or paint a mask",
                name=photo.name,
            )
        )
    if face.size < MIN_FACE_PIXELS:
        raise PhotoProblem(
            n_(
                "{name}: the face is only {n} pixel large, at least {least} are needed; choose a closer photo",
                "{name}: the face is only {n} pixels large, at least {least} are needed; choose a closer photo",
                round(face.size),
                name=photo.name,
                least=MIN_FACE_PIXELS,
            )
        )
    return face


def _subject_masks(photo: Photo, kind: Kind, face: Face | None, analyser: FaceAnalyser) -> Masks:
    masks = (
        object_masks(photo.pixels, analyser) if kind == "object" else face_masks(photo.pixels, face, analyser)
    )
    if not bool(masks.face.any()):
        raise PhotoProblem(
            _("{name}: no object stands out; paint a mask over it", name=photo.name)
            if kind == "object"
            else _("{name}: the face has no visible area; paint a mask over it", name=photo.name)
        )
    return masks


def _style_masks(photo: Photo, kind: Kind, faces: Sequence[Face], analyser: FaceAnalyser) -> Masks:
    """A style must not learn anybody's face, so all of them are masked."""
    if kind == "object":
        return object_masks(photo.pixels, analyser)
    union = torch.zeros(1, *photo.pixels.shape[:2])
    for face in faces:
        union = torch.maximum(union, face_masks(photo.pixels, face, analyser).face)
    return Masks(union)


def _given_masks(photo: Photo, role: Role, given: np.ndarray) -> Masks:
    """From the user's mask of the face (or the object)."""
    if given.shape[:2] != photo.pixels.shape[:2] or given.ndim != 2:
        raise PhotoProblem(
            _(
                "{name}: its mask must have the photo's size, {width}×{height} (width × height), but is {size}; paint "
                "it on this photo",
                name=photo.name,
                width=photo.pixels.shape[1],
                height=photo.pixels.shape[0],
                size=" × ".join(map(str, given.shape[1::-1])),
            )
        )
    half = 0.5 if given.dtype == bool or given.max(initial=0) <= 1 else 128
    masks = Masks(torch.from_numpy((given >= half).astype(np.float32))[None])
    if role == "subject" and not bool(masks.face.any()):
        raise PhotoProblem(_("{name}: its mask is empty; paint over what is to be learned", name=photo.name))
    if role == "style" and not bool(masks.nonface.any()):
        raise PhotoProblem(
            _(
                "{name}: its mask covers the whole photo, so nothing of the style is left; paint over faces only",
                name=photo.name,
            )
        )
    return masks


def _cut(photo: Photo, square: Box, masks: Masks, face: Face | None, resolution: int) -> Example:
    left, top, side = square
    picture = Image.fromarray(photo.pixels).resize(
        (resolution, resolution), Image.Resampling.LANCZOS, box=(left, top, left + side, top + side)
    )
    region = resize_mask(masks.face[:, top : top + side, left : left + side], (resolution, resolution))
    landmarks = None
    if face is not None:
        offset = torch.tensor([left, top], dtype=torch.float32)
        landmarks = (torch.tensor(face.landmarks) - offset + 0.5) * (resolution / side) - 0.5
    height, width = photo.pixels.shape[:2]
    cut = Cut(height, width, top, left, side)
    return _finished(photo, np.array(picture), region, landmarks, cut)


def _straightened(photo: Photo, frame: Frame, masks: Masks, face: Face, resolution: int) -> Example:
    """As `_cut`, for a turned square; what reaches beyond the photo is mirrored, its mask too."""
    share = torch.from_numpy(frame.cut(masks.face[0].numpy(), resolution))[None]
    region = resize_mask(share, (resolution, resolution))
    landmarks = torch.from_numpy(frame.points(face.landmarks, resolution))
    left, top = (max(0.0, float(at)) for at in frame.to_photo(resolution)[:, 2])
    height, width = photo.pixels.shape[:2]
    cut = Cut(height, width, top, left, frame.side)
    return _finished(photo, frame.cut(photo.pixels, resolution), region, landmarks, cut)


def _finished(
    photo: Photo, picture: np.ndarray, region: Tensor, landmarks: Tensor | None, cut: Cut
) -> Example:
    """picture: (R, R, 3) uint8; region: (1, R, R) of the face."""
    image = (torch.from_numpy(picture).permute(2, 0, 1).float() / 127.5 - 1).contiguous()
    digest = hashlib.sha256(image.numpy().tobytes() + region.numpy().astype(np.uint8).tobytes()).hexdigest()
    side, resolution = round(cut.side), picture.shape[0]
    warning = _(
        "{name}: the part that is used has {side}×{side} pixels and is enlarged to {resolution}×{resolution}, so the "
        "result will be softer; a larger photo is better",
        name=photo.name, side=side, resolution=resolution,
    )  # fmt: skip
    warnings = (warning,) if is_enlarged(side, resolution) else ()
    return Example(photo.name, image, Masks(region), landmarks, digest, warnings, cut)


def _square(x: float, y: float, side: float, height: int, width: int) -> Box:
    """The square of `side` around (x, y), made smaller and moved so that it lies in the photo."""
    whole = max(1, min(round(side), height, width))
    left = min(max(round(x - whole / 2), 0), width - whole)
    top = min(max(round(y - whole / 2), 0), height - whole)
    return left, top, whole


def _square_around(region: Tensor, height: int, width: int) -> Box:
    rows, columns = region[0].any(dim=1).nonzero(), region[0].any(dim=0).nonzero()
    top, bottom = int(rows.min()), int(rows.max()) + 1
    left, right = int(columns.min()), int(columns.max()) + 1
    side = OBJECT_CROP * max(bottom - top, right - left)
    return _square((left + right) / 2, (top + bottom) / 2, side, height, width)


def _shifted(center: float, side: float, low: float, high: float) -> float:
    """`center` moved as little as needed for [low, high] to lie in the square."""
    if high - low >= side:
        return (low + high) / 2
    return min(max(center, high - side / 2), low + side / 2)


def _clamped(face: Face, region: Tensor) -> tuple[int, int]:
    x, y = face.landmarks.mean(axis=0)
    return min(max(int(x), 0), region.shape[2] - 1), min(max(int(y), 0), region.shape[1] - 1)
