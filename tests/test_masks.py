"""Masks: made from pixels, and resized in one place."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw

from magicapture_core.faces import FaceAnalyser
from magicapture_core.masks import (
    Masks,
    face_masks,
    highlight,
    mask_from_image,
    object_masks,
    overlay,
    resize_mask,
)


def test_half_of_a_cell_is_enough() -> None:
    # 4×4 → 2×2: the cells cover 4, 2, 1 and 0 of their 4 pixels; two are half and belong to the region.
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0]], dtype=torch.float32)
    assert resize_mask(mask[None], (2, 2)).tolist() == [[[1, 1], [0, 0]]]


def test_small_region_keeps_its_fullest_cell() -> None:
    mask = torch.zeros(2, 1, 8, 8)
    mask[0, 0, 5, 6] = 1  # one pixel of sixteen in its cell
    resized = resize_mask(mask, (2, 2))
    assert resized[0].tolist() == [[[0, 0], [0, 1]]]
    assert resized[1].sum() == 0  # nothing stays nothing


def test_enlarging() -> None:
    mask = torch.tensor([[[1.0, 0.0]]])
    assert resize_mask(mask, (2, 4)).tolist() == [[[1, 1, 0, 0], [1, 1, 0, 0]]]


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 40), st.integers(1, 40), st.integers(1, 24), st.integers(1, 24))
def test_resized_masks_are_binary_and_never_vanish(
    seed: int, h: int, w: int, height: int, width: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    mask = (torch.rand(3, 2, 1, h, w, generator=generator) > torch.rand(1, generator=generator)).float()
    resized = resize_mask(mask, (height, width))
    assert resized.shape == (3, 2, 1, height, width)
    assert set(resized.unique().tolist()) <= {0.0, 1.0}
    assert torch.equal(resized.flatten(2).any(-1), mask.flatten(2).any(-1))
    assert torch.equal(resize_mask(mask, (h, w)), mask)


def test_mask_shape_is_checked() -> None:
    with pytest.raises(ValueError, match=r"\(8, 8\)"):
        resize_mask(torch.zeros(8, 8), (4, 4))


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**31), st.floats(0.01, 0.99))
def test_neither_face_nor_rest_vanishes(seed: int, share: float) -> None:
    face = (torch.rand(1, 16, 16, generator=torch.Generator().manual_seed(seed)) < share).float()
    masks = Masks(face).at(4, 4)
    assert torch.equal(masks.face + masks.nonface, torch.ones(1, 4, 4))
    assert bool(masks.face.any()) == bool(face.any())
    assert bool(masks.nonface.any()) == bool((1 - face).any())


def test_flipped() -> None:
    masks = Masks(torch.tensor([[[1.0, 0.0, 0.0]]])).flipped()
    assert masks.face.tolist() == [[[0, 0, 1]]]
    assert masks.nonface.tolist() == [[[1, 1, 0]]]


def test_face_masks_of_nobody(analyser: FaceAnalyser) -> None:
    masks = face_masks(np.zeros((6, 8, 3), np.uint8), None, analyser)
    assert masks.face.shape == (1, 6, 8)
    assert masks.face.sum() == 0


def test_mask_from_images() -> None:
    grey = np.array([[0, 127, 128, 255]], np.uint8)
    assert mask_from_image(grey).tolist() == [[[0, 0, 1, 1]]]
    assert mask_from_image(Image.fromarray(grey).convert("RGB")).tolist() == [[[0, 0, 1, 1]]]
    painted = np.zeros((1, 3, 4), np.uint8)  # a brush of black paint on a transparent layer
    painted[0, 1, 3] = 255
    assert mask_from_image(Image.fromarray(painted)).tolist() == [[[0, 1, 0]]]
    opaque = np.full((1, 2, 4), 255, np.uint8)
    opaque[0, 0, :3] = 0
    assert mask_from_image(Image.fromarray(opaque)).tolist() == [[[0, 1]]]


def test_overlay_tints_the_region_only() -> None:
    pixels = np.full((20, 20, 3), 100, np.uint8)
    mask = torch.zeros(1, 20, 20)
    mask[:, 5:10, 5:10] = 1
    shown = overlay(pixels, mask)
    assert (shown[:4] == 100).all()
    assert (shown[7, 7] != 100).any()
    assert (pixels == 100).all()
    with pytest.raises(ValueError, match="height, width"):
        overlay(pixels, torch.zeros(1, 10, 10))


def test_object_masks(analyser: FaceAnalyser) -> None:
    image = Image.new("RGB", (200, 160), (40, 90, 160))
    ImageDraw.Draw(image).ellipse((60, 30, 150, 120), fill=(220, 180, 40))
    noise = np.random.default_rng(0).integers(-9, 9, (160, 200, 3))
    pixels = (np.asarray(image) + noise).clip(0, 255).astype(np.uint8)
    expected = np.asarray(image)[..., 0] > 128
    found = object_masks(pixels, analyser).face[0].numpy() > 0
    assert (found & expected).sum() / (found | expected).sum() > 0.9
    assert torch.equal(object_masks(pixels, analyser).face, object_masks(pixels, analyser).face)


def test_no_object_in_one_colour(analyser: FaceAnalyser) -> None:
    masks = object_masks(np.full((50, 50, 3), 90, np.uint8), analyser)
    assert masks.face.shape == (1, 50, 50)


def test_highlight_leaves_the_region_and_greys_the_rest() -> None:
    pixels = np.full((40, 40, 3), (200, 100, 50), np.uint8)
    mask = torch.zeros(1, 40, 40)
    mask[..., 10:30, 10:30] = 1
    shown = highlight(pixels, mask)
    assert (shown[20, 20] == pixels[20, 20]).all()
    outside = shown[2, 2]
    assert outside.max() < 90  # dark
    assert outside.max() == outside.min()  # and grey
    assert (shown[10, 20] != pixels[10, 20]).any()  # outlined
    with pytest.raises(ValueError, match="the mask is"):
        highlight(pixels, torch.zeros(1, 10, 10))
