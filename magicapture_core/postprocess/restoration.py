"""Face restoration: each face is restored and blended back, with a limit on the loss of identity score."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from magicapture_core.faces import Face, FaceAnalyser, embed_face
from magicapture_core.faces.align import crop_to_image
from magicapture_core.faces.facexlib_variant import FFHQ_POINTS, FFHQ_SIZE
from magicapture_core.postprocess.networks import RestorerNetwork

# Smaller faces have too few pixels for an identity; restoration would show another person.
MIN_FACE = 24.0
# Softness of the pasted region's edge, and how far from the crop's own edge it must have ended, in its 512 pixels.
FEATHER, BORDER = 9.0, 24
# Strengths tried from the wanted one down, as shares of it; 0 always keeps the likeness.
STEPS = tuple(step / 10 for step in range(10, -1, -1))


@dataclass(frozen=True)
class RestoredFace:
    """What happened to one face."""

    box: tuple[float, float, float, float]
    """xyxy in pixels of the picture that was restored."""
    score_before: float
    """Identity score before restoration: cosine to the subject where that is known, else 1."""
    score_after: float
    """The same after it, as blended."""
    score_full: float
    """The same with restoration at its full wanted strength."""
    strength: float
    """Share of the restored face that was blended in."""
    wanted: float
    """The share that was asked for."""

    @property
    def guarded(self) -> bool:
        """Whether restoration was weakened to keep the likeness."""
        return self.strength < self.wanted


def restore_faces(
    pixels: np.ndarray,
    network: RestorerNetwork,
    analyser: FaceAnalyser,
    *,
    fidelity: float,
    strength: float,
    identity_budget: float,
    identity: np.ndarray | None = None,
) -> tuple[np.ndarray, list[RestoredFace]]:
    """Restore every face of `pixels` ((h, w, 3) uint8 RGB) that is large enough. Returns the picture and the faces.

    identity: (dim,) unit embedding of the subject by `analyser`'s embedder, None where unknown: then each face is
    compared with itself before restoration. The guard: of the strengths from the wanted one down, the first
    is used whose score is at most `identity_budget` below the score before. With several faces only the largest is
    the subject.
    """
    restored: list[RestoredFace] = []
    faces = [face for face in analyser.detect(pixels) if face.size >= MIN_FACE]
    for number, face in enumerate(faces):
        before = embed_face(analyser, pixels, face)
        reference = identity if identity is not None and number == 0 else before
        patch = _patch(pixels, face, network, analyser, fidelity)
        score_before = float(before @ reference)
        scores: dict[float, float] = {}
        for step in STEPS:
            blended = patch.blend(pixels, strength * step)
            scores[step] = float(embed_face(analyser, blended, face) @ reference) if step else score_before
            if score_before - scores[step] <= identity_budget:
                break
        pixels = blended
        restored.append(
            RestoredFace(face.box, score_before, scores[step], scores[STEPS[0]], strength * step, strength)
        )
    return pixels, restored


@dataclass(frozen=True)
class _Patch:
    """A restored face where it belongs in the picture."""

    left: int
    top: int
    colours: np.ndarray
    """(h, w, 3) float32, 0..255."""
    mask: np.ndarray
    """(h, w, 1) float32 in 0..1."""

    def blend(self, pixels: np.ndarray, strength: float) -> np.ndarray:
        """A copy of the picture with the patch laid over it at `strength`."""
        result = pixels.copy()
        height, width = self.mask.shape[:2]
        under = result[self.top : self.top + height, self.left : self.left + width]
        share = self.mask * strength
        under[:] = np.clip(under * (1 - share) + self.colours * share + 0.5, 0, 255).astype(np.uint8)
        return result


def _patch(
    pixels: np.ndarray, face: Face, network: RestorerNetwork, analyser: FaceAnalyser, fidelity: float
) -> _Patch:
    """Align, restore, and warp back into the smallest box that holds all of it."""
    to_picture = crop_to_image(torch.tensor(face.landmarks)[None], FFHQ_SIZE, FFHQ_POINTS)[0].numpy()
    crop = aligned(pixels, to_picture)
    tensor = torch.from_numpy(crop).permute(2, 0, 1)[None].float() / 255
    restored = network.restore(tensor.to(network.device), fidelity)[0].float().cpu()
    face_mask = _warp(analyser.face_mask(pixels, face), to_picture, (FFHQ_SIZE, FFHQ_SIZE), inverse=True)
    mask = soft_mask(face_mask)
    box = _box(to_picture, pixels.shape)
    left, top, right, bottom = box
    local = to_picture.copy()
    local[:, 2] -= (left, top)
    size = right - left, bottom - top
    colours = _warp((restored.permute(1, 2, 0) * 255).numpy(), local, size, inverse=False)
    return _Patch(left, top, colours, _warp(mask, local, size, inverse=False)[..., None])


def aligned(pixels: np.ndarray, to_picture: np.ndarray) -> np.ndarray:
    """(512, 512, 3) uint8: the face as FFHQ aligns it (facexlib's template). to_picture: (2, 3), crop to picture."""
    crop: np.ndarray = _warp(pixels, to_picture, (FFHQ_SIZE, FFHQ_SIZE), inverse=True)
    return crop


def soft_mask(face_mask: np.ndarray) -> np.ndarray:
    """(512, 512) float32 in 0..1 from a hard one: feathered inwards, 0 outside of it and at the crop's edge."""
    import cv2

    border = np.zeros_like(face_mask, dtype=np.float32)
    border[BORDER:-BORDER, BORDER:-BORDER] = 1
    shrunk = cv2.erode(face_mask.astype(np.float32) * border, np.ones((3, 3)), iterations=round(2 * FEATHER))
    soft: np.ndarray = cv2.GaussianBlur(shrunk, (0, 0), FEATHER)
    return np.clip(
        (soft - 0.025) / 0.975, 0, 1
    )  # two sigma out, where the hard mask ends, a blur leaves 0.023


def _warp(values: np.ndarray, to_picture: np.ndarray, size: tuple[int, int], *, inverse: bool) -> np.ndarray:
    """`values` through the similarity crop → picture, or (inverse) the other way, to `size` = (width, height).

    What shrinks is blurred first, as bilinear sampling alone would pick single pixels out.
    """
    import cv2

    grow = float(np.linalg.norm(to_picture[:, 0]))
    shrink = grow if inverse else 1 / max(grow, 1e-6)
    if shrink > 1.2:
        values = cv2.GaussianBlur(values, (0, 0), 0.4 * shrink)
    flags = cv2.INTER_LINEAR if shrink > 1 else cv2.INTER_CUBIC
    if values.ndim == 2:
        flags = cv2.INTER_LINEAR  # cubic sampling overshoots, which a mask must not
    flags |= cv2.WARP_INVERSE_MAP if inverse else 0
    warped: np.ndarray = cv2.warpAffine(
        values,
        to_picture,
        size,
        flags=flags,
        borderMode=cv2.BORDER_REPLICATE if inverse else cv2.BORDER_CONSTANT,
    )
    return warped


def _box(to_picture: np.ndarray, shape: tuple[int, ...]) -> tuple[int, int, int, int]:
    """xyxy of the crop in the picture, cut to it."""
    corners = np.array([[0, 0, 1], [511, 0, 1], [0, 511, 1], [511, 511, 1]]) @ to_picture.T
    low, high = np.floor(corners.min(axis=0)), np.ceil(corners.max(axis=0)) + 1
    left, top = (int(v) for v in np.clip(low, 0, [shape[1] - 1, shape[0] - 1]))
    right, bottom = (int(v) for v in np.clip(high, [left + 1, top + 1], [shape[1], shape[0]]))
    return left, top, right, bottom
