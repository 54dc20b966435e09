"""How different two pictures look to networks that see: MobileNetV2's features, and a face recognition."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from magicapture_core.faces import FaceEmbedder, align

TAPS = (1, 3, 6, 10, 13)
"""Blocks of MobileNetV2 whose outputs are compared: from 2 to 16 pixels a place."""
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""What ImageNet's networks expect."""


class Perceptual(nn.Module):
    """Squared distance of MobileNetV2's features, each place made a unit vector; summed over five depths."""

    def __init__(self, weights: Path) -> None:
        """weights: torchvision's mobilenet_v2, a .pth file."""
        from torchvision.models import mobilenet_v2

        super().__init__()
        network = mobilenet_v2()
        network.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True))
        self.layers = network.features[: TAPS[-1] + 1].eval().requires_grad_(False)
        self.register_buffer("mean", torch.tensor(MEAN)[:, None, None])
        self.register_buffer("std", torch.tensor(STD)[:, None, None])

    def features(self, pixels: Tensor) -> list[Tensor]:
        """Of pixels (b, 3, h, w) in [-1, 1]; each (b, c, h', w')."""
        x, found = ((pixels + 1) / 2 - self.mean) / self.std, []
        for number, layer in enumerate(self.layers):
            x = layer(x)
            if number in TAPS:
                found.append(F.normalize(x.float(), dim=1, eps=1e-4))
        return found

    def forward(self, made: Tensor, wanted: Tensor) -> Tensor:
        """A scalar; gradients flow into `made` only."""
        with torch.no_grad():
            goals = self.features(wanted)
        pairs = zip(self.features(made), goals, strict=True)
        return torch.stack([(a - b).square().sum(dim=1).mean() for a, b in pairs]).sum()


def likeness_loss(embedder: FaceEmbedder, made: Tensor, wanted: Tensor, landmarks: Tensor) -> Tensor:
    """1 - cosine of the face embeddings of pixels (b, 3, h, w) in [-1, 1]; landmarks (b, 5, 2) of both."""
    ours = embedder(align((made.float() + 1) / 2, landmarks, embedder.size))
    with torch.no_grad():
        theirs = embedder(align((wanted.float() + 1) / 2, landmarks, embedder.size))
    return (1 - (ours * theirs).sum(dim=1)).mean()
