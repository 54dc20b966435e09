"""Recording of cross-attention maps: the attention processor that computes A_k, and the store of its maps.

SDPA never forms the attention matrix, so the layers that are listened to compute it explicitly; every
other layer keeps the processor it has. Torch and the diffusers `Attention` interface only.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from magicapture_core.languages import _
from magicapture_core.problems import Problem


@dataclass
class AttentionStore:
    """Maps of the listened tokens, one entry per listening layer and UNet call."""

    positions: Tensor | None = None
    """(b, k) positions of the wanted tokens in each item's prompt; negative where absent."""
    maps: list[Tensor] = field(default_factory=list)
    """Per layer (b, k, heads, h, w); meaningless where the position is negative."""

    def take(self) -> list[Tensor]:
        """The maps recorded since the last call; the store is empty afterwards."""
        heard, self.maps = self.maps, []
        return heard


class ListeningProcessor:
    """Cross-attention by its definition, softmax(QKᵀ/√d)V, that leaves the wanted columns in a store.

    Works on layers whose projections carry LoRA: they are called as modules. Layers of another size
    than `resolution` (side of the map) fall through to the processor that was there.
    """

    def __init__(self, store: AttentionStore, resolution: int, otherwise: Any) -> None:
        self.store = store
        self.resolution = resolution
        self.otherwise = otherwise

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        **kwargs: Any,
    ) -> Tensor:
        """hidden_states: (b, h·w, channels); encoder_hidden_states: (b, tokens, width)."""
        cells = hidden_states.shape[1]
        wanted = self.store.positions is not None and cells == self.resolution**2
        if not wanted or encoder_hidden_states is None:
            return self.otherwise(attn, hidden_states, encoder_hidden_states, attention_mask, **kwargs)
        if attn.norm_cross:
            encoder_hidden_states = attn.norm_encoder_hidden_states(encoder_hidden_states)
        query, key, value = (
            projected.unflatten(-1, (attn.heads, -1)).transpose(1, 2)  # b heads n d
            for projected in (
                attn.to_q(hidden_states),
                attn.to_k(encoder_hidden_states),
                attn.to_v(encoder_hidden_states),
            )
        )
        # In fp32, which is more than `upcast_attention` asks for: what half precision rounds off a score is gone from
        # the map, and Eq. 8 scales maps by their extremes. These layers are small.
        with torch.autocast(query.device.type, enabled=False):
            scores = query.float() @ key.float().transpose(-1, -2) * attn.scale  # b heads hw tokens
        probabilities = scores.softmax(dim=-1)
        self.store.maps.append(self._columns(probabilities))
        out = (probabilities.to(value.dtype) @ value).transpose(1, 2).flatten(2)  # b hw channels
        return attn.to_out[1](attn.to_out[0](out)) / attn.rescale_output_factor

    def _columns(self, probabilities: Tensor) -> Tensor:
        """(b, heads, h·w, tokens) → (b, k, heads, h, w), the wanted tokens only."""
        positions = self.store.positions
        assert positions is not None
        index = positions.clamp(min=0)[:, None, None, :]  # b 1 1 k
        index = index.expand(-1, *probabilities.shape[1:3], -1)
        columns = probabilities.gather(-1, index)  # b heads hw k
        return columns.permute(0, 3, 1, 2).unflatten(-1, (self.resolution, self.resolution))


def cross_attention_sides(unet: Any, latent_side: int) -> list[int]:
    """Sides of the cross-attention maps in the down and up blocks, largest first, for a square latent."""
    sides = set()
    blocks = [(i, b) for i, b in enumerate(unet.down_blocks)]
    last = len(blocks) - 1
    blocks += [(last - i, b) for i, b in enumerate(unet.up_blocks)]
    for level, block in blocks:
        if getattr(block, "has_cross_attention", False):
            sides.add(-(-latent_side // 2**level))  # the UNet's halvings round up
    return sorted(sides, reverse=True)


def nearest_side(unet: Any, latent_side: int, wanted: float) -> int:
    """The size of cross-attention maps in the down and up blocks that is nearest to `wanted`."""
    return min(cross_attention_sides(unet, latent_side), key=lambda side: abs(side - wanted))


@contextmanager
def listen(unet: Any, resolution: int, latent_side: int) -> Iterator[AttentionStore]:
    """Within the context, cross-attention maps of side `resolution` in the down and up blocks are kept.

    Set `store.positions` before each UNet call, and `store.take()` the maps after it; with positions
    None nothing is kept and nothing costs more. Raises Problem if the UNet has no such maps.
    """
    sides = cross_attention_sides(unet, latent_side)
    if resolution not in sides:
        raise Problem(
            _(
                "attention_resolution must be a size at which this model has cross-attention in its down and up "
                "blocks: {sides} for latents of {side}×{side}; got {resolution}.",
                sides=", ".join(map(str, sides)),
                side=latent_side,
                resolution=resolution,
            )
        )
    store = AttentionStore()
    before = unet.attn_processors
    unet.set_attn_processor(
        {
            name: ListeningProcessor(store, resolution, processor) if _listened(name) else processor
            for name, processor in before.items()
        }
    )
    try:
        yield store
    finally:
        unet.set_attn_processor(before)


def _listened(name: str) -> bool:
    return ".attn2." in name and not name.startswith("mid_block")


def mean_map(maps: list[Tensor]) -> Tensor:
    """Average over layers and heads, for people to look at. [(b,k,heads,h,w)] → (b,k,h,w)."""
    return torch.stack([m.detach().float().mean(2) for m in maps]).mean(0)
