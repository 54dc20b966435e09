"""torch.compile of the repeated blocks: one graph each, whether they are listened to or not, and the same numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from trainings import short

from magicapture_core.adapters.lora import add_lora, remove_lora
from magicapture_core.attention import listen
from magicapture_core.models import load
from magicapture_core.models.kernels import Kernels, repeated_blocks


def gradients(models: Any, positions: torch.Tensor | None) -> list[torch.Tensor]:
    """Of the prompt and the LoRA weights, of a pass whose maps count, and the maps."""
    weights = add_lora(models, short(seed=3))
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for weight in weights.values():
            weight.add_(torch.randn(weight.shape, generator=generator) * 0.05)
    hidden = torch.randn(2, 77, 32, generator=generator).requires_grad_()
    noisy = torch.randn(2, 4, 16, 16, generator=generator)
    with listen(models.unet, 8, 16) as store:
        store.positions = positions
        output = models.unet(noisy, torch.tensor([10, 500]), hidden).sample
        heard = store.take()
    assert len(heard) == (3 if positions is not None else 0)
    (output.square().mean() + sum(maps.square().sum() for maps in heard)).backward()
    found = [*heard, hidden.grad, *(weight.grad for weight in weights.values())]
    remove_lora(models)
    return [each.detach().clone() for each in found if each is not None]


@pytest.mark.long
@pytest.mark.parametrize("listened", [True, False])
def test_a_compiled_block_is_one_graph_and_computes_the_same(toy: Any, listened: bool) -> None:
    positions = torch.tensor([[1, 2], [3, -1]]) if listened else None
    plain = gradients(toy, positions)
    torch._dynamo.reset()
    blocks = repeated_blocks(toy.unet)
    assert {type(block).__name__ for block in blocks} == {"BasicTransformerBlock"}
    assert len(blocks) == 7
    for block in blocks:
        # A graph that broke would be an error; what makes kernels of graphs needs a compiler, and is torch's own.
        block.compile(backend="aot_eager", fullgraph=True)
    compiled = gradients(toy, positions)
    torch._dynamo.reset()
    for one, other in zip(plain, compiled, strict=True):
        torch.testing.assert_close(other, one, rtol=1e-4, atol=1e-6)


def test_a_switch_is_undone(toy: Any) -> None:
    Kernels(channels_last=True, compiled=True).apply(toy)
    convolution = toy.unet.conv_in.weight
    assert convolution.is_contiguous(memory_format=torch.channels_last)
    assert all(block._compiled_call_impl is not None for block in repeated_blocks(toy.unet))
    Kernels().apply(toy)
    assert convolution.is_contiguous()
    assert all(block._compiled_call_impl is None for block in repeated_blocks(toy.unet))
    assert toy.kernels == Kernels()


def test_the_memory_format_changes_no_model(toy: Any, toy_folder: Path) -> None:
    """What is saved and compared of a model does not depend on how its weights lie in memory."""
    from magicapture_core.models.fingerprint import fingerprint

    before = fingerprint(toy)
    noisy, hidden = torch.randn(1, 4, 16, 16), torch.randn(1, 77, 32)
    plain = toy.unet(noisy, torch.tensor([10]), hidden).sample
    Kernels(channels_last=True).apply(toy)
    assert fingerprint(toy) == before == fingerprint(load(toy_folder, device="cpu", dtype=torch.float32))
    torch.testing.assert_close(
        toy.unet(noisy, torch.tensor([10]), hidden).sample, plain, rtol=1e-4, atol=1e-5
    )
