"""Attention maps as coloured pictures."""

from __future__ import annotations

import numpy as np


def heat_overlay(pixels: np.ndarray, heat: np.ndarray) -> np.ndarray:
    """Colour a picture by where attention falls: dark violet is none, yellow the most.

    pixels: (h, w, 3) uint8 RGB; heat: (any, any) float in [0, 1]. Returns (h, w, 3) uint8 RGB.
    """
    import cv2

    size = (pixels.shape[1], pixels.shape[0])
    fine = cv2.resize((heat * 255).round().astype(np.uint8), size, interpolation=cv2.INTER_CUBIC)
    colours = cv2.cvtColor(cv2.applyColorMap(fine, cv2.COLORMAP_INFERNO), cv2.COLOR_BGR2RGB)
    return cv2.addWeighted(pixels, 0.4, colours, 0.6, 0)
