"""Files of a photo's mask: the visitor's own mask, the pictures that show it, the pictures for the brush."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from magicapture_core.ui.stored_session import Session, StoredPhoto


def own_mask(session: Session, photo: StoredPhoto) -> np.ndarray | None:
    """The visitor's own mask: (h, w) uint8, 1 in the face; None where the mask is automatic."""
    if photo.mask is None:
        return None
    with Image.open(session.folder / "masks" / photo.mask) as image:
        face = np.asarray(image.convert("L")) >= 128
    return face.astype(np.uint8)


def drop_mask(session: Session, photo: StoredPhoto) -> None:
    """Remove the visitor's own mask of a photo, and the pictures made with it."""
    if photo.mask is not None:
        (session.folder / "masks" / photo.mask).unlink(missing_ok=True)
    photo.mask = None
    drop_views(photo)


def drop_brush_pictures(session: Session) -> None:
    """Remove the pictures made for the brush. They show a whole photo, so they must not stay when it is removed."""
    for path in session.brush:
        Path(path).unlink(missing_ok=True)
    session.brush = []


def drop_views(photo: StoredPhoto) -> None:
    """Remove the pictures that show a photo as training sees it."""
    for name in ("overlay", "mask", "photo"):
        if name in photo.views:
            Path(photo.views[name]).unlink(missing_ok=True)
    photo.views = {}
