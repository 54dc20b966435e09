"""The noise of a picture: of its seed, or near to that of an earlier picture."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def noise_near(
    seed: int, near: Sequence[int], variation: float, shape: tuple[int, ...], dtype: torch.dtype
) -> tuple[Tensor, torch.Generator]:
    """Starting noise near to that of an earlier picture, and the generator for what is drawn during denoising.

    Of two independent standard normal tensors a and b, sqrt(1 - v²) a + v b is standard normal again (v: variation). So
    the noise of the seeds near[0], near[1], … and then `seed` is folded one after the other: each picture of a chain is
    as far from the one before it. The generator is that of near[0], which has drawn its noise already; `next_seeds`
    says how it goes on.
    near: at least one seed; shape: (channels, h, w) of the latents. Returns (1, channels, h, w) on the CPU.
    """
    generators = [torch.Generator().manual_seed(each) for each in (*near, seed)]
    noise: Tensor | None = None
    for generator in generators:
        drawn = torch.randn((1, *shape), generator=generator, dtype=dtype)
        noise = drawn if noise is None else (1 - variation**2) ** 0.5 * noise + variation * drawn
    assert noise is not None
    return noise, generators[0]


def go_on_as(generator: torch.Generator, seed: int, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    """Let `generator` go on as that of `seed` does once it has drawn a picture's starting noise, (channels, h, w)."""
    generator.manual_seed(seed)
    torch.randn((1, *shape), generator=generator, dtype=dtype)


def next_seeds(seed: int, near: Sequence[int], variation: float, steps: int) -> dict[int, int]:
    """Denoising steps done, from 0 -> the seed of the noise that a sampler adds from there on.

    The first steps decide what is in the picture and the last ones its details. So the noise is that of near[0] for the
    share (1 - variation)³ of all steps, that of near[1] for the same share of the rest, and so on; then that of `seed`.
    """
    kept = (1 - variation) ** 3
    return {
        round(steps * (1 - (1 - kept) ** number)): each for number, each in enumerate((*near, seed)) if number
    }
