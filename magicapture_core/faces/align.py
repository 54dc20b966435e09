"""The aligned crop B of Eq. 7: a similarity warp to the five points of ArcFace, differentiable in the picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

ARCFACE_SIZE = 112
# Where the eyes, nose tip and mouth corners stand in ArcFace's 112×112 training crops; SFace uses the same.
ARCFACE_POINTS = (
    (38.2946, 51.6963),
    (73.5318, 51.5014),
    (56.0252, 71.7366),
    (41.5493, 92.3655),
    (70.7299, 92.2041),
)


@dataclass(frozen=True, eq=False)
class Warps:
    """How aligned crops are cut out of pictures of one size; made once of the landmarks, used as often as wanted.

    Cutting never waits for a GPU: how densely a face is sampled is known to the host. Indexing selects items.
    """

    grids: tuple[Tensor, ...]
    """For each item (fine, fine, 2): where the picture is sampled, in `grid_sample`'s [-1, 1]."""
    plans: tuple[tuple[int, int], ...]
    """For each item (pool, samples) of `_sampling_plan`."""

    @classmethod
    def made(cls, landmarks: Tensor, height: int, width: int, size: int = ARCFACE_SIZE) -> Warps:
        """landmarks: (b, 5, 2) in pixels of pictures of height × width. On the landmarks' device; waits for it."""
        transform = crop_to_image(landmarks.float(), size)  # b 2 3
        scales = torch.linalg.vector_norm(transform[:, :, 0], dim=1).tolist()
        plans = [_sampling_plan(scale) for scale in scales]
        plans = [(min(pool, height, width), samples) for pool, samples in plans]
        grids: list[Tensor] = [transform] * len(plans)
        for plan in set(plans):
            items = [i for i, other in enumerate(plans) if other == plan]
            for i, grid in zip(items, _grids(transform[items], height, width, size, *plan), strict=True):
                grids[i] = grid
        return cls(tuple(grids), tuple(plans))

    def __getitem__(self, items: Sequence[int]) -> Warps:
        return Warps(tuple(self.grids[i] for i in items), tuple(self.plans[i] for i in items))

    def cut(self, images: Tensor) -> Tensor:
        """(b, 3, height, width), one an item → (b, 3, size, size) float32, differentiable in `images`."""
        images = images.float()
        if len(set(self.plans)) == 1:
            return _sampled(images, torch.stack(self.grids), *self.plans[0])
        each = zip(images.split(1), self.grids, self.plans, strict=True)
        return torch.cat([_sampled(image, grid[None], *plan) for image, grid, plan in each])


def align(images: Tensor, landmarks: Tensor, size: int = ARCFACE_SIZE) -> Tensor:
    """Warp each picture so that its five landmarks fall on ArcFace's five points.

    images: (b, 3, h, w), any value range; landmarks: (b, 5, 2) in pixels of `images` (pixel centres are whole
    numbers). Returns (b, 3, size, size) float32, bilinear, differentiable in `images`. Faces larger than the crop
    are averaged over the pixels they cover, so nothing aliases. Beyond the picture its border is repeated. An
    item's result does not depend on the rest of its batch. Waits for a GPU; see `Warps`.
    """
    if images.ndim != 4 or landmarks.shape != (images.shape[0], 5, 2):
        raise ValueError(
            f"align expects images (b, 3, h, w) and landmarks (b, 5, 2), got {tuple(images.shape)} "
            f"and {tuple(landmarks.shape)}"
        )
    height, width = images.shape[2:]
    return Warps.made(landmarks.to(images.device), height, width, size).cut(images)


def align_in_photo(pixels: np.ndarray, landmarks: np.ndarray, size: int = ARCFACE_SIZE) -> Tensor:
    """`align` for one face of a photo: (1, 3, size, size) float32 in 0..255, to within a grey level.

    Only the face's surroundings are looked at, and they are averaged as bytes: a large photo as a whole would take
    seconds. pixels: (h, w, 3) uint8 RGB; landmarks: (5, 2) in pixels of it.
    """
    import cv2

    points = torch.tensor(landmarks, dtype=torch.float32)[None]
    transform = crop_to_image(points, size)[0].numpy()
    pool, _ = _sampling_plan(float(np.linalg.norm(transform[:, 0])))
    pool = min(pool, *pixels.shape[:2])
    corners = np.array([[0, 0, 1], [size, 0, 1], [0, size, 1], [size, size, 1]]) - [0.5, 0.5, 0]
    reach = corners @ transform.T
    # In blocks of `pool` pixels, counted from the photo's corner; a block more on each side for the interpolation.
    blocks = np.array(pixels.shape[1::-1]) // pool
    low = np.clip(reach.min(axis=0) // pool - 2, 0, blocks - 1).astype(int)
    high = np.clip(reach.max(axis=0) // pool + 3, low + 1, blocks).astype(int)
    (left, top), (right, bottom) = low * pool, high * pool
    window = np.ascontiguousarray(pixels[top:bottom, left:right])
    if pool > 1:
        window = cv2.resize(window, (high - low).tolist(), interpolation=cv2.INTER_AREA)
    points = (points - torch.tensor([left, top], dtype=torch.float32) + 0.5) / pool - 0.5
    return align(torch.from_numpy(window).permute(2, 0, 1)[None].float(), points, size)


def crop_to_image(
    landmarks: Tensor, size: int = ARCFACE_SIZE, points: tuple[tuple[float, float], ...] | None = None
) -> Tensor:
    """The similarity (b, 2, 3) that takes pixels of the crop to pixels of the picture (Umeyama's least squares).

    landmarks: (b, 5, 2) float. `points`: where they fall in the crop of `size` pixels; None for ArcFace's points,
    scaled to `size`. In the plane a similarity is one complex factor and one offset, so the solution
    is closed: picture = a · crop + offset, inverted from the fit crop = picture / a + ....
    """
    if points is None:
        template = (landmarks.new_tensor(ARCFACE_POINTS) + 0.5) * (size / ARCFACE_SIZE) - 0.5
    else:
        template = landmarks.new_tensor(points)
    source = landmarks - landmarks.mean(dim=1, keepdim=True)
    target = template - template.mean(dim=0)
    spread = (source**2).sum(dim=(1, 2)).clamp_min(1e-12)
    real = (source * target).sum(dim=(1, 2)) / spread
    imaginary = (source[..., 0] * target[..., 1] - source[..., 1] * target[..., 0]).sum(dim=1) / spread
    power = (real**2 + imaginary**2).clamp_min(1e-12)
    real, imaginary = real / power, -imaginary / power  # invert the complex factor
    linear = torch.stack([torch.stack([real, -imaginary], -1), torch.stack([imaginary, real], -1)], dim=1)
    offset = landmarks.mean(dim=1) - torch.einsum("bij,j->bi", linear, template.mean(dim=0))
    return torch.cat([linear, offset[..., None]], dim=2)


def _sampling_plan(scale: float) -> tuple[int, int]:
    """(pool, samples) for a crop pixel that covers scale × scale pixels of the picture."""
    pool = max(1, int(scale / 2))
    return pool, max(1, round(scale / pool))


def _grids(transform: Tensor, height: int, width: int, size: int, pool: int, samples: int) -> Tensor:
    """(b, fine, fine, 2): `samples`² points in every crop pixel, in pictures averaged over pool × pool blocks."""
    fine = size * samples
    steps = (torch.arange(fine, device=transform.device, dtype=torch.float32) + 0.5) / samples - 0.5
    y, x = torch.meshgrid(steps, steps, indexing="ij")
    points = torch.stack([x, y, torch.ones_like(x)], dim=-1)  # fine fine 3
    points = torch.einsum("bij,hwj->bhwi", transform, points)  # b fine fine 2, pixels of the picture
    points = (points + 0.5) / pool - 0.5
    extent = points.new_tensor([width // pool, height // pool])
    return (2 * points + 1) / extent - 1


def _sampled(images: Tensor, grids: Tensor, pool: int, samples: int) -> Tensor:
    """(b, 3, h, w) and (b, fine, fine, 2) → (b, 3, size, size)."""
    if pool > 1:
        images = F.avg_pool2d(images, pool)
    crops = F.grid_sample(images, grids, mode="bilinear", padding_mode="border", align_corners=False)
    return F.avg_pool2d(crops, samples) if samples > 1 else crops
