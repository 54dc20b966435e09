"""Variants of a photo, with another background, light, finish, framing, accessory or tilt, and their true words.

pictures.py makes the training pictures with it.
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np

from tools.mini.measure import luma

PLAIN = {
    "white": (250, 250, 250),
    "light grey": (212, 212, 212),
    "grey": (138, 138, 138),
    "dark grey": (52, 52, 54),
    "black": (6, 6, 6),
    "blue": (38, 82, 172),
    "light blue": (158, 196, 232),
    "green": (56, 128, 76),
    "red": (172, 38, 40),
    "beige": (222, 204, 176),
}
BACKGROUND_CHANCES = {
    None: 0.28, "white": 0.12, "light grey": 0.08, "grey": 0.05, "dark grey": 0.07, "black": 0.06, "blue": 0.05,
    "light blue": 0.04, "green": 0.03, "red": 0.04, "beige": 0.03, "outdoor": 0.08, "city": 0.04, "sunset": 0.03,
}  # fmt: skip
FINISH_CHANCES = {None: 0.73, "black-and-white": 0.13, "sepia": 0.06, "vintage": 0.08}
LIGHT_CHANCES = {None: 0.58, "soft": 0.12, "warm": 0.14, "cool": 0.07, "side": 0.09}
ACCESSORY_CHANCES = {None: 0.82, "sunglasses": 0.11, "round glasses": 0.07}
FRAMING_CHANCES = {None: 0.72, "close": 0.14, "far": 0.14}
TILT, MOST_TILT = 12.0, 25.0
"""Spread and limit in degrees of how far `turned` turns a photo."""
SCALES = (0.6, 1.6)
"""Smallest and largest scale that `turned` gives a photo."""
ROOM = 0.5
"""How far a photo is continued on each side before it is turned, in its sides."""
CLOSE, FAR = 1.25, 0.8
"""From these scales on a caption may speak of the framing."""


def draw(chances: dict[Any, float], rng: np.random.Generator) -> Any:
    weights = np.array(list(chances.values()))
    return list(chances)[int(rng.choice(len(weights), p=weights / weights.sum()))]


def discs(
    canvas: np.ndarray, colours: np.ndarray, sizes: tuple[float, float], rng: np.random.Generator
) -> np.ndarray:
    """Out-of-focus lights: soft discs of these colours over `canvas` (h, w, 3) float32 0..255."""
    side = len(canvas)
    for colour in colours:
        layer = np.zeros((side, side), np.float32)
        centre = tuple(int(value) for value in rng.uniform(0, side, 2))
        cv2.circle(layer, centre, int(rng.uniform(*sizes) * side), 1.0, -1, cv2.LINE_AA)
        opacity = cv2.GaussianBlur(layer, (0, 0), side * 0.012)[..., None] * rng.uniform(0.35, 0.85)
        canvas = canvas * (1 - opacity) + colour * opacity
    return canvas


def vertical(top: tuple[float, ...], bottom: tuple[float, ...], side: int) -> np.ndarray:
    ramp = np.linspace(0, 1, side, dtype=np.float32)[:, None, None]
    return np.repeat(np.float32(top) * (1 - ramp) + np.float32(bottom) * ramp, side, axis=1)


def background(name: str, side: int, rng: np.random.Generator) -> np.ndarray:
    """A background (side, side, 3) float32 0..255."""
    if name in PLAIN:
        spread = 3 if name in ("white", "black") else 9
        colour = np.float32(PLAIN[name]) + np.float32(
            rng.normal(0, spread / 2, 3) * 0.6 + rng.normal(0, spread)
        )
        canvas = np.full((side, side, 3), colour, np.float32)
        if name not in ("white", "black") and rng.random() < 0.5:  # a lamp on the wall
            y, x = np.mgrid[0:side, 0:side].astype(np.float32) / side
            far = np.hypot(x - rng.uniform(0.3, 0.7), y - rng.uniform(0.2, 0.6))
            canvas *= (1.12 - 0.35 * far)[..., None]
        return np.clip(canvas, 0, 255)
    if name == "outdoor":
        sky, leaves = rng.uniform((175, 200, 190), (235, 240, 245)), rng.uniform((50, 85, 30), (105, 140, 70))
        canvas = vertical(tuple(sky * 0.55 + leaves * 0.45), tuple(leaves * rng.uniform(0.6, 1)), side)
        greens = leaves * rng.uniform(0.5, 1.6, (26, 1)) + rng.normal(0, 10, (26, 3))
        greens[rng.random(26) < 0.2] = sky
        canvas = discs(canvas, np.clip(greens, 0, 255), (0.05, 0.14), rng)
        return cv2.GaussianBlur(np.float32(canvas), (0, 0), side * rng.uniform(0.02, 0.04))
    if name == "city":
        canvas = vertical((12, 14, 30), (28, 20, 26), side)
        bright = np.array(
            [(255, 190, 90), (255, 140, 60), (250, 230, 190), (255, 70, 60), (90, 150, 255)], np.float32
        )
        return np.float32(discs(canvas, bright[rng.integers(0, 5, 22)], (0.02, 0.06), rng))
    top, bottom = rng.uniform((70, 60, 110), (130, 100, 150)), rng.uniform((245, 130, 50), (255, 180, 90))
    return vertical(tuple(top), tuple(bottom), side)


def lens(centre: np.ndarray, axis: np.ndarray, width: float, height: float, power: float) -> np.ndarray:
    """Outline (n, 2) of a lens: a superellipse, power 2 is an ellipse, more is squarer."""
    turn = np.linspace(0, 2 * np.pi, 48, endpoint=False)
    x = np.sign(np.cos(turn)) * np.abs(np.cos(turn)) ** (2 / power) * width / 2
    y = np.sign(np.sin(turn)) * np.abs(np.sin(turn)) ** (2 / power) * height / 2
    across = np.array([-axis[1], axis[0]])
    return centre + x[:, None] * axis + y[:, None] * across


def wear(pixels: np.ndarray, row: dict[str, Any], kind: str, rng: np.random.Generator) -> np.ndarray:
    """Draw sunglasses or round glasses on the eyes of `pixels` (h, w, 3) float32 0..255; a new array."""
    points = np.array(row["landmarks"], float)
    left, right = points[0], points[1]
    apart = float(np.linalg.norm(right - left))
    axis = (right - left) / apart
    down = np.array([-axis[1], axis[0]])
    dark = kind == "sunglasses"
    width, height = apart * (rng.uniform(0.74, 0.86), rng.uniform(0.56, 0.72))[0], 0.0
    height = width * (rng.uniform(0.68, 0.85) if dark else rng.uniform(0.95, 1.05))
    width = width if dark else width * 0.9
    height = height if dark else width
    power = rng.uniform(2.2, 3.5) if dark else 2.0
    centres = [
        left - axis * 0.02 * apart + down * 0.05 * apart,
        right + axis * 0.02 * apart + down * 0.05 * apart,
    ]
    frames = np.array([(12, 12, 14), (60, 38, 24), (150, 120, 60), (110, 20, 24)], float)
    frame = frames[int(rng.choice(4, p=(0.7, 0.15, 0.1, 0.05)))]
    thick = max(2, round(apart * (0.045 if dark else 0.06)))
    big = cv2.resize(pixels, None, fx=2, fy=2, interpolation=cv2.INTER_LINEAR)
    outlines = [lens(centre, axis, width, height, power) for centre in centres]
    for outline, centre in zip(outlines, centres, strict=True):
        shape = np.round(outline * 2).astype(np.int32)
        if dark:
            area = np.zeros(big.shape[:2], np.float32)
            cv2.fillPoly(area, [shape], 1.0, cv2.LINE_AA)
            rows = (np.arange(len(big), dtype=np.float32) / 2 - (centre[1] - height / 2)) / height
            tint = (16 + 26 * np.clip(rows, 0, 1))[:, None, None] * np.float32([1, 0.97, 0.95])
            big = big * (1 - 0.95 * area[..., None]) + tint * 0.95 * area[..., None]
        else:
            area = np.zeros(big.shape[:2], np.float32)
            cv2.fillPoly(area, [shape], 0.08, cv2.LINE_AA)
            big = big * (1 - area[..., None]) + 235 * area[..., None]
        cv2.polylines(big, [shape], True, frame.tolist(), thick * 2, cv2.LINE_AA)
    inner = [
        centres[0] + axis * width / 2 - down * 0.06 * apart,
        centres[1] - axis * width / 2 - down * 0.06 * apart,
    ]
    outer = [
        centres[0] - axis * width / 2 - down * 0.06 * apart,
        centres[1] + axis * width / 2 - down * 0.06 * apart,
    ]
    sides = [outer[0] - axis * 0.28 * apart, outer[1] + axis * 0.28 * apart]
    x0, x1 = row["box"][0], row["box"][2]
    sides[0][0], sides[1][0] = max(sides[0][0], x0), min(sides[1][0], x1)
    for start, end in ((inner[0], inner[1]), (outer[0], sides[0]), (outer[1], sides[1])):
        ends = [tuple(round(float(value) * 2) for value in point) for point in (start, end)]
        cv2.line(big, ends[0], ends[1], frame.tolist(), thick * 2, cv2.LINE_AA)
    return cv2.resize(big, (pixels.shape[1], pixels.shape[0]), interpolation=cv2.INTER_AREA)


def light(pixels: np.ndarray, kind: str, mask: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Change the light of `pixels` (h, w, 3) float32 0..255, person where `mask` (h, w) is 1."""
    side = len(pixels)
    x = np.linspace(0, 1, side, dtype=np.float32)[None, :, None]
    x = x if rng.random() < 0.5 else 1 - x
    if kind == "soft":
        weight = cv2.GaussianBlur(mask, (0, 0), side / 14) + 1e-3
        local = cv2.GaussianBlur(luma(pixels) * mask, (0, 0), side / 14) / weight
        gain = (max(float(local[mask > 0.5].mean()), 118.0) / np.maximum(local, 20)) ** 0.7
        gain = 1 + (np.clip(gain, 0.6, 1.9) - 1) * mask
        return np.clip(pixels * gain[..., None], 0, 255) * 0.94 + 8
    if kind == "warm":
        warm = pixels * np.float32([1.12, 0.94, 0.68]) + np.float32([12, 4, -4])
        glow = np.float32([255, 170, 70]) * 0.45 * np.clip(1 - 1.6 * x, 0, 1) ** 1.5
        return 255 - (255 - np.clip(warm, 0, 255)) * (255 - glow) / 255
    if kind == "cool":
        return pixels * np.float32([0.78, 0.95, 1.18]) + np.float32([0, 3, 14])
    edge = rng.uniform(0.42, 0.56)
    shade = 0.16 + 1.02 / (1 + np.exp((x - edge) * 16))
    return np.float32(pixels * (1 + (shade - 1) * np.maximum(mask[..., None], 0.6)))


def finish(pixels: np.ndarray, kind: str, rng: np.random.Generator) -> np.ndarray:
    """Black-and-white, sepia or vintage film; `pixels` (h, w, 3) float32 0..255."""
    side, grey = len(pixels), luma(np.clip(pixels, 0, 255))[..., None]
    if kind == "black-and-white":
        return np.repeat((grey - 128) * rng.uniform(1.0, 1.25) + 128, 3, axis=2)
    if kind == "sepia":
        return np.float32(grey * np.float32([1.08, 0.87, 0.64]) + np.float32([14, 6, -2]))
    faded = grey + (pixels - grey) * rng.uniform(0.5, 0.7)
    faded = 44 + np.clip(faded, 0, 255) * (0.72, 0.74)[int(rng.random() < 0.5)]
    tinted = faded * np.float32([1.06, 1.0, 0.84]) + (1 - grey / 255) * np.float32([2, 6, 22])
    y, x = np.mgrid[0:side, 0:side].astype(np.float32) / side - 0.5
    return np.float32(tinted * (1.06 - 0.75 * (x * x + y * y))[..., None])


def frame(
    pixels: np.ndarray, mask: np.ndarray, row: dict[str, Any], scale: float, shift: float
) -> tuple[np.ndarray, ...]:
    """Scale person and mask about the face, edges continued; the shoulders stay at the bottom where it shrinks."""
    side = len(pixels)
    x, y = np.array(row["landmarks"], float)[:3].mean(axis=0)
    matrix = np.float32([[scale, 0, side * (0.5 + shift) - scale * x], [0, scale, 0]])
    matrix[1, 2] = side * 0.5 - scale * y if scale > 1 else side - scale * side
    warp = [cv2.warpAffine(a, matrix, (side, side), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
            for a in (pixels, mask)]  # fmt: skip
    return warp[0], warp[1]


def free_of_edges(mask: np.ndarray) -> bool:
    """Whether the head touches neither the top nor the sides, so that the person can be shown smaller."""
    head = mask[: int(0.62 * len(mask))]
    return int(head[0].max()) < 60 and int(head[:, [0, -1]].max()) < 60


def attributes_of(row: dict[str, Any], mask: np.ndarray, rng: np.random.Generator) -> dict[str, str]:
    """What is said of a new variant: measured looks, and the changes that are drawn here."""
    found: dict[str, str | None] = {key: row[key] for key in ("hair", "expression", "clothes")}
    found["who"] = "man" if row["masculine"] > 0.93 else "woman" if row["masculine"] < 0.07 else None
    age = row["age"]
    found["age"] = "young" if age < 28 else "old" if age >= 52 else "middle-aged" if 37 <= age < 48 else None
    found["background"], found["finish"] = draw(BACKGROUND_CHANCES, rng), draw(FINISH_CHANCES, rng)
    found["light"], found["accessory"] = draw(LIGHT_CHANCES, rng), draw(ACCESSORY_CHANCES, rng)
    found["framing"] = draw(FRAMING_CHANCES, rng)
    if found["finish"] in ("black-and-white", "sepia") and found["light"] in ("warm", "cool"):
        found["light"] = None  # its colour would not be seen
    if found["framing"] == "far" and (found["background"] is None or not free_of_edges(mask)):
        found["framing"] = None  # there is no picture beyond the photo's edge
    return {key: value for key, value in found.items() if value}


def words_of(attributes: dict[str, str]) -> dict[str, str]:
    """Leave out what can no longer be seen: colours of the background and of hair under a colouring finish or light."""
    kept = dict(attributes)
    coloured = {"blue", "light blue", "green", "red", "beige"}
    if kept.get("finish") == "sepia" or (kept.get("finish") and kept.get("background") in coloured):
        kept.pop("background", None)
    if kept.get("finish") or kept.get("light") in ("warm", "cool", "side"):
        kept.pop("hair", None)
        kept.pop("clothes", None)
    if kept.get("light") in ("warm", "cool", "side") and kept.get("background") in {
        *coloured,
        "white",
        "light grey",
        "grey",
    }:
        kept.pop("background", None)
    if kept.get("framing") == "close":
        kept.pop("clothes", None)
    return kept


def variant(pixels: np.ndarray, mask: np.ndarray, row: dict[str, Any], attributes: dict[str, str],
            rng: np.random.Generator, framed: bool = False) -> np.ndarray:  # fmt: skip
    """One picture (h, w, 3) uint8 with these attributes; with `framed` the person stays in place."""
    picture, person = pixels.astype(np.float32), mask.astype(np.float32) / 255
    if kind := attributes.get("accessory"):
        picture = wear(picture, row, kind, rng)
    framing = attributes.get("framing")
    if framing or (not framed and rng.random() < 0.5):
        scale = {
            "close": rng.uniform(1.25, 1.45),
            "far": rng.uniform(0.7, 0.8),
            None: rng.uniform(1.0, 1.08),
        }[framing]
        picture, person = frame(picture, person, row, scale, rng.uniform(-0.03, 0.03))
    if name := attributes.get("background"):
        behind = background(name, len(picture), rng)
        picture = picture * person[..., None] + behind * (1 - person[..., None])
    if kind := attributes.get("light"):
        lit = light(picture, kind, person, rng)
        if attributes.get("background") in ("white", "black") and kind == "soft":
            lit = lit * person[..., None] + picture * (1 - person[..., None])
        picture = lit
    if kind := attributes.get("finish"):
        picture = finish(picture, kind, rng)
    if rng.random() < 0.5:
        picture = picture[:, ::-1]
    return np.clip(np.round(picture), 0, 255).astype(np.uint8)


def framing_of(scale: float) -> str | None:
    """What a caption may say of a face at this scale, 1 being FFHQ's frame."""
    return "close" if scale > CLOSE else "far" if scale < FAR else None


def continued(photo: np.ndarray) -> np.ndarray:
    """With room around: the wall goes on mirrored at the sides and above, the clothes straight down below."""
    room = int(ROOM * len(photo))
    wide = cv2.copyMakeBorder(photo, room, 0, room, room, cv2.BORDER_REFLECT_101)
    return cv2.copyMakeBorder(wide, 0, room, 0, 0, cv2.BORDER_REPLICATE)


def turned(
    pixels: np.ndarray, mask: np.ndarray, row: dict[str, Any], rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, dict[str, Any], float]:
    """The photo tilted, moved and scaled, as photos of real people are: pixels, mask, row and the scale.

    `row` comes back with its points and box moved along. Where the head touches an edge, the frame stays within the
    photo. Else a smaller person stands on the lower edge, where the clothes go on, and a larger one is moved about.
    """
    side = len(pixels)
    angle = np.deg2rad(np.clip(rng.normal(0, TILT), -MOST_TILT, MOST_TILT))
    free, filling = free_of_edges(mask), float(abs(np.cos(angle)) + abs(np.sin(angle)))
    scale = float(np.exp(rng.uniform(np.log(SCALES[0] if free else filling), np.log(SCALES[1]))))
    matrix = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    centre = np.array(row["landmarks"], float)[:3].mean(axis=0)
    goal = side * np.array([0.5 + rng.uniform(-0.1, 0.1), 0.5 + rng.uniform(-0.06, 0.06)])
    if not free:
        slack = side / 2 * (1 - filling / scale)
        centre = np.clip(centre, side / 2 - slack, side / 2 + slack)
        goal = np.full(2, side / 2)
    elif scale < 1:
        goal[1] = scale * centre[1] + (1 - scale) * side
    move = goal - matrix @ centre
    affine = np.float32(np.column_stack([matrix, move - matrix @ [ROOM * side, ROOM * side]]))
    pixels, mask = (
        cv2.warpAffine(
            continued(a), affine, (side, side), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
        )
        for a in (pixels, mask)
    )
    x0, y0, x1, y1 = row["box"]
    corners = np.array([(x0, y0), (x1, y0), (x0, y1), (x1, y1)], float) @ matrix.T + move
    points = np.array(row["landmarks"], float) @ matrix.T + move
    box = [*corners.min(axis=0).tolist(), *corners.max(axis=0).tolist()]
    return pixels, mask, {**row, "landmarks": points.tolist(), "box": box}, scale
