"""Muon: momentum whose matrices are made orthogonal (after K. Jordan 2024, Moonshot's scale), AdamW for the rest.

On these small networks and short trainings a step of it is worth about two of AdamW.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

EDGES = ("conv_in", "conv_out", "quant", "embedding")
"""Parts of names: first and last layers, whose matrices are not to be orthogonal, belong to AdamW."""
MOMENTUM = 0.95


def orthogonal(matrices: Tensor, steps: int = 4) -> Tensor:
    """Newton–Schulz: matrices (k, m, n) -> matrices of the same singular vectors, singular values near 1."""
    a, b, c = 3.4445, -4.7750, 2.0315
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices / (matrices.norm(dim=(1, 2), keepdim=True) + 1e-7)
    x = x.to(torch.bfloat16 if matrices.is_cuda else torch.float32)
    x = x.mT if tall else x
    for _ in range(steps):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return (x.mT if tall else x).to(matrices.dtype)


class Muon:
    """Two optimizers as one: inner weights (convolutions and projections) by Muon, all others by AdamW.

    It keeps the true weights in float32 (`masters`) and copies them after each step into the network, which may
    compute in bfloat16, whose 8 bits would lose most updates. It also keeps their moving average, which is the result.
    """

    def __init__(
        self, named: Iterable[tuple[str, nn.Parameter]], inner_rate: float, rate: float,
        weight_decay: float = 0.01, average: float = 0.999,
    ) -> None:  # fmt: skip
        """Rates at full learning rate; `step` takes a factor for warm-up and decay. average: how slowly it moves."""
        self.weights = dict(named)
        self.masters = {name: weight.detach().float().clone() for name, weight in self.weights.items()}
        self.averages = {name: master.clone() for name, master in self.masters.items()}
        inner = [n for n, w in self.weights.items() if w.ndim >= 2 and not any(edge in n for edge in EDGES)]
        self.momenta = {name: torch.zeros_like(self.masters[name]) for name in inner}
        self.others = [name for name in self.weights if name not in self.momenta]
        # Matrices of like shape go through Newton–Schulz together: hundreds of small products would be slow.
        self.alike: dict[tuple[int, int], list[str]] = {}
        for name in inner:
            rows, columns = self.masters[name].flatten(1).shape
            self.alike.setdefault((min(rows, columns), max(rows, columns)), []).append(name)
        fused = any(master.is_cuda for master in self.masters.values())
        self.adam = torch.optim.AdamW(
            [self.masters[name] for name in self.others], rate, betas=(0.9, 0.99), weight_decay=0, fused=fused
        )
        self.inner_rate, self.rate, self.weight_decay = inner_rate, rate, weight_decay
        self.average, self.steps = average, 0

    @torch.no_grad()
    def step(self, factor: float, clip: float = 1.0) -> None:
        """Update with the gradients, their norm cut at `clip`; gradients that are not finite count as zero."""
        gradients = self._gradients(clip)
        for name in self.others:
            self.masters[name].grad = gradients[name]
        for group in self.adam.param_groups:
            group["lr"] = self.rate * factor
        self.adam.step()
        for names in self.alike.values():
            self._turn(names, gradients, self.inner_rate * factor)
        masters = list(self.masters.values())
        torch._foreach_copy_(list(self.weights.values()), masters)
        self.steps += 1
        keep = min(self.average, (1 + self.steps) / (10 + self.steps))  # young averages forget faster
        torch._foreach_lerp_(list(self.averages.values()), masters, 1 - keep)
        for weight in self.weights.values():
            weight.grad = None

    def _gradients(self, clip: float) -> dict[str, Tensor]:
        """Float32, of total norm `clip` at most."""
        found = {
            name: torch.zeros_like(self.masters[name]) if weight.grad is None else weight.grad.float()
            for name, weight in self.weights.items()
        }
        norm = torch.stack(torch._foreach_norm(list(found.values()))).norm()
        scale, finite = clip / norm.clamp_min(clip), norm.isfinite()
        # On the device, without asking it for the norm: that would make every step wait.
        return {name: torch.where(finite, gradient * scale, 0.0) for name, gradient in found.items()}

    def _turn(self, names: list[str], gradients: dict[str, Tensor], rate: float) -> None:
        """The step of matrices that have the same shape, or the same turned on its side."""
        updates = []
        for name in names:
            momentum = self.momenta[name].lerp_(gradients[name], 1 - MOMENTUM)
            update = torch.lerp(gradients[name], momentum, MOMENTUM).flatten(1)
            updates.append(update.T if update.shape[0] > update.shape[1] else update)
        stack = torch.stack(updates)
        for name, update in zip(names, orthogonal(stack) * (0.2 * stack.shape[2] ** 0.5), strict=True):
            master = self.masters[name]
            tall = master.shape[0] > master.flatten(1).shape[1]
            master.mul_(1 - rate * self.weight_decay)
            master.add_((update.T if tall else update).reshape(master.shape), alpha=-rate)

    @torch.no_grad()
    def put_averages(self) -> None:
        """Give the network the averaged weights. (The next step brings the true ones back.)"""
        torch._foreach_copy_(list(self.weights.values()), list(self.averages.values()))

    @torch.no_grad()
    def restart(self, weights: Mapping[str, Tensor]) -> None:
        """Begin from other weights (float32), of the same names."""
        for name, master in self.masters.items():
            master.copy_(weights[name])
            self.averages[name].copy_(weights[name])
            self.weights[name].copy_(weights[name])

    def state_dict(self) -> dict[str, Any]:
        return {"adam": self.adam.state_dict(), "momenta": self.momenta, "masters": self.masters,
                "averages": self.averages, "steps": self.steps}  # fmt: skip

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.adam.load_state_dict(state["adam"])
        for kind in ("momenta", "masters", "averages"):
            for name, tensor in getattr(self, kind).items():
                tensor.copy_(state[kind][name])
        torch._foreach_copy_(list(self.weights.values()), list(self.masters.values()))
        self.steps = state["steps"]
