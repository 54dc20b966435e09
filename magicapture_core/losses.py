"""The paper's objectives as pure functions of tensors. Axes: b c h w as in the package's glossary.

Every loss comes back per item, (b,); the caller weighs and averages.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

TERMS = {
    "source": "Eq. 4",
    "reference": "Eq. 5",
    "composed": "Eq. 6",
    "prior": "DreamBooth",
    "identity": "Eq. 7",
    "attention": "Eq. 8",
    "colour": "colour of the face",
    "lightness": "lightness of the skin",
}
"""Names of the loss terms in reports and losses.jsonl, and the equation (or method) each belongs to."""

FLAT = 1e-3
"""Attention maps whose spread is below this share of their maximum say nothing about where a token looks."""

PredictionType = Literal["epsilon", "v_prediction"]
Scale = Literal["extremes", "region"]


def add_noise(latents: Tensor, noise: Tensor, alphas_cumprod: Tensor) -> Tensor:
    """z^(t) = sqrt(abar_t) z + sqrt(1 - abar_t) eps. latents, noise: (b,c,h,w); alphas_cumprod: (b,)."""
    abar = alphas_cumprod.view(-1, 1, 1, 1)
    return abar.sqrt() * latents + (1 - abar).sqrt() * noise


def target_of(latents: Tensor, noise: Tensor, alphas_cumprod: Tensor, prediction: PredictionType) -> Tensor:
    """What the UNet should predict: eps, or v = sqrt(abar) eps - sqrt(1 - abar) z. All (b,c,h,w)."""
    if prediction == "epsilon":
        return noise
    abar = alphas_cumprod.view(-1, 1, 1, 1)
    return abar.sqrt() * noise - (1 - abar).sqrt() * latents


def pred_original_sample(
    noisy_latents: Tensor, model_pred: Tensor, alphas_cumprod: Tensor, prediction: PredictionType
) -> Tensor:
    """Tweedie: the clean latents z0 that a prediction implies. (b,c,h,w) each; alphas_cumprod: (b,)."""
    abar = alphas_cumprod.view(-1, 1, 1, 1)
    if prediction == "epsilon":
        return (noisy_latents - (1 - abar).sqrt() * model_pred) / abar.sqrt()
    return abar.sqrt() * noisy_latents - (1 - abar).sqrt() * model_pred


def masked_reconstruction(target: Tensor, model_pred: Tensor, mask: Tensor) -> Tensor:
    """Eqs. 4 to 6: ‖target*M - model_pred*M‖², as the mean over the region.

    target, model_pred: (b,c,h,w); mask: (b,1,h,w) in [0,1], 1 in the region. Returns (b,). Unlike the
    paper's sum, divided by the mask's area, so that a small face weighs as much as a large one.
    An empty mask gives 0.
    """
    squared = (target.float() - model_pred.float()).pow(2) * mask
    area = mask.sum(dim=(1, 2, 3)) * target.shape[1]
    return squared.sum(dim=(1, 2, 3)) / area.clamp(min=1)


def identity(generated: Tensor, subject: Tensor) -> Tensor:
    """Eq. 7: 1 - cos(R(B(x0)), R(B(I_s))). Both (b, dim) face embeddings of any length. Returns (b,)."""
    return 1 - F.cosine_similarity(generated.float(), subject.float(), dim=-1)


CHROMA = ((-0.168736, -0.331264, 0.5), (0.5, -0.418688, -0.081312))
"""Cb and Cr of RGB (BT.601): colour without lightness, in which people differ more than styles."""
CHROMA_UNIT = 0.1
"""Distance in Cb and Cr that costs 1: about that between a face by day and the same in evening light."""


class FaceColour(NamedTuple):
    """The colour that the faces of a style share."""

    mean: Tensor
    """(2,) Cb and Cr."""
    variety: Tensor
    """0-d: how far their parts lie from it."""


def chroma_of(pictures: Tensor, cell: int) -> Tensor:
    """(b,3,h,w) in [-1,1] → (b,2,h/cell,w/cell): Cb and Cr in [-.5,.5], the mean of each cell of `cell`² pixels."""
    chroma = torch.stack([_constant(row, pictures) for row in CHROMA])
    return torch.einsum("kc,bchw->bkhw", chroma, F.avg_pool2d(pictures, cell) / 2)


def face_colour(chroma: Tensor, face: Tensor, wanted: FaceColour) -> Tensor:
    """Unlike the paper: how far the colour of a face lies from that of the style's faces, beyond their own variety.

    chroma: (b,2,h,w) of `chroma_of`; face: (b,1,h,w) in {0,1}. Returns (b,): the mean over the face's cells of
    (max(0, distance - variety) / CHROMA_UNIT)².
    """
    mean, variety = (part.to(chroma) for part in wanted)
    distance = torch.linalg.vector_norm(chroma - mean.view(1, 2, 1, 1), dim=1, keepdim=True)
    beyond = ((distance - variety).clamp(min=0) / CHROMA_UNIT).square() * face
    return beyond.sum(dim=(1, 2, 3)) / face.sum(dim=(1, 2, 3)).clamp(min=1)


LIGHTNESS = (0.299, 0.587, 0.114)
"""Y of RGB (BT.601)."""
LIGHTNESS_UNIT = 0.1
"""Difference in Y that costs 1."""
LIGHTNESS_TOLERANCE = 0.05
"""Differences in Y that one lamp makes; they cost nothing."""


def face_lightness(pictures: Tensor, face: Tensor) -> Tensor:
    """Mean Y in [0,1] of a face. pictures: (b,3,h,w) in [-1,1]; face: (b,1,H,W) in {0,1}, cells of it. Returns (b,)."""
    height, width = face.shape[-2:]
    cells = F.adaptive_avg_pool2d(pictures, (height, width)) / 2 + 0.5
    light = torch.einsum("c,bchw->bhw", _constant(LIGHTNESS, cells), cells)
    return (light * face[:, 0]).sum(dim=(1, 2)) / face.sum(dim=(1, 2, 3)).clamp(min=1)


def skin_lightness(lightness: Tensor, wanted: Tensor) -> Tensor:
    """Unlike the paper: how far a face's lightness (b,) is from the wanted one (0-d), beyond LIGHTNESS_TOLERANCE.

    Returns (b,), in squares of LIGHTNESS_UNIT.
    """
    return (
        ((lightness - wanted.to(lightness)).abs() - LIGHTNESS_TOLERANCE).clamp(min=0) / LIGHTNESS_UNIT
    ).square()


def _constant(values: tuple[float, ...], like: Tensor) -> Tensor:
    """(n,) of these values. Filled in on the device: a copy from the CPU would wait for it."""
    return torch.stack([like.new_full((), value) for value in values])


def scale_to_unit(maps: Tensor) -> Tensor:
    """S of Eq. 8: each map to [0,1] by its own minimum and maximum. (…,h,w) → same.

    To the gradient, minimum and maximum are constants.

    Scale-free: a fixed floor under the spread would let training meet Eq. 8 by shrinking a token's
    attention everywhere, and with it everything that the token has learned. A map that varies by less than
    a thousandth of its height counts as flat, or rounding noise would get a gradient without bounds.
    """
    maps = maps.float()
    ends = maps.detach()
    low, high = ends.amin(dim=(-2, -1), keepdim=True), ends.amax(dim=(-2, -1), keepdim=True)
    floor = (FLAT * high.abs()).clamp(min=torch.finfo(maps.dtype).tiny)
    return (maps - low) / torch.maximum(high - low, floor)


def scale_to_region(maps: Tensor, mask: Tensor) -> Tensor:
    """Each map a (b,heads,H,W) to [0,1] as a / (a + its mean where mask (b,1,H,W) is 1): ½ is as much as there.

    Unlike the paper's S, the gradient goes through what a map is measured by: more attention within the region is
    progress, and less of it everywhere is none.
    """
    area = mask.sum(dim=(-2, -1), keepdim=True).clamp(min=1)
    within = (maps * mask).sum(dim=(-2, -1), keepdim=True) / area
    return maps / (maps + within).clamp(min=torch.finfo(maps.dtype).tiny)


def refocused_map(maps: Tensor, mask: Tensor, scale: Scale = "extremes") -> Tensor:
    """S(A_k): one token's maps (b,heads,h,w), resized to the grid of mask (b,1,H,W), scaled per head, averaged.

    scale: by a map's own extremes, or by its mean within the region. Returns (b,1,H,W) in [0,1].
    """
    resized = F.interpolate(maps.float(), size=mask.shape[-2:], mode="bilinear", align_corners=False)
    scaled = scale_to_unit(resized) if scale == "extremes" else scale_to_region(resized, mask)
    return scaled.mean(dim=1, keepdim=True)


def attention_refocusing(maps: Tensor, mask: Tensor, scale: Scale = "extremes") -> Tensor:
    """Eq. 8 for one token: ‖S(A_k) - M‖², taken only where M = 0.

    maps: (b,heads,h,w) attention probabilities of the token, the heads of all layers together; mask: (b,1,H,W) in
    {0,1}, the token's region; scale: what S measures a map by, as for `refocused_map`. Returns (b,): the mean over
    all cells of the grid, of which those in the region count as 0. So a token whose outside is small, as [V2]'s is
    the face alone, weighs little.
    """
    outside = (mask == 0).to(torch.float32)
    return (refocused_map(maps, mask, scale).pow(2) * outside).mean(dim=(1, 2, 3))


def attention_outside(maps: Tensor, mask: Tensor) -> Tensor:
    """Share of a token's attention that falls outside its region (0 = all inside). Shapes as Eq. 8's."""
    mean = F.interpolate(maps.float().mean(1, keepdim=True), size=mask.shape[-2:], mode="bilinear")
    outside = (mean * (mask == 0)).sum(dim=(1, 2, 3))
    return outside / mean.sum(dim=(1, 2, 3)).clamp(min=torch.finfo(torch.float32).tiny)
