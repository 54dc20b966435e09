"""What a diffusion network reads beside the noisy latents."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Conditioning:
    """Encoded prompts, one an item. Indexing selects items."""

    encoder_hidden_states: Tensor
    """(b, tokens, width)."""
    added: Mapping[str, Tensor] = field(default_factory=dict)
    """What else the family's network takes of a prompt, by diffusers' names, each (b, …). Stable Diffusion: nothing."""

    def __getitem__(self, items: Tensor | slice) -> Conditioning:
        return self._each(lambda tensor: tensor[items])

    def expand(self, count: int) -> Conditioning:
        """One prompt for `count` pictures, as views."""
        return self._each(lambda tensor: tensor.expand(count, *tensor.shape[1:]))

    def to(self, dtype: torch.dtype) -> Conditioning:
        """The same in another precision."""
        return self._each(lambda tensor: tensor.to(dtype))

    def as_leaf(self) -> Conditioning:
        """A float32 copy without the graph behind it, in which the gradient of several calls adds up. See
        `backward_from`."""
        return self._each(lambda tensor: tensor.detach().float().requires_grad_())

    def backward_from(self, leaf: Conditioning) -> None:
        """Back-propagate the gradient that `leaf` (of `as_leaf`) has collected into what made this."""
        pairs = [
            (mine, theirs.grad.to(mine.dtype))
            for mine, theirs in zip(self._tensors(), leaf._tensors(), strict=True)
            if theirs.grad is not None
        ]
        if pairs:
            torch.autograd.backward([mine for mine, _ in pairs], [gradient for _, gradient in pairs])

    def _tensors(self) -> list[Tensor]:
        return [self.encoder_hidden_states, *self.added.values()]

    def _each(self, change: Callable[[Tensor], Tensor]) -> Conditioning:
        return Conditioning(
            change(self.encoder_hidden_states), {name: change(tensor) for name, tensor in self.added.items()}
        )
