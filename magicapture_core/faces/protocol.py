"""What a face is, and what a variant of face analysis must offer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True, eq=False)
class Face:
    """One face in one photo. All coordinates are pixels of that photo, x to the right, y down."""

    box: tuple[float, float, float, float]
    """xyxy around the face, from the brow or hairline to the chin. May reach beyond the photo."""
    landmarks: np.ndarray
    """(5, 2) float32: eye on the picture's left, eye on its right, nose tip, mouth corner on the left,
    mouth corner on the right."""
    score: float
    """How sure the detector is, 0..1."""
    outline: np.ndarray | None = None
    """(n, 2) float32 polygon of the face without hair and neck, where the variant has one."""
    pose: tuple[float, float, float] | None = None
    """Yaw, pitch, roll in degrees: positive when the face turns to the picture's right, looks up, and leans
    clockwise as seen in the picture."""
    expressions: Mapping[str, float] = field(default_factory=dict)
    """Blendshapes 0..1 by MediaPipe's names ("eyeBlinkLeft", "jawOpen", ...; left and right are the person's), and
    "eyeOpennessLeft/Right", the distance of the lids over the eye's width; {} where the variant has none."""

    @property
    def width(self) -> float:
        """Width of the box in pixels."""
        return self.box[2] - self.box[0]

    @property
    def height(self) -> float:
        """Height of the box in pixels."""
        return self.box[3] - self.box[1]

    @property
    def size(self) -> float:
        """Geometric mean of the box's sides in pixels: what "how large is the face" means here."""
        return float(max(self.width, 0.0) * max(self.height, 0.0)) ** 0.5

    def scaled(self, factor: float) -> Face:
        """The face where the picture is enlarged by `factor` (or reduced, below 1)."""
        left, top, right, bottom = (value * factor for value in self.box)

        def moved(points: np.ndarray) -> np.ndarray:
            return ((points + 0.5) * factor - 0.5).astype(np.float32)

        outline = None if self.outline is None else moved(self.outline)
        return replace(self, box=(left, top, right, bottom), landmarks=moved(self.landmarks), outline=outline)


class FaceEmbedder(nn.Module):
    """A frozen face recognition network: differentiable in its input, never trained.

    forward: aligned faces (b, 3, size, size), RGB in [0, 1] -> (b, dim) float32 of unit norm.
    """

    name: str
    size: int = 112
    dim: int

    def forward(self, aligned: Tensor) -> Tensor:
        return F.normalize(self.features(aligned), dim=1)

    def features(self, aligned: Tensor) -> Tensor:
        """Aligned faces (b, 3, size, size), RGB in [0, 1] -> (b, dim) float32, the embedding before its normalisation.

        Its length tells how well a face can be recognised: it is lower for blurred, covered and turned faces.
        """
        raise NotImplementedError

    def check_input(self, aligned: Tensor) -> None:
        """Raise ValueError unless `aligned` is (b, 3, size, size)."""
        if aligned.ndim != 4 or tuple(aligned.shape[1:]) != (3, self.size, self.size):
            raise ValueError(
                f"{self.name} expects aligned faces (b, 3, {self.size}, {self.size}), got {tuple(aligned.shape)}"
            )


class FaceAnalyser(Protocol):
    """Detector, parser and recogniser of one variant. Every method may be called from any thread."""

    name: str
    """ "bundled" or "facexlib"."""
    description: str
    """One sentence for the user: which detector, parser and recogniser."""

    def detect(self, pixels: np.ndarray, *, small: bool = True) -> list[Face]:
        """Faces in `pixels` ((h, w, 3) uint8 RGB), the largest first.

        small: also look for faces of less than about a twentieth of the longer side, which takes several times as long
        where there is no face. A variant may look for them in any case. ValueError for other shapes or types.
        """
        ...

    def face_mask(self, pixels: np.ndarray, face: Face) -> np.ndarray:
        """(h, w) float32 in {0, 1}: the face without hair and neck."""
        ...

    def foreground(self, pixels: np.ndarray) -> np.ndarray:
        """(h, w) float32 in 0..1: how much each pixel belongs to a person."""
        ...

    def embedder(self, device: torch.device | str = "cpu") -> FaceEmbedder:
        """The recognition network on `device`, built at the first call and kept."""
        ...


def check_pixels(pixels: np.ndarray) -> None:
    """Raise ValueError unless `pixels` is (h, w, 3) uint8."""
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3 or 0 in pixels.shape:
        raise ValueError(
            f"expected a picture as (h, w, 3) uint8 RGB, got shape {pixels.shape} of {pixels.dtype}; "
            "read photos with read_photo"
        )
