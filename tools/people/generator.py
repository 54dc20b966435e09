"""Photos of adults who do not exist, from the MobileStyleGAN in PyPI random-face (1024 px).

`style` feeds many places of the synthesis network; each gets its own input here, so that one person's identity can be
mixed with another draw's pose, hair, light and background.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from tools.people.openvino_ir import Graph

POSE = slice(0, 2)
"""Places that decide pose, hair and head shape (coarse layers)."""
IDENTITY = slice(2, 9)
"""Places that decide who it is (middle layers)."""
FINE = slice(9, None)
"""Places that decide light, colour, background and clothes' colour (fine layers)."""


class FaceGenerator:
    """z -> w -> picture, in batches. Deterministic: a seed is a picture, but for the rounding of the device."""

    def __init__(
        self, folder: Path, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
    ) -> None:
        """`folder` holds MappingNetwork.xml and SynthesisNetwork.xml with their .bin files.

        dtype: of the synthesis; styles are float32 always.
        """
        self.device, self.dtype = torch.device(device), dtype
        self._mapping = Graph(folder / "MappingNetwork.xml", device)
        self._synthesis = Graph(folder / "SynthesisNetwork.xml", device, dtype)
        # in the order of the layers, which their numbers tell
        self._readers = sorted(self._synthesis.readers(), key=lambda name: int(re.findall(r"\d+", name)[0]))
        self.places: int = len(self._readers)
        self.mean: Tensor = self._map(np.random.default_rng(0).standard_normal((2048, 512))).mean(0)  # (512,)

    def _map(self, draws: np.ndarray) -> Tensor:
        """(b, 512) -> (b, 512)."""
        return self._mapping(torch.from_numpy(draws.astype(np.float32)).to(self.device))

    def style(self, seeds: int | Sequence[int], psi: float | Sequence[float]) -> Tensor:
        """The styles (b, 512) of seeds, pulled toward the mean face: psi 0 is the mean, 1 the draw itself."""
        draws = [np.random.default_rng(int(seed)).standard_normal(512) for seed in np.atleast_1d(seeds)]
        pulled = torch.from_numpy(np.atleast_1d(psi).astype(np.float32)).to(self.device)[:, None]
        return self.mean + pulled * (self._map(np.stack(draws)) - self.mean)

    def everywhere(self, style: Tensor) -> Tensor:
        """(b, 512) -> (b, places, 512), the same in all places; a copy, to be changed."""
        return style[:, None].repeat(1, self.places, 1)

    def pictures(self, styles: Tensor) -> Tensor:
        """(b, places, 512) -> (b, 3, 1024, 1024) in [-1, 1]."""
        styles = styles.to(self.device, self.dtype)
        return self._synthesis(
            styles[:, 0], {name: styles[:, place] for place, name in enumerate(self._readers)}
        ).clamp(-1, 1)

    def picture(self, styles: Tensor) -> np.ndarray:
        """Styles (1, places, 512) -> (1024, 1024, 3) uint8 RGB."""
        if len(styles) != 1:
            raise ValueError(f"expected the styles of one picture, got {len(styles)}")
        return to_bytes(self.pictures(styles))[0]


def to_bytes(pictures: Tensor) -> np.ndarray:
    """(b, 3, h, w) in [-1, 1] -> (b, h, w, 3) uint8 RGB."""
    return ((pictures.float() + 1) * 127.5).round().byte().permute(0, 2, 3, 1).cpu().numpy()
