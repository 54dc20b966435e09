"""Masks of faces and objects: made from pixels, and resized, here and nowhere else."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from magicapture_core.faces import Face, FaceAnalyser

# Share of a pixel, latent or attention cell that a region must cover to own it.
THRESHOLD = 0.5
# A segmenter's foreground that covers less of the photo than this is treated as no foreground.
MIN_FOREGROUND = 0.02
# GrabCut's colour models need no more pixels than this, and its time grows with them.
_GRABCUT_SIDE = 320
# GrabCut starts from "the outer twentieth is background": products and pets are photographed in the middle.
_GRABCUT_BORDER = 0.05
# Colours that the edge is summed up in: enough for a table, a wall and what lies between.
_EDGE_COLOURS = 6
_OVERLAY_COLOUR = (255, 64, 96)
_LEARNED_COLOUR = (46, 204, 138)


@dataclass(frozen=True, eq=False)
class Masks:
    """The face of one picture and, as its complement, everything else."""

    face: Tensor
    """(1, H, W) float32 in {0, 1}, 1 in the face."""

    @property
    def nonface(self) -> Tensor:
        """(1, H, W) float32 in {0, 1}, 1 outside the face."""
        return 1 - self.face

    def at(self, height: int, width: int) -> Masks:
        """The same masks for a picture, latents or an attention map of that size. Neither region vanishes."""
        face = resize_mask(self.face, (height, width))
        if not bool((1 - face).any()) and height * width > 1 and bool(self.nonface.any()):
            # Eqs. 5 and 6 divide by the area of the rest, so a cell is left to it.
            face = 1 - resize_mask(self.nonface, (height, width))
        return Masks(face)

    def flipped(self) -> Masks:
        """The masks of the mirrored picture."""
        return Masks(self.face.flip(-1))


def resize_mask(mask: Tensor, size: tuple[int, int]) -> Tensor:
    """Binary mask at another size: (..., 1, H, W) float -> (..., 1, *size) in {0., 1.}.

    A cell belongs to the region if the region covers at least half of it. A region that was not empty never
    becomes empty: then its fullest cell is kept.
    """
    if mask.ndim < 3 or mask.shape[-3] != 1:
        raise ValueError(f"expected a mask (..., 1, H, W), got {tuple(mask.shape)}")
    flat = mask.reshape(-1, 1, *mask.shape[-2:]).float()
    share = F.interpolate(flat, size=size, mode="area").flatten(1)  # n cells
    resized = (share >= THRESHOLD).float()
    vanished = (resized.sum(dim=1) == 0) & (share.amax(dim=1) > 0)
    fullest = F.one_hot(share.argmax(dim=1), share.shape[1]).to(resized.dtype)
    resized = torch.where(vanished[:, None], fullest, resized)
    return resized.reshape(*mask.shape[:-2], *size)


def face_masks(pixels: np.ndarray, face: Face | None, analyser: FaceAnalyser) -> Masks:
    """Masks of one face in `pixels` ((h, w, 3) uint8 RGB), without hair and neck; all zero for None."""
    if face is None:
        return Masks(torch.zeros(1, *pixels.shape[:2]))
    return Masks(torch.from_numpy(analyser.face_mask(pixels, face))[None])


def object_masks(pixels: np.ndarray, analyser: FaceAnalyser) -> Masks:
    """Masks of the thing that `pixels` ((h, w, 3) uint8 RGB) shows, for subjects that are not people.

    GrabCut, started from the analyser's foreground where that saw something, and otherwise from what differs in
    colour from the picture's edge. All zero if nothing stands out.
    """
    import cv2

    height, width = pixels.shape[:2]
    scale = min(1.0, _GRABCUT_SIDE / max(height, width))
    small = cv2.resize(
        pixels, (max(8, round(width * scale)), max(8, round(height * scale))), interpolation=cv2.INTER_AREA
    )
    foreground = cv2.resize(analyser.foreground(pixels), small.shape[1::-1], interpolation=cv2.INTER_AREA)
    seed = _grabcut_seed(small, foreground)
    models = np.zeros((1, 65)), np.zeros((1, 65))
    try:
        cv2.setRNGSeed(0)  # its colour clusters start at random; the same photo must give the same mask
        cv2.grabCut(np.ascontiguousarray(small), seed, None, *models, 5, cv2.GC_INIT_WITH_MASK)
    except cv2.error:  # one colour throughout: there is nothing to tell apart
        return Masks(torch.zeros(1, height, width))
    found = np.isin(seed, (cv2.GC_FGD, cv2.GC_PR_FGD)).astype(np.float32)
    found = cv2.morphologyEx(found, cv2.MORPH_OPEN, np.ones((3, 3), np.uint8))
    if found.mean() < MIN_FOREGROUND:
        return Masks(torch.zeros(1, height, width))
    mask = cv2.resize(found, (width, height), interpolation=cv2.INTER_LINEAR) >= THRESHOLD
    return Masks(torch.from_numpy(mask.astype(np.float32))[None])


def mask_from_image(image: Image.Image | np.ndarray) -> Tensor:
    """A user's painted mask as (1, H, W) in {0., 1.}.

    Where the picture has transparent parts, what is painted is the region, in whatever colour; otherwise
    everything at least half way to white is.
    """
    image = Image.fromarray(image) if isinstance(image, np.ndarray) else image
    if image.has_transparency_data:
        alpha = np.asarray(image.convert("RGBA"))[..., 3]
        if alpha.min() < 128:
            return torch.from_numpy((alpha >= 128).astype(np.float32))[None]
    return torch.from_numpy((np.asarray(image.convert("L")) >= 128).astype(np.float32))[None]


def overlay(pixels: np.ndarray, mask: Tensor | np.ndarray) -> np.ndarray:
    """The picture with the region tinted and outlined, for people: (h, w, 3) uint8 RGB."""
    import cv2

    region = np.asarray(mask, dtype=np.float32).reshape(-1, *mask.shape[-2:])[0] >= THRESHOLD
    if region.shape != pixels.shape[:2]:
        raise ValueError(f"the mask is {region.shape} but the picture {pixels.shape[:2]} (height, width)")
    tinted = pixels.copy()
    tinted[region] = (tinted[region] * 0.6 + np.array(_OVERLAY_COLOUR) * 0.4).astype(np.uint8)
    contours, _ = cv2.findContours(region.astype(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
    thickness = max(1, round(max(pixels.shape[:2]) / 400))
    result: np.ndarray = cv2.drawContours(tinted, contours, -1, _OVERLAY_COLOUR, thickness)
    return result


def highlight(pixels: np.ndarray, mask: Tensor | np.ndarray) -> np.ndarray:
    """The picture with the region outlined and all else dark and grey, for people: (h, w, 3) uint8 RGB."""
    import cv2

    region = np.asarray(mask, dtype=np.float32).reshape(-1, *mask.shape[-2:])[0] >= THRESHOLD
    if region.shape != pixels.shape[:2]:
        raise ValueError(f"the mask is {region.shape} but the picture {pixels.shape[:2]} (height, width)")
    grey = cv2.cvtColor(np.ascontiguousarray(pixels), cv2.COLOR_RGB2GRAY)
    shown = np.where(region[..., None], pixels, (0.32 * grey[..., None] + 14).astype(np.uint8))
    contours, _ = cv2.findContours(region.astype(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
    thickness = max(1, round(max(pixels.shape[:2]) / 100))
    result: np.ndarray = cv2.drawContours(
        np.ascontiguousarray(shown), contours, -1, _LEARNED_COLOUR, thickness, cv2.LINE_AA
    )
    return result


def _grabcut_seed(pixels: np.ndarray, foreground: np.ndarray) -> np.ndarray:
    """Where GrabCut starts: the segmenter's person, or else what differs in colour from the picture's edge."""
    import cv2

    if (foreground >= THRESHOLD).mean() >= MIN_FOREGROUND:
        seed = np.where(foreground >= THRESHOLD, cv2.GC_PR_FGD, cv2.GC_PR_BGD).astype(np.uint8)
        seed[foreground < 0.02] = cv2.GC_BGD
        seed[foreground > 0.98] = cv2.GC_FGD
        return seed
    height, width = foreground.shape
    edge = max(1, round(min(height, width) * _GRABCUT_BORDER))
    rim = np.ones((height, width), bool)
    rim[edge:-edge, edge:-edge] = False
    lab = cv2.GaussianBlur(cv2.cvtColor(pixels.astype(np.float32) / 255, cv2.COLOR_RGB2LAB), (0, 0), 1.5)
    stop = (cv2.TERM_CRITERIA_EPS + cv2.TERM_CRITERIA_MAX_ITER, 20, 0.5)
    cv2.setRNGSeed(0)
    clusters = min(_EDGE_COLOURS, int(rim.sum()))
    _, _, colours = cv2.kmeans(lab[rim], clusters, None, stop, 2, cv2.KMEANS_PP_CENTERS)
    unlike = np.linalg.norm(lab[:, :, None] - colours, axis=3).min(axis=2)
    scaled = np.clip(unlike / max(float(unlike.max()), 1e-6) * 255, 0, 255).astype(np.uint8)
    _, apart = cv2.threshold(scaled, 0, 1, cv2.THRESH_BINARY + cv2.THRESH_OTSU)
    seed = np.where(apart > 0, cv2.GC_PR_FGD, cv2.GC_PR_BGD).astype(np.uint8)
    seed[rim] = cv2.GC_BGD
    return seed
