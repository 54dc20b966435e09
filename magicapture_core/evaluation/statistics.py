"""A style encoder that comes with the project: statistics of colour, light, layout and texture outside the face.

Unlike CLIP it measures appearance and not content. The mini benchmark's styles differ in appearance
(background, light, colour, finish), and its data sheet says how well it tells them apart.
"""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import torch

from magicapture_core.evaluation.benchmark import MINI, load_benchmark
from magicapture_core.evaluation.metrics import unit
from magicapture_core.models import load
from magicapture_core.photos import read_photo

SIDE = 128
"""Pixels at which everything is measured, so that large and small pictures compare."""
GRID = 4
"""Layout: mean colours of 4×4 cells."""


class StyleStatistics:
    """Lab colours, their spread and layout, and channel means and spreads of the mini model's VAE encoder.

    Each number is standardised by its mean and spread over the mini benchmark's style photos, whichever benchmark is
    run: so the measure is the same everywhere. The four groups then weigh the same.
    """

    def __init__(self) -> None:
        self._vae = load("mini", device="cpu", dtype=torch.float32).vae
        self.name = f"statistics-{_fingerprint(self._vae)}"
        self.note = (
            "colour, light, layout and VAE-feature statistics outside the face, made for the mini benchmark "
            "(evaluation/statistics.py). No CLIP: these numbers cannot be compared with the paper's."
        )
        self._mean, self._spread = self._standard()

    def embed(self, pixels: np.ndarray, keep: np.ndarray | None = None) -> np.ndarray:
        """See ImageEncoder."""
        groups = [
            unit((values - mean) / spread)
            for values, mean, spread in zip(
                self._measure(pixels, keep), self._mean, self._spread, strict=True
            )
        ]
        return unit(np.concatenate(groups))

    def _standard(self) -> tuple[list[np.ndarray], list[np.ndarray]]:
        from magicapture_core.faces import choose_analyser

        analyser = choose_analyser("bundled")[0]
        measured = []
        for paths in load_benchmark(MINI).styles.values():
            for path in paths:
                pixels = read_photo(path).pixels
                keep = np.ones(pixels.shape[:2], bool)
                for face in analyser.detect(pixels):
                    keep &= analyser.face_mask(pixels, face) < 0.5
                measured.append(self._measure(pixels, keep))
        groups = [np.stack(group) for group in zip(*measured, strict=True)]
        return [group.mean(0) for group in groups], [group.std(0) + 1e-4 for group in groups]

    def _measure(self, pixels: np.ndarray, keep: np.ndarray | None) -> tuple[np.ndarray, ...]:
        import cv2

        if keep is not None and keep.any():  # before it is made smaller, or the face's edge would show
            pixels = np.where(keep[..., None], pixels, pixels[keep].mean(0).astype(np.uint8))
        small = cv2.resize(pixels, (SIDE, SIDE), interpolation=cv2.INTER_AREA)
        inside = np.ones((SIDE, SIDE), bool)
        if keep is not None:
            inside = (
                cv2.resize(keep.astype(np.uint8) * 255, (SIDE, SIDE), interpolation=cv2.INTER_AREA) >= 128
            )
            inside = inside if inside.any() else np.ones_like(inside)
        lab = cv2.cvtColor(small.astype(np.float32) / 255, cv2.COLOR_RGB2LAB)
        colours, layout = _colours(lab, inside)
        means, spreads = self._features(small, inside)
        return colours, layout, means, spreads

    @torch.no_grad()
    def _features(self, small: np.ndarray, inside: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Per channel of each of the encoder's levels: mean and log spread over the cells outside the face."""
        encoder: Any = self._vae.encoder
        hidden = torch.from_numpy(small).permute(2, 0, 1)[None].float() / 127.5 - 1
        mask = torch.from_numpy(inside)[None, None].float()
        hidden = encoder.conv_in(hidden)
        means, spreads = [], []
        for block in encoder.down_blocks:
            hidden = block(hidden)
            weight = torch.nn.functional.interpolate(mask, hidden.shape[-2:], mode="area")
            weight = weight / weight.sum()
            mean = (hidden * weight).sum((2, 3))
            variance = ((hidden - mean[..., None, None]).pow(2) * weight).sum((2, 3))
            means.append(mean[0])
            spreads.append(0.5 * (variance[0] + 1e-6).log())
        return torch.cat(means).numpy(), torch.cat(spreads).numpy()


def _colours(lab: np.ndarray, inside: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(side, side, 3) CIE Lab → how colours are spread, and where which are."""
    visible = lab[inside]
    light, chroma = visible[:, 0], np.linalg.norm(visible[:, 1:], axis=1)
    spread = [
        visible.mean(0), visible.std(0), np.percentile(light, [5, 25, 50, 75, 95]),
        [chroma.mean(), chroma.std(), *np.percentile(chroma, [50, 95])],
    ]  # fmt: skip
    cell = len(lab) // GRID
    layout = []
    for top in range(0, len(lab), cell):
        for left in range(0, len(lab), cell):
            window = (slice(top, top + cell), slice(left, left + cell))
            seen = inside[window]
            layout.append(lab[window][seen].mean(0) if seen.any() else visible.mean(0))
    return np.concatenate(spread), np.concatenate(layout)


def _fingerprint(vae: Any) -> str:
    """Six letters that change when the VAE does: numbers of other weights must not be mixed."""
    digest = hashlib.sha256()
    for parameter in vae.encoder.parameters():
        digest.update(parameter.detach().flatten()[:64].numpy().tobytes())
    return digest.hexdigest()[:6]
