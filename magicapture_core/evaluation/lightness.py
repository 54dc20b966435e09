"""Whether a picture shows a person with lighter skin than the person's photos do."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image

from magicapture_core.concepts import Concept
from magicapture_core.faces import FaceAnalyser

BEYOND_LOOK = 0.08
"""Least difference to what training asks for: the person's skin in the light of the look."""
BEYOND_PHOTOS = 0.07
"""Least difference to the person's own photos. A sample person's photos differ by .01 to .04 (standard deviation)."""


def shows_lighter(
    picture: Image.Image, subject: Concept, style: Concept, analyser: FaceAnalyser
) -> bool | None:
    """Whether the face in a picture is clearly lighter than in the subject's photos, and not by the style's light.

    Both are asked for, because a style may light every face more, and a dark one may hide that a face is too light:
    what is told is then true of what is seen. Lightness is `losses.face_lightness`, the mean Y in [0, 1] of a face;
    training pulls it to the same aim (`lambda_lightness`). picture: of any size. None where the picture, the
    subject's photos or the style's show no face.
    """
    from magicapture_core.losses import face_lightness
    from magicapture_core.masks import face_masks
    from magicapture_core.training.data import mean_lightness, wanted_lightness

    own, wanted = mean_lightness(subject), wanted_lightness(subject, style)
    pixels = np.asarray(picture.convert("RGB"))
    faces = analyser.detect(pixels)
    if own is None or wanted is None or not faces:
        return None
    face = face_masks(pixels, faces[0], analyser).face
    if not bool(face.any()):
        return None
    values = torch.from_numpy(pixels.copy()).permute(2, 0, 1).float() / 127.5 - 1
    light = float(face_lightness(values[None], face[None])[0])
    return light - float(wanted) >= BEYOND_LOOK and light - float(own) >= BEYOND_PHOTOS
