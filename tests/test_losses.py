"""Eqs. 4 to 8 against numbers worked out by hand, and the properties they must have."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from magicapture_core import losses


def picture(rows: list[list[float]]) -> torch.Tensor:
    """A (1, 1, h, w) tensor."""
    return torch.tensor(rows)[None, None]


def test_masked_reconstruction_is_the_mean_of_squares_over_the_region() -> None:
    # Differences 1, 2 / 3, 4; the region is the left column: (1² + 3²) / 2 cells = 5.
    target = picture([[1.0, 2.0], [3.0, 4.0]])
    mask = picture([[1.0, 0.0], [1.0, 0.0]])
    loss = losses.masked_reconstruction(target, torch.zeros_like(target), mask)
    assert loss.tolist() == [5.0]


def test_masked_reconstruction_counts_every_channel() -> None:
    # Two channels with differences 1 and 3 in one masked cell: (1 + 9) / (1 cell * 2 channels) = 5.
    target = torch.tensor([1.0, 3.0]).view(1, 2, 1, 1)
    assert (
        losses.masked_reconstruction(target, torch.zeros_like(target), torch.ones(1, 1, 1, 1)).item() == 5.0
    )


def test_masked_reconstruction_of_an_empty_region_is_zero() -> None:
    target = torch.ones(1, 4, 2, 2)
    assert losses.masked_reconstruction(target, target * 3, torch.zeros(1, 1, 2, 2)).item() == 0.0


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 2**31 - 1))
def test_masked_reconstruction_ignores_what_lies_outside(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    target, output, other = torch.randn(3, 2, 4, 8, 8, generator=generator).unbind(0)
    mask = (torch.rand(2, 1, 8, 8, generator=generator) > 0.5).float()
    changed = torch.where(mask.bool(), output, other * 1e3)
    assert torch.equal(
        losses.masked_reconstruction(target, output, mask),
        losses.masked_reconstruction(target, changed, mask),
    )


def test_masked_reconstruction_has_no_gradient_outside() -> None:
    output = torch.randn(1, 4, 4, 4, requires_grad=True)
    mask = torch.zeros(1, 1, 4, 4)
    mask[..., :2] = 1
    losses.masked_reconstruction(torch.zeros(1, 4, 4, 4), output, mask).sum().backward()
    assert output.grad is not None
    assert (output.grad[..., 2:] == 0).all()
    assert (output.grad[..., :2] != 0).all()


def test_noise_is_added_as_the_paper_says() -> None:
    # abar = 0.64: z_t = 0.8 z + 0.6 eps = 0.8 * 2 + 0.6 * 5 = 4.6.
    z, eps, abar = torch.full((1, 1, 1, 1), 2.0), torch.full((1, 1, 1, 1), 5.0), torch.tensor([0.64])
    assert losses.add_noise(z, eps, abar).item() == pytest.approx(4.6)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_tweedie_gives_back_the_latents(prediction: losses.PredictionType) -> None:
    z, eps = torch.randn(2, 3, 4, 4, 4, generator=torch.Generator().manual_seed(0)).unbind(0)
    abar = torch.tensor([0.9, 0.5, 0.1])
    noisy = losses.add_noise(z, eps, abar)
    output = losses.target_of(z, eps, abar, prediction)
    torch.testing.assert_close(losses.pred_original_sample(noisy, output, abar, prediction), z)


def test_tweedie_worked_example() -> None:
    # z_t = 4.6, eps = 5, abar = 0.64: z0 = (4.6 - 0.6 * 5) / 0.8 = 2.
    noisy, eps = torch.full((1, 1, 1, 1), 4.6), torch.full((1, 1, 1, 1), 5.0)
    assert losses.pred_original_sample(noisy, eps, torch.tensor([0.64]), "epsilon").item() == pytest.approx(
        2.0
    )


def test_velocity_worked_example() -> None:
    # v = 0.8 * 5 - 0.6 * 2 = 2.8.
    z, eps = torch.full((1, 1, 1, 1), 2.0), torch.full((1, 1, 1, 1), 5.0)
    assert losses.target_of(z, eps, torch.tensor([0.64]), "v_prediction").item() == pytest.approx(2.8)


def test_identity_is_one_minus_the_cosine() -> None:
    # (1,0)·(1,1)/√2 = 0.7071; opposite vectors cost 2; length does not matter.
    generated = torch.tensor([[3.0, 0.0], [1.0, 0.0]])
    subject = torch.tensor([[1.0, 1.0], [-5.0, 0.0]])
    expected = [1 - 1 / math.sqrt(2), 2.0]
    assert losses.identity(generated, subject).tolist() == pytest.approx(expected)


def test_scale_to_unit_uses_each_head_on_its_own() -> None:
    maps = torch.tensor([[[[1.0, 3.0], [2.0, 1.0]], [[0.1, 0.1], [0.1, 0.6]]]])
    expected = [[[[0.0, 1.0], [0.5, 0.0]], [[0.0, 0.0], [0.0, 1.0]]]]
    torch.testing.assert_close(losses.scale_to_unit(maps), torch.tensor(expected))


@pytest.mark.parametrize("factor", [1e-3, 1e-10, 1e-30])
def test_scale_to_unit_does_not_depend_on_how_much_attention_there_is(factor: float) -> None:
    """Else Eq. 8 could be met by attending to a token nowhere."""
    maps = torch.rand(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(losses.scale_to_unit(maps * factor), losses.scale_to_unit(maps))


def test_scale_to_unit_of_a_flat_map_is_finite() -> None:
    assert losses.scale_to_unit(torch.full((1, 1, 2, 2), 0.3)).tolist() == [[[[0.0, 0.0], [0.0, 0.0]]]]


def test_attention_refocusing_worked_example() -> None:
    # One head, same grid: S = [[0, 1], [.5, 0]]. Outside the region (left column free) stand 1 and 0, and the .5
    # inside costs nothing: (1² + 0²) / 4 cells.
    maps = picture([[1.0, 3.0], [2.0, 1.0]])
    mask = picture([[1.0, 0.0], [1.0, 0.0]])
    assert losses.attention_refocusing(maps, mask).item() == pytest.approx(0.25)


def test_a_word_with_a_small_outside_weighs_little() -> None:
    # A face of one cell in four, looked at equally by both words: S is 1 in the face and 0 around it, or the reverse.
    # [V1] may look there and not around: 0. [V2], whose outside is the face: 1 cell of 4. Turned round: 3 of 4 and 0.
    face = picture([[1.0, 0.0], [0.0, 0.0]])
    at_face, around = face * 0.3 + 0.1, 0.4 - face * 0.3
    costs = {
        (word, where): losses.attention_refocusing(maps, region).item()
        for word, region in (("V1", face), ("V2", 1 - face))
        for where, maps in (("face", at_face), ("around", around))
    }
    assert costs == {("V1", "face"): 0, ("V2", "face"): 0.25, ("V1", "around"): 0.75, ("V2", "around"): 0}


@pytest.mark.parametrize("inverted", [False, True], ids=["V1", "V2"])
@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 2**31 - 1))
def test_attention_refocusing_is_the_authors_form(seed: int, inverted: bool) -> None:
    """Written out map by map: resized, scaled, 1 inside, mean of all heads, squared difference, mean of all cells."""
    generator = torch.Generator().manual_seed(seed)
    maps = torch.rand(1, 6, 4, 4, generator=generator).softmax(1)
    mask = torch.zeros(1, 1, 8, 8)
    mask[..., 2:6, 3:7] = 1
    mask = 1 - mask if inverted else mask
    total = torch.zeros(8, 8, dtype=torch.float64)
    for head in maps[0]:
        large = torch.nn.functional.interpolate(head[None, None], size=(8, 8), mode="bilinear")[0, 0].double()
        scaled = (large - large.min()) / (large.max() - large.min())
        scaled[mask[0, 0] == 1] = 1
        total += scaled
    expected = ((total / 6 - mask[0, 0]) ** 2).mean().item()
    assert losses.attention_refocusing(maps, mask).item() == pytest.approx(expected, abs=1e-5)


def test_attention_refocusing_averages_heads_before_squaring() -> None:
    # Heads scaled to [0, 1] and [1, 0] average to [.5, .5]; the right cell is outside: .25 / 2 cells.
    maps = torch.tensor([[[[0.0, 2.0]], [[4.0, 0.0]]]])
    mask = picture([[1.0, 0.0]])
    assert losses.attention_refocusing(maps, mask).item() == pytest.approx(0.125)


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 2**31 - 1))
def test_attention_refocusing_is_free_where_the_mask_is_one(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    maps = torch.rand(2, 3, 8, 8, generator=generator) * 0.8 + 0.1
    mask = (torch.rand(2, 1, 8, 8, generator=generator) > 0.5).float()
    maps[..., 0, 0], maps[..., 0, 1] = 0.0, 1.0  # the extrema stay where they are
    mask[..., 0, :2] = 0
    other = torch.where(mask.bool(), maps.flip(1) * 0.5 + 0.2, maps)
    assert torch.equal(losses.attention_refocusing(maps, mask), losses.attention_refocusing(other, mask))


def test_attention_refocusing_has_no_gradient_where_the_mask_is_one() -> None:
    maps = torch.rand(1, 2, 4, 4, generator=torch.Generator().manual_seed(1)).requires_grad_()
    mask = torch.zeros(1, 1, 4, 4)
    mask[..., 1:3, 1:3] = 1
    losses.attention_refocusing(maps, mask).sum().backward()
    assert maps.grad is not None
    inside = maps.grad[..., 1:3, 1:3]
    assert (inside == 0).all()
    assert (maps.grad != 0).any()


def test_maps_of_rounding_noise_get_no_huge_gradient() -> None:
    maps = (
        0.013 + 1e-9 * torch.rand(1, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    ).requires_grad_()
    losses.attention_refocusing(maps, torch.zeros(1, 1, 8, 8)).sum().backward()
    assert maps.grad is not None
    assert maps.grad.abs().max() < 1e3


def test_extrema_are_detached() -> None:
    # d S / d A = 1 / (max - min) everywhere, the cells that hold the extrema included.
    maps = picture([[1.0, 5.0], [3.0, 2.0]]).requires_grad_()
    losses.scale_to_unit(maps).sum().backward()
    assert maps.grad is not None
    assert maps.grad.flatten().tolist() == [0.25] * 4


def gradient(maps: torch.Tensor, mask: torch.Tensor, scale: losses.Scale) -> torch.Tensor:
    maps = maps.clone().requires_grad_()
    losses.attention_refocusing(maps, mask, scale).sum().backward()
    assert maps.grad is not None
    return maps.grad


def test_attention_measured_by_its_region() -> None:
    # 1 on average within; 3 / (3 + 1) and 1 / (1 + 1) outside: (.5625 + .25) / 4.
    maps = picture([[0.5, 3.0], [1.5, 1.0]])
    mask = picture([[1.0, 0.0], [1.0, 0.0]])
    assert losses.attention_refocusing(maps, mask, "region").item() == pytest.approx(0.203125)


def test_measured_by_its_region_less_attention_everywhere_is_no_progress() -> None:
    maps = torch.rand(1, 2, 8, 8, generator=torch.Generator().manual_seed(2))
    mask = torch.zeros(1, 1, 8, 8)
    mask[..., 2:6, 2:6] = 1
    drift = {scale: float((gradient(maps, mask, scale) * maps).sum()) for scale in ("extremes", "region")}
    assert drift["region"] == pytest.approx(0, abs=1e-6)
    assert drift["extremes"] > 0.05


def test_measured_by_its_region_attention_goes_from_outside_to_inside() -> None:
    maps = torch.rand(1, 2, 8, 8, generator=torch.Generator().manual_seed(3)) + 0.01
    maps[..., 0, 0] = 5.0  # the peak is outside, and it, too, must go
    mask = torch.zeros(1, 1, 8, 8)
    mask[..., 2:6, 2:6] = 1
    slope = gradient(maps, mask, "region")
    assert (slope[..., 2:6, 2:6] < 0).all()
    assert (slope[(mask == 0).expand_as(slope)] > 0).all()


def test_measured_by_a_region_that_is_empty_or_never_looked_at_the_gradient_is_finite() -> None:
    nowhere = torch.zeros(1, 1, 4, 4)
    assert gradient(torch.rand(1, 2, 4, 4), nowhere, "region").isfinite().all()
    assert gradient(torch.zeros(1, 2, 4, 4), nowhere + torch.eye(4), "region").isfinite().all()


def test_attention_refocusing_with_everything_inside_is_zero() -> None:
    assert losses.attention_refocusing(torch.rand(1, 2, 4, 4), torch.ones(1, 1, 4, 4)).item() == 0.0


def test_share_of_attention_outside() -> None:
    # 1 + 3 inside, 2 + 2 outside: half.
    maps = picture([[1.0, 2.0], [3.0, 2.0]])
    mask = picture([[1.0, 0.0], [1.0, 0.0]])
    assert losses.attention_outside(maps, mask).item() == pytest.approx(0.5)


def test_chroma_is_colour_without_lightness() -> None:
    # One cell of pure red and one of grey: Cb = -.168736, Cr = .5; grey has none, however light.
    red, grey = torch.tensor([1.0, -1, -1]), torch.full((3,), 0.6)
    cells = torch.stack([red, grey], dim=1).view(1, 3, 1, 2).repeat_interleave(2, 2).repeat_interleave(2, 3)
    found = losses.chroma_of(cells, 2)
    assert found.shape == (1, 2, 1, 2)
    torch.testing.assert_close(found[0, :, 0, 0], torch.tensor([-0.168736, 0.5]), atol=1e-5, rtol=0)
    torch.testing.assert_close(found[0, :, 0, 1], torch.zeros(2), atol=1e-5, rtol=0)


def shared(variety: float) -> losses.FaceColour:
    return losses.FaceColour(torch.zeros(2), torch.tensor(variety))


def test_face_colour_worked_example() -> None:
    # Distances .3, .05 and (outside the face) .9 from the wanted colour, of which .1 is the style's own variety:
    # ((.2 / .1)² + 0) / 2 cells of the face.
    chroma = torch.zeros(1, 2, 1, 3)
    chroma[0, 0, 0] = torch.tensor([0.3, 0.05, 0.9])
    face = torch.tensor([1.0, 1, 0]).view(1, 1, 1, 3)
    assert losses.face_colour(chroma, face, shared(0.1)).item() == pytest.approx(2.0)
    assert losses.face_colour(chroma, face * 0, shared(0.1)).item() == 0


def test_a_colour_within_the_styles_variety_is_left_alone() -> None:
    chroma = torch.full((1, 2, 2, 2), 0.03).requires_grad_()
    losses.face_colour(chroma, torch.ones(1, 1, 2, 2), shared(0.05)).sum().backward()
    assert chroma.grad is not None
    assert (chroma.grad == 0).all()


def test_lightness_of_a_face_worked_example() -> None:
    # Two cells of 2×2 pixels: grey of .2 and .6, of which the second is the face; .6 is .1 beyond .45 + .05.
    cells = torch.tensor([0.2, 0.6]).view(1, 1, 1, 2).repeat_interleave(2, 2).repeat_interleave(2, 3)
    light = losses.face_lightness(cells.expand(1, 3, 2, 4) * 2 - 1, torch.tensor([0.0, 1]).view(1, 1, 1, 2))
    assert light.item() == pytest.approx(0.6)
    assert losses.skin_lightness(light, torch.tensor(0.45)).item() == pytest.approx(1.0, rel=1e-4)
    assert losses.skin_lightness(light, torch.tensor(0.57)).item() == 0
