"""Photos straightened to FFHQ's frame: levelled eyes, the same frame from any size, masks and landmarks with them."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
from toy import ToyAnalyser

from magicapture_core.concepts import prepare_concept
from magicapture_core.concepts.framing import MOST_BEYOND, Frame, aligned_frame
from magicapture_core.faces import Face
from magicapture_core.photos import Photo

FACE = np.float32([[-30, -20], [30, -20], [0, 10], [-20, 40], [20, 40]])
"""Eyes 60 apart, the mouth 60 below them, around the point between."""


def turned(degrees: float, at: tuple[float, float] = (200, 180), size: float = 1.0) -> np.ndarray:
    angle = np.radians(degrees)
    rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    return (FACE @ rotation.T * size + at).astype(np.float32)


def test_an_upright_face_gives_ffhqs_frame() -> None:
    frame = aligned_frame(turned(0), 600, 600)
    # Half side: 2 · 60 by the eyes, 1.8 · 60 by the mouth. Middle: 6 below the eyes.
    assert (frame.x, frame.y, frame.side) == pytest.approx((200, 166, 240))
    assert frame.angle == pytest.approx(0)


@pytest.mark.parametrize("degrees", [-25, 10, 90, 170])
def test_a_turned_face_stands_upright_in_its_frame(degrees: float) -> None:
    frame = aligned_frame(turned(degrees, at=(400, 400)), 1000, 1000)
    points = frame.points(turned(degrees, at=(400, 400)), 256)
    upright = aligned_frame(turned(0, at=(400, 400)), 1000, 1000).points(turned(0, at=(400, 400)), 256)
    np.testing.assert_allclose(points, upright, atol=0.01)
    assert points[0, 1] == pytest.approx(points[1, 1], abs=0.01)


def test_a_frame_hardly_leaves_its_photo() -> None:
    frame = aligned_frame(turned(0, at=(60, 180)), 600, 600)
    assert frame.side < 240
    left = frame.x - frame.side / 2
    assert -left / frame.side == pytest.approx(MOST_BEYOND, abs=0.01)


def dotted(degrees: float, size: float) -> tuple[Photo, np.ndarray]:
    """A photo with a white dot on each landmark."""
    at = (200 * size, 200 * size)
    landmarks = turned(degrees, at, size)
    pixels = np.full((round(400 * size), round(400 * size), 3), 60, np.uint8)
    for x, y in landmarks:
        cv2.circle(pixels, (round(float(x)), round(float(y))), max(2, round(4 * size)), (255, 255, 255), -1)
    return Photo("dotted.png", pixels), landmarks


class Dots(ToyAnalyser):
    """Knows where the dots are."""

    def __init__(self, landmarks: np.ndarray) -> None:
        super().__init__()
        self.landmarks = landmarks

    def detect(self, pixels: np.ndarray, *, small: bool = True) -> list[Face]:  # noqa: ARG002
        """The face of the dots."""
        (x0, y0), (x1, y1) = self.landmarks.min(0), self.landmarks.max(0)
        return [Face((float(x0), float(y0), float(x1), float(y1)), self.landmarks, 1.0)]


@pytest.mark.parametrize("size", [1.0, 2.0, 8.0])
@pytest.mark.parametrize("role", ["subject", "style"])
def test_examples_have_the_face_where_their_landmarks_and_masks_are(role: str, size: float) -> None:
    photo, landmarks = dotted(20, size)
    concept = prepare_concept(
        [photo], role, resolution=128, analyser=Dots(landmarks), framing="aligned"  # type: ignore[arg-type]
    )  # fmt: skip
    [example] = concept.examples
    assert example.image.shape == (3, 128, 128)
    assert example.landmarks is not None
    assert abs(float(example.landmarks[0, 1] - example.landmarks[1, 1])) < 0.1
    for x, y in example.landmarks.round().int().tolist():
        assert example.image[:, y, x].min() > 0.2, "a dot"
        assert example.masks.face[0, y, x] == 1 or (x, y) != tuple(
            example.landmarks[2].round().int().tolist()
        )
    assert 0 < float(example.masks.face.mean()) < 0.5


def test_photos_without_a_face_are_cut_as_ever() -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (200, 300, 3), np.uint8)
    cut = [
        prepare_concept(
            [Photo("a.png", pixels)], "style", resolution=64, analyser=ToyAnalyser(blind=True), framing=framing
        ).examples[0].image
        for framing in ("photo", "aligned")
    ]  # fmt: skip
    assert torch.equal(*cut)


def test_a_frame_cuts_a_gradient_where_it_says() -> None:
    """Values tell their place: x to the right, y downward, through shrinking and turning."""
    y, x = np.mgrid[0:800, 0:800].astype(np.float32)
    frame = Frame(390.0, 410.0, 300.0, np.radians(30))
    cut = np.stack([frame.cut(each, 64) for each in (x, y)], axis=-1)  # 64 64 2
    for row, column in ((0, 0), (10, 50), (63, 63), (32, 31)):
        expected = frame.to_photo(64) @ [column, row, 1]
        np.testing.assert_allclose(cut[row, column], expected, atol=0.6)
