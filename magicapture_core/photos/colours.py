"""Colours of pictures to sRGB where no profile says what they are, but code points do (ITU-T H.273, "nclx").

Phones write HEIC and AVIF so, and PNG has the same in its cICP chunk. The numbers are those of H.273's tables 2 and 3.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

# x and y of red, green and blue. White is D65 throughout, but for film's and cinema's, which phones do not write.
_D65 = (0.3127, 0.3290)
_PRIMARIES = {
    1: ((0.640, 0.330), (0.300, 0.600), (0.150, 0.060)),  # BT.709 and sRGB
    5: ((0.640, 0.330), (0.290, 0.600), (0.150, 0.060)),  # BT.601, 625 lines
    6: ((0.630, 0.340), (0.310, 0.595), (0.155, 0.070)),  # BT.601, 525 lines
    7: ((0.630, 0.340), (0.310, 0.595), (0.155, 0.070)),  # SMPTE 240M
    9: ((0.708, 0.292), (0.170, 0.797), (0.131, 0.046)),  # BT.2020 and BT.2100
    12: ((0.680, 0.320), (0.265, 0.690), (0.150, 0.060)),  # Display P3
    22: ((0.630, 0.340), (0.295, 0.605), (0.155, 0.077)),  # EBU 3213
}
_UNSPECIFIED = (0, 2, 3)
_PQ, _HLG = 16, 18
# Plain powers and light itself. BT.709's curve (1, 6, 14, 15) is shown as sRGB's is, as browsers do with photos.
_POWERS = {4: 2.2, 5: 2.8, 8: 1.0}

# Of HDR: BT.2408 puts the white of a sheet of paper at 203 cd/m², which becomes sRGB's white here.
_PAPER_WHITE = 203.0
# HLG is shown as on a screen of 1000 cd/m², with BT.2100's system gamma of 1.2 for it.
_HLG_PEAK, _HLG_GAMMA = 1000.0, 1.2
# What is brighter than this share of white is compressed, so that highlights keep some shape and nothing clips hard.
_KNEE = 0.8
_ROWS = 256


class CodePoints(NamedTuple):
    """Code points of H.273: which colours a picture's numbers mean."""

    primaries: int
    transfer: int


def code_points(data: bytes, info: Mapping[Any, Any]) -> CodePoints | None:
    """A picture's code points, from its reader (HEIC, PNG) or its file (AVIF). None if it has none."""
    nclx = info.get("nclx_profile")
    if isinstance(nclx, dict):
        return CodePoints(int(nclx["color_primaries"]), int(nclx["transfer_characteristics"]))
    png = re.match(rb"\x89PNG.*?\x00\x00\x00\x04cICP(..)", data[:65536], re.DOTALL)
    if png:
        return CodePoints(png[1][0], png[1][1])
    found = re.search(rb"colrnclx(....)", data[:65536], re.DOTALL) if data[4:8] == b"ftyp" else None
    if found:
        return CodePoints(int.from_bytes(found[1][:2], "big"), int.from_bytes(found[1][2:], "big"))
    return None


def to_srgb(image: Image.Image, points: CodePoints) -> Image.Image:
    """An RGB picture's colours as sRGB. What is not known or already sRGB stays as it is.

    PQ and HLG are mapped simply: paper white becomes white, up to 80 % of it nothing changes, and what is brighter is
    compressed towards white with its hue kept.
    """
    primaries = points.primaries if points.primaries in _PRIMARIES else 1
    high_range = points.transfer in (_PQ, _HLG)
    if primaries == 1 and not high_range and points.transfer not in _POWERS:
        return image
    pixels = np.array(image.convert("RGB"))
    light = _to_light(points.transfer)
    matrix = (np.linalg.inv(_to_xyz(1)) @ _to_xyz(primaries)).T.astype(np.float32)
    for top in range(0, len(pixels), _ROWS):  # in strips: as floats a large photo takes 12 bytes a pixel
        values = light[pixels[top : top + _ROWS]]
        if points.transfer == _HLG:
            values = _shown(values, primaries)
        values = values @ matrix
        if high_range:
            values = _compressed(values)
        pixels[top : top + _ROWS] = _encoded(values)
    return Image.fromarray(pixels)


def _to_xyz(primaries: int) -> np.ndarray:
    """(3, 3): linear RGB to CIE XYZ (Lindbloom, "RGB/XYZ matrices")."""
    columns = np.array([[x / y, 1.0, (1 - x - y) / y] for x, y in _PRIMARIES[primaries]]).T
    x, y = _D65
    return columns * np.linalg.solve(columns, [x / y, 1.0, (1 - x - y) / y])


def _to_light(transfer: int) -> np.ndarray:
    """(256,) float32: light by value; 1 is white, of HLG the scene's brightest light."""
    value = np.arange(256) / 255
    if transfer == _PQ:  # SMPTE ST 2084
        m1, m2, c1, c2, c3 = 2610 / 16384, 2523 / 32, 3424 / 4096, 2413 / 128, 2392 / 128
        power = value ** (1 / m2)
        light = 10000 / _PAPER_WHITE * (np.maximum(power - c1, 0) / (c2 - c3 * power)) ** (1 / m1)
    elif transfer == _HLG:  # BT.2100, inverse OETF
        a, b, c = 0.17883277, 0.28466892, 0.55991073
        light = np.where(value <= 0.5, value**2 / 3, (np.exp((value - c) / a) + b) / 12)
    elif transfer in _POWERS:
        light = value ** _POWERS[transfer]
    else:  # IEC 61966-2-1
        light = np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)
    return light.astype(np.float32)


def _shown(scene: np.ndarray, primaries: int) -> np.ndarray:
    """HLG's light of the scene as a screen shows it, in paper whites."""
    luminance = scene @ _to_xyz(primaries)[1].astype(np.float32)
    gain = np.maximum(luminance, 1e-6) ** (_HLG_GAMMA - 1) * (_HLG_PEAK / _PAPER_WHITE)
    shown: np.ndarray = scene * gain[..., None]
    return shown


def _compressed(light: np.ndarray) -> np.ndarray:
    brightest = np.maximum(light.max(axis=-1, keepdims=True), 1e-6)
    above = np.maximum(brightest - _KNEE, 0) / (1 - _KNEE)
    mapped = np.where(brightest > _KNEE, _KNEE + (1 - _KNEE) * (1 - np.exp(-above)), brightest)
    result: np.ndarray = light * (mapped / brightest)
    return result


def _encoded(light: np.ndarray) -> np.ndarray:
    light = np.clip(light, 0, 1)
    value = np.where(light <= 0.0031308, light * 12.92, 1.055 * light ** (1 / 2.4) - 0.055)
    encoded: np.ndarray = (value * 255 + 0.5).astype(np.uint8)
    return encoded
