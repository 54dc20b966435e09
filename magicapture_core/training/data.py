"""The photos as training sees them: encoded once, for every augmentation, each with its own mask."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import torch
from torch import Tensor

from magicapture_core import losses
from magicapture_core.concepts import Concept, Cut, Example
from magicapture_core.models import ModelBundle

# The ArcFace crop reaches 2.7 times the extent of the five landmarks. More than that is decoded,
# because a convolutional decoder needs a margin of true neighbours to give true pixels.
CROP_PER_EXTENT = 3.4
# The landmarks' centre lies below the crop's centre by this share of their extent.
CROP_CENTRE_ABOVE = 0.38


@dataclass(frozen=True)
class Encoded:
    """One concept's photos (and their mirror images) as latents. n = photos times augmentations."""

    latents: Tensor
    """(n, c, h, w) z = E(x), scaled; the posterior's mean."""
    face: Tensor
    """(n, 1, h, w) in {0,1}: the face (or the object)."""
    landmarks: Tensor
    """(n, 5, 2) pixels; NaN where there is no face."""
    digests: tuple[str, ...]
    """Of the photos, without augmentations: what a resumed run must find again."""
    cuts: Tensor
    """(n, 4) from where in their photos they were cut, each of `Cut.told`."""

    @classmethod
    def without_faces(cls, latents: Tensor, side: int) -> Encoded:
        """Latents (n, c, h, w) of whole pictures of `side` pixels that no mask and no landmark belongs to."""
        nowhere = torch.zeros(len(latents), 1, *latents.shape[-2:], device=latents.device)
        cuts = torch.tensor(_whole(side).told(side), device=latents.device).expand(len(latents), -1)
        return cls(latents, nowhere, torch.full((len(latents), 5, 2), float("nan")), (), cuts)

    def __len__(self) -> int:
        return len(self.latents)

    @property
    def has_face(self) -> Tensor:
        """(n,) bool."""
        return ~self.landmarks.isnan().any(dim=(1, 2))


@torch.no_grad()
def encode_concept(concept: Concept, models: ModelBundle, *, flip: bool) -> Encoded:
    """Encode every photo, one at a time, and unlike the paper, if `flip`, its mirror image."""
    views = list(itertools.chain.from_iterable(_views(example, flip) for example in concept.examples))
    stacked = torch.cat([models.encode_pictures(image[None]) for image, _, _, _ in views])
    faces = torch.stack([masks.at(*stacked.shape[-2:]).face for _, masks, _, _ in views])
    return Encoded(
        stacked,
        faces.to(models.device),
        torch.stack([landmarks for _, _, landmarks, _ in views]),
        tuple(f"{example.name}:{example.digest}" for example in concept.examples),
        torch.tensor([cut.told(image.shape[-1]) for image, _, _, cut in views], device=models.device),
    )


def shared_face_colour(style: Concept, cell: int) -> losses.FaceColour | None:
    """The colour that the style's faces share, in cells of `cell`² pixels; None where no photo shows a face."""
    found = []
    for example in style.examples:
        chroma = losses.chroma_of(example.image[None], cell)[0]  # 2 h w
        found.append(chroma[:, example.masks.at(*chroma.shape[-2:]).face[0] > 0].T)
    cells = torch.cat(found)  # n 2
    if not len(cells):
        return None
    mean = cells.mean(0)
    return losses.FaceColour(mean, torch.linalg.vector_norm(cells - mean, dim=1).square().mean().sqrt())


TYPICAL_LIGHTNESS = 0.55
"""Mean Y of the faces in photos of all kinds of people: .55 of 300 faces of the mini model's training."""


def mean_lightness(concept: Concept) -> Tensor | None:
    """Mean Y (0-d) of the faces in a concept's photos; None where none shows a face."""
    seen = [example for example in concept.examples if bool(example.masks.face.any())]
    if not seen:
        return None
    light = [losses.face_lightness(each.image[None], each.masks.face[None]) for each in seen]
    return torch.cat(light).mean()


def wanted_lightness(subject: Concept, style: Concept) -> Tensor | None:
    """Mean Y (0-d) of the subject's face in the style's light: as much darker than the style's faces as it is than
    most people's in its own photos, and never lighter than they are: a face that its own photos show bright would be
    overexposed. None where either shows no face."""
    own, looks = mean_lightness(subject), mean_lightness(style)
    return None if own is None or looks is None else looks * (own / TYPICAL_LIGHTNESS).clamp(max=1)


def _views(example: Example, flip: bool) -> list[tuple]:
    landmarks = example.landmarks
    if landmarks is None:
        landmarks = torch.full((5, 2), float("nan"))
    side = example.image.shape[-1]
    cut = example.cut or _whole(side)
    views = [(example.image, example.masks, landmarks, cut)]
    if flip:
        mirrored = mirror_landmarks(landmarks, side)
        views.append((example.image.flip(-1), example.masks.flipped(), mirrored, cut.mirrored()))
    return views


def _whole(side: int) -> Cut:
    """Of a picture that is a whole photo of `side` pixels."""
    return Cut(side, side, 0.0, 0.0, side)


def mirror_landmarks(landmarks: Tensor, width: int) -> Tensor:
    """Five landmarks (5, 2) in a picture mirrored left to right; left and right change places."""
    mirrored = landmarks[[1, 0, 2, 4, 3]].clone()
    mirrored[:, 0] = width - 1 - mirrored[:, 0]
    return mirrored


@dataclass(frozen=True, eq=False)
class Windows:
    """Which part of each style latent is decoded for Eq. 7."""

    side: int
    """Latent cells; one side for all, so that they decode as one batch."""
    corners: Tensor
    """(n, 2) int64 on the CPU: top and left, per cached latent."""
    rows: Tensor
    """(n, side) int64 on the latents' device: the rows of each window."""
    columns: Tensor

    @classmethod
    def at(cls, corners: Tensor, side: int, device: torch.device) -> Windows:
        """Windows of `side` cells at `corners` (n, 2)."""
        rows, columns = (corners[:, axis, None] + torch.arange(side) for axis in (0, 1))
        return cls(side, corners, rows.to(device), columns.to(device))

    def cut(self, latents: Tensor, items: Tensor) -> Tensor:
        """(n, c, h, w) latents of the cached `items` (n,), on their device → (n, c, side, side)."""
        channels, height, width = latents.shape[1:]
        if self.side == height == width:
            return latents
        rows = self.rows[items][:, None, :, None].expand(-1, channels, -1, width)
        columns = self.columns[items][:, None, None, :].expand(-1, channels, self.side, -1)
        return latents.gather(2, rows).gather(3, columns)

    def shifted(self, landmarks: Tensor, scale: int) -> Tensor:
        """Landmarks of all cached latents (n, 5, 2) in pixels of the whole → pixels of the window. `scale`: pixels a
        cell."""
        return landmarks - self.corners.flip(1)[:, None].to(landmarks) * scale


def face_windows(encoded: Encoded, scale: int, *, whole: bool) -> Windows:
    """Unlike the paper, windows around the faces with margin; the whole latents, as in the paper, if `whole`."""
    height, width = encoded.latents.shape[-2:]
    device, full = encoded.latents.device, min(height, width)
    valid = encoded.has_face
    if whole or not valid.any():
        return Windows.at(torch.zeros(len(encoded), 2, dtype=torch.int64), full, device)
    low, high = encoded.landmarks.amin(1) / scale, encoded.landmarks.amax(1) / scale  # n 2, cells
    extent = (high - low).amax(-1)
    side = min(full, int((extent[valid].max() * CROP_PER_EXTENT).ceil()))
    centre = (low + high) / 2
    centre[:, 1] -= CROP_CENTRE_ABOVE * extent
    corners = []
    for (x, y), known in zip(centre.tolist(), valid.tolist(), strict=True):
        left, top = (round(x - side / 2), round(y - side / 2)) if known else (0, 0)
        corners.append((min(max(top, 0), height - side), min(max(left, 0), width - side)))
    return Windows.at(torch.tensor(corners), side, device)
