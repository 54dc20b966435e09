"""Muon: momentum whose matrices are made orthogonal (after K. Jordan 2024, Moonshot's scale), AdamW for the rest.

On these small networks and short trainings a step of it is worth about two of AdamW.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn


def orthogonal(matrix: torch.Tensor, steps: int = 4) -> torch.Tensor:
    """Newton–Schulz: matrix (m, n) -> a matrix of the same singular vectors, singular values near 1."""
    a, b, c = 3.4445, -4.7750, 2.0315
    tall = matrix.shape[0] > matrix.shape[1]
    x = (matrix / (matrix.norm() + 1e-7)).to(torch.bfloat16)
    x = x.T if tall else x
    for _ in range(steps):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return (x.T if tall else x).to(matrix.dtype)


class Muon:
    """Two optimizers as one: `inner` weights (convolutions and projections) by Muon, all others by AdamW."""

    def __init__(self, model: nn.Module, inner_rate: float, rate: float, weight_decay: float = 0.01) -> None:
        """Rates at full learning rate; `step` takes a factor for warm-up and decay."""
        self.inner, others = [], []
        for name, parameter in model.named_parameters():
            edge = any(part in name for part in ("conv_in", "conv_out", "quant", "embedding"))
            (others if parameter.ndim < 2 or edge else self.inner).append(parameter)
        self.momenta = [torch.zeros_like(parameter) for parameter in self.inner]
        self.adam = torch.optim.AdamW(others, rate, betas=(0.9, 0.99), weight_decay=weight_decay)
        self.inner_rate, self.rate, self.weight_decay = inner_rate, rate, weight_decay

    def zero_grad(self) -> None:
        self.adam.zero_grad()
        for parameter in self.inner:
            parameter.grad = None

    @torch.no_grad()
    def step(self, factor: float) -> None:
        for group in self.adam.param_groups:
            group["lr"] = self.rate * factor
        self.adam.step()
        for parameter, momentum in zip(self.inner, self.momenta, strict=True):
            if parameter.grad is None:
                continue
            momentum.lerp_(parameter.grad, 0.05)
            update = torch.lerp(parameter.grad, momentum, 0.95).flatten(1)
            update = orthogonal(update) * (0.2 * max(update.shape) ** 0.5)
            parameter.mul_(1 - self.inner_rate * factor * self.weight_decay)
            parameter.add_(update.view_as(parameter), alpha=-self.inner_rate * factor)

    def state_dict(self) -> dict[str, Any]:
        return {"adam": self.adam.state_dict(), "momenta": self.momenta}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.adam.load_state_dict(state["adam"])
        for momentum, saved in zip(self.momenta, state["momenta"], strict=True):
            momentum.copy_(saved)
