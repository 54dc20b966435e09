"""The aligned crop B of Eq. 7: a similarity warp to the five points of ArcFace, differentiable in the picture."""

from __future__ import annotations

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


def align(images: Tensor, landmarks: Tensor, size: int = ARCFACE_SIZE) -> Tensor:
    """Warp each picture so that its five landmarks fall on ArcFace's five points.

    images: (b, 3, h, w), any value range; landmarks: (b, 5, 2) in pixels of `images` (pixel centres are whole
    numbers). Returns (b, 3, size, size) float32, bilinear, differentiable in `images`. Faces larger than the crop
    are averaged over the pixels they cover, so nothing aliases. Beyond the picture its border is repeated. An
    item's result does not depend on the rest of its batch.
    """
    if images.ndim != 4 or landmarks.shape != (images.shape[0], 5, 2):
        raise ValueError(
            f"align expects images (b, 3, h, w) and landmarks (b, 5, 2), got {tuple(images.shape)} "
            f"and {tuple(landmarks.shape)}"
        )
    images = images.float()
    transform = crop_to_image(landmarks.to(images.device, torch.float32), size)  # b 2 3
    plans = [_sampling_plan(scale) for scale in torch.linalg.vector_norm(transform[:, :, 0], dim=1).tolist()]
    crops: list[Tensor] = [images.new_empty(0)] * len(plans)
    for plan in set(plans):
        items = [i for i, other in enumerate(plans) if other == plan]
        for i, crop in zip(items, _warp(images[items], transform[items], size, *plan), strict=True):
            crops[i] = crop
    return torch.stack(crops)


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


def _warp(images: Tensor, transform: Tensor, size: int, pool: int, samples: int) -> Tensor:
    """Sample `samples`² points in every crop pixel of a picture that was averaged over pool × pool blocks."""
    pool = min(pool, images.shape[2], images.shape[3])
    if pool > 1:
        images = F.avg_pool2d(images, pool)
    fine = size * samples
    steps = (torch.arange(fine, device=images.device, dtype=torch.float32) + 0.5) / samples - 0.5
    y, x = torch.meshgrid(steps, steps, indexing="ij")
    points = torch.stack([x, y, torch.ones_like(x)], dim=-1)  # fine fine 3
    points = torch.einsum("bij,hwj->bhwi", transform, points)  # b fine fine 2, pixels of the picture
    points = (points + 0.5) / pool - 0.5
    extent = points.new_tensor([images.shape[3], images.shape[2]])
    grid = (2 * points + 1) / extent - 1
    crops = F.grid_sample(images, grid, mode="bilinear", padding_mode="border", align_corners=False)
    return F.avg_pool2d(crops, samples) if samples > 1 else crops
