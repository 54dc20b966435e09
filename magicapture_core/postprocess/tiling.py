"""Super-resolution in tiles: pictures of any size, without visible seams, with limited memory."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

from magicapture_core.languages import _
from magicapture_core.postprocess.networks import UpscalerNetwork
from magicapture_core.progress import Progress

# Networks with pixel unshuffling need even sides, and convolutions need neighbouring pixels.
_MULTIPLE, _SMALLEST = 4, 16
# Pixels of the picture, on both sides of a cut, in which neighbouring tiles are blended.
_FADE = 4


def enlarge(
    pixels: np.ndarray, network: UpscalerNetwork, *, tile: int, margin: int, progress: Progress | None = None
) -> np.ndarray:
    """(h, w, 3) uint8 RGB -> (h·scale, w·scale, 3) uint8 RGB.

    Every tile of `tile` × `tile` pixels is computed with `margin` pixels around it, and neighbours are blended at the
    cut. The result is the same as for the whole picture, if the network's receptive field is not larger than the
    margin. Memory: the result, and one row of tiles in float.
    """
    height, width = pixels.shape[:2]
    padded = _padded(pixels)
    full_height, full_width = padded.shape[:2]
    scale, fade = network.scale, _FADE
    result = np.empty((full_height * scale, full_width * scale, 3), np.uint8)
    rows, columns = list(_spans(full_height, tile)), list(_spans(full_width, tile))
    pending: np.ndarray | None = None  # the lower edge of the last band, which is blended with the next band
    for number, (top, bottom) in enumerate(rows):
        y0, y1 = max(top - fade, 0), min(bottom + fade, full_height)
        band = np.zeros(((y1 - y0) * scale, full_width * scale, 3), np.float32)
        for column, (left, right) in enumerate(columns):
            x0, x1 = max(left - fade, 0), min(right + fade, full_width)
            piece = _piece(padded, network, (x0, y0, x1, y1), margin - fade)
            weights = _ramp(x1 - x0, left - x0 and 2 * fade, x1 - right and 2 * fade, scale)
            band[:, x0 * scale : x1 * scale] += piece * weights[None, :, None]
            if progress is not None:
                progress(_("Super-resolution"), number * len(columns) + column + 1, len(rows) * len(columns))
        if pending is not None:
            overlap = len(pending)
            weights = _ramp(y1 - y0, 2 * fade, 0, scale)[:overlap, None, None]
            band[:overlap] = pending * (1 - weights) + band[:overlap] * weights
        keep = len(band) if bottom == full_height else len(band) - 2 * fade * scale
        result[y0 * scale : y0 * scale + keep] = _bytes(band[:keep])
        pending = band[keep:]
    return result[: height * scale, : width * scale]


def _piece(
    pixels: np.ndarray, network: UpscalerNetwork, box: tuple[int, int, int, int], margin: int
) -> np.ndarray:
    """The enlarged box (xyxy), computed with `margin` pixels around it: (h, w, 3) float32 in 0..255."""
    x0, y0, x1, y1 = box
    left, top = max(x0 - margin, 0), max(y0 - margin, 0)
    view = pixels[top : y1 + margin, left : x1 + margin]
    tensor = torch.from_numpy(np.ascontiguousarray(view)).permute(2, 0, 1)[None]  # 1 3 h w
    with torch.inference_mode():
        out = network.enlarge(tensor.to(network.device, network.dtype) / 255)[0]
    scale = network.scale
    out = out[:, (y0 - top) * scale : (y1 - top) * scale, (x0 - left) * scale : (x1 - left) * scale]
    large: np.ndarray = (out.float() * 255).permute(1, 2, 0).cpu().numpy()
    return large


def _spans(length: int, tile: int) -> Iterator[tuple[int, int]]:
    """Splits `length` into pieces of similar length, at most `tile`, at multiples of _MULTIPLE."""
    count = -(-length // tile)
    size = -(-length // (count * _MULTIPLE)) * _MULTIPLE
    for start in range(0, length, size):
        yield start, min(start + size, length)


def _ramp(length: int, rising: int, falling: int, scale: int) -> np.ndarray:
    """(length·scale,) weights: from 0 to 1 over the first `rising` pixels, back over the last `falling`."""
    weights = np.ones(length * scale, np.float32)
    up = (np.arange(rising * scale, dtype=np.float32) + 0.5) / max(rising * scale, 1)
    weights[: len(up)] = up
    down = (np.arange(falling * scale, dtype=np.float32) + 0.5)[::-1] / max(falling * scale, 1)
    weights[len(weights) - len(down) :] = np.minimum(weights[len(weights) - len(down) :], down)
    return weights


def _padded(pixels: np.ndarray) -> np.ndarray:
    """The picture with its edge repeated to the right and below, up to sides that the networks accept."""
    sides = (max(_SMALLEST, -(-side // _MULTIPLE) * _MULTIPLE) for side in pixels.shape[:2])
    extra = [(0, side - have) for side, have in zip(sides, pixels.shape[:2], strict=True)]
    return np.pad(pixels, (*extra, (0, 0)), mode="edge")


def _bytes(values: np.ndarray) -> np.ndarray:
    rounded: np.ndarray = np.clip(values + 0.5, 0, 255).astype(np.uint8)
    return rounded


def resize(pixels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """(h, w, 3) uint8 to `size` = (width, height), with the Lanczos filter, which averages when it makes smaller."""
    from PIL import Image

    if (pixels.shape[1], pixels.shape[0]) == size:
        return pixels
    return np.array(Image.fromarray(pixels).resize(size, Image.Resampling.LANCZOS))
