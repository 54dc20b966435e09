"""The picture at the head of the README: four people, their style, a draft, what training made of it.

python -m tools.portraits        # after tools.mini.personalise, out of whose sheets it takes the pictures
"""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from tools.mark import mark
from tools.mini.personalise import SHOWN, STRIP, TILE

SHEETS, OUT = Path("assets/mini"), Path("assets/screenshots/portraits.webp")
COLUMNS = (
    ("two of six photos", 0, (0, 1)),
    ("two of six in the style", 1, (0, 1)),
    ("draft", 2, (0,)),
    ("after training", 3, (0, 1)),
)
"""Title, row of the sheet, tiles of that row."""
GAP = 12


def tile(sheet: np.ndarray, row: int, column: int) -> np.ndarray:
    top = row * (STRIP + TILE) + STRIP
    return sheet[top : top + TILE, column * TILE : (column + 1) * TILE]


def column(sheets: list[np.ndarray], title: str, row: int, tiles: tuple[int, ...]) -> np.ndarray:
    pictures = np.vstack([np.hstack([tile(sheet, row, each) for each in tiles]) for sheet in sheets])
    head = np.full((STRIP, pictures.shape[1], 3), 255, np.uint8)
    cv2.putText(head, title, (6, 18), cv2.FONT_HERSHEY_SIMPLEX, 0.5, (30, 30, 30), 1, cv2.LINE_AA)
    return np.vstack([head, pictures])


def main() -> None:
    sheets = [cv2.imread(str(SHEETS / f"personalised-{name}.jpg")) for name in SHOWN]
    parts = [column(sheets, *each) for each in COLUMNS]
    gap = np.full((parts[0].shape[0], GAP, 3), 255, np.uint8)
    cv2.imwrite(
        str(OUT), np.hstack([p for part in parts for p in (gap, part)][1:]), [cv2.IMWRITE_WEBP_QUALITY, 85]
    )
    mark(OUT)


if __name__ == "__main__":
    main()
