"""Listening must not change what the network computes, and must hear softmax(QKᵀ/√d) itself."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from magicapture_core.attention import cross_attention_sides, listen, mean_map
from magicapture_core.problems import Problem


@pytest.fixture
def inputs(toy: Any) -> dict[str, Any]:
    """A UNet call of two items."""
    generator = torch.Generator().manual_seed(3)
    width = toy.unet.config.cross_attention_dim
    return {
        "sample": torch.randn(2, 4, 16, 16, generator=generator),
        "timestep": torch.tensor([10, 500]),
        "encoder_hidden_states": torch.randn(2, 77, width, generator=generator),
    }


def test_sides_of_the_toy(toy: Any) -> None:
    assert cross_attention_sides(toy.unet, 16) == [8, 4]


@pytest.mark.parametrize("side", [16, 22, 19])
def test_sides_are_those_that_the_unet_makes(toy: Any, side: int) -> None:
    cells = set()
    for name, module in toy.unet.named_modules():
        if name.endswith("attn2") and "mid_block" not in name:
            module.to_q.register_forward_hook(lambda _m, given, _o: cells.add(given[0].shape[1]))
    hidden = torch.zeros(1, 77, toy.unet.config.cross_attention_dim)
    toy.unet(torch.zeros(1, 4, side, side), torch.tensor([10]), hidden)
    assert {found**2 for found in cross_attention_sides(toy.unet, side)} == cells


def test_listening_changes_nothing(toy: Any, inputs: dict[str, Any]) -> None:
    plain = toy.unet(**inputs).sample
    before = toy.unet.attn_processors
    with listen(toy.unet, 8, 16) as store:
        store.positions = torch.tensor([[1, 2], [3, 4]])
        heard = toy.unet(**inputs).sample
    torch.testing.assert_close(heard, plain, rtol=1e-4, atol=1e-5)
    assert toy.unet.attn_processors == before


def test_hears_only_the_wanted_size_and_tokens(toy: Any, inputs: dict[str, Any]) -> None:
    with listen(toy.unet, 8, 16) as store:
        store.positions = torch.tensor([[1, 2], [3, -1]])
        toy.unet(**inputs)
        maps = store.take()
        assert store.take() == []
    # One layer in the down block and two in the up block have maps of side 8.
    assert len(maps) == 3
    heads = toy.unet.down_blocks[1].attentions[0].transformer_blocks[0].attn2.heads
    assert all(m.shape == (2, 2, heads, 8, 8) for m in maps)
    assert mean_map(maps).shape == (2, 2, 8, 8)


def test_maps_are_softmax_of_scaled_scores(toy: Any, inputs: dict[str, Any]) -> None:
    layer = toy.unet.down_blocks[1].attentions[0].transformer_blocks[0].attn2
    seen: list[torch.Tensor] = []
    handle = layer.register_forward_pre_hook(lambda _m, args, _kwargs: seen.append(args[0]), with_kwargs=True)
    with listen(toy.unet, 8, 16) as store:
        store.positions = torch.tensor([[5], [6]])
        toy.unet(**inputs)
        heard = store.take()[0][0, 0]  # item 0, token 5: heads h w
    handle.remove()
    width = layer.to_q.out_features // layer.heads
    query = layer.to_q(seen[0][0]).view(64, layer.heads, width)
    key = layer.to_k(inputs["encoder_hidden_states"][0]).view(77, layer.heads, width)
    for head in range(layer.heads):
        scores = query[:, head] @ key[:, head].T / width**0.5
        expected = scores.softmax(dim=-1)[:, 5].view(8, 8)
        torch.testing.assert_close(heard[head], expected, rtol=1e-4, atol=1e-6)


def test_nothing_is_kept_unless_asked(toy: Any, inputs: dict[str, Any]) -> None:
    with listen(toy.unet, 8, 16) as store:
        toy.unet(**inputs)
        assert store.take() == []


def test_a_size_the_model_lacks_is_refused(toy: Any) -> None:
    with pytest.raises(Problem, match=r"8, 4 for latents of 16×16; got 16"), listen(toy.unet, 16, 16):
        pass


def test_processors_come_back_after_an_error(toy: Any) -> None:
    before = toy.unet.attn_processors
    with pytest.raises(RuntimeError, match="boom"), listen(toy.unet, 8, 16):
        raise RuntimeError("boom")
    assert toy.unet.attn_processors == before
