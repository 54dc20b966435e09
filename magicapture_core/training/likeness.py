"""What Eq. 7 compares: face recognition for a person, image features for an object."""

from __future__ import annotations

from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from magicapture_core.concepts import Concept
from magicapture_core.faces import FaceAnalyser, Warps
from magicapture_core.models import ModelBundle


class Likeness(Protocol):
    """R(B(x)) of Eq. 7, differentiable in the picture."""

    name: str

    def warps(self, landmarks: Tensor, height: int, width: int) -> Warps | None:
        """Where it looks in pictures of that size, made once: landmarks (b,5,2) pixels. None: at all of them."""
        ...

    def __call__(self, pictures: Tensor, warps: Warps | None) -> Tensor:
        """pictures (b,3,h,w) in [-1,1], `warps` of theirs → (b, dim) of unit length."""
        ...


class FaceLikeness:
    """Face recognition on an aligned crop; the reference photo's landmarks are reused (x0 keeps its pose)."""

    def __init__(self, analyser: FaceAnalyser, device: torch.device) -> None:
        self.embedder = analyser.embedder(device)
        self.name = self.embedder.name
        self.device = device

    def warps(self, landmarks: Tensor, height: int, width: int) -> Warps:
        """See `Likeness.warps`."""
        return Warps.made(landmarks.to(self.device), height, width, size=self.embedder.size)

    def __call__(self, pictures: Tensor, warps: Warps | None) -> Tensor:
        assert warps is not None
        pictures = pictures.float() / 2 + 0.5  # not clamped: a clamp would stop the gradient
        with torch.autocast(pictures.device.type, enabled=False):  # embeddings are compared in fp32
            return self.embedder(warps.cut(pictures))


class FeatureLikeness:
    """Unlike the paper, for objects: features of the model's own VAE encoder, pooled over the picture.

    Mean and spread of the deepest features: always at hand, in any domain that the model can draw.
    """

    name = "vae-features"

    def __init__(self, models: ModelBundle) -> None:
        self.vae = models.vae

    def warps(self, landmarks: Tensor, height: int, width: int) -> None:  # noqa: ARG002
        """See `Likeness.warps`."""
        return

    def __call__(self, pictures: Tensor, warps: Warps | None) -> Tensor:  # noqa: ARG002
        features = self.vae.encoder(pictures.to(self.vae.dtype)).float()  # b c h w
        pooled = torch.cat([features.mean((2, 3)), features.std((2, 3))], dim=1)
        return F.normalize(pooled, dim=1)


@torch.no_grad()
def features_of(concept: Concept, likeness: Likeness, device: torch.device) -> Tensor:
    """R(B(I_s)) of every subject photo that has one. Returns (n, dim) of unit length, n may be 0."""
    vectors = []
    for example in concept.examples:
        landmarks = example.landmarks
        if landmarks is None:
            if concept.kind == "person":
                continue
            landmarks = torch.zeros(5, 2)
        picture = example.image if concept.kind == "person" else example.image * example.masks.face
        warps = likeness.warps(landmarks[None], *picture.shape[-2:])
        vectors.append(likeness(picture[None].to(device), warps))
    return torch.cat(vectors) if vectors else torch.zeros(0, 1, device=device)
