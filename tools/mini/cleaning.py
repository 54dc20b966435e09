"""From the face embedding of a bad photo to that of the same face as the training's pictures show it.

Words of people are made of photos: small, tinted, of another light. A model that learned its words from good pictures
only needs this map before them; one that learned them from spoiled pictures has it in its words already.
"""

from __future__ import annotations

import torch
from torch import Tensor

RIDGE = 0.02
"""How hard the map is held back, in the mean variance of a number of the embeddings."""


def cleaning(spoiled: Tensor, people: Tensor) -> tuple[Tensor, Tensor]:
    """Weight (d, d) and bias (d,) of the ridge regression from `spoiled` (n, d) to `people` (n, d); float32."""
    bad, good = spoiled.double().cpu(), people.double().cpu()
    bad_mean, good_mean = bad.mean(0), good.mean(0)
    centred, size = bad - bad_mean, bad.shape[1]
    covariance = centred.T @ centred / len(bad)
    ridge = RIDGE * covariance.diagonal().mean() * torch.eye(size, dtype=torch.float64)
    across = (good - good_mean).T @ centred / len(bad)
    weight = torch.linalg.solve(covariance + ridge, across.T).T
    return weight.float(), (good_mean - weight @ bad_mean).float()


def nothing_to_clean(size: int) -> tuple[Tensor, Tensor]:
    """The map that leaves an embedding as it is."""
    return torch.eye(size), torch.zeros(size)
