"""Whether there is a CUDA GPU to compute on, here and now."""

from __future__ import annotations

import os


def has_gpu() -> bool:
    """Whether torch can compute on a CUDA GPU now.

    In a Space that lends its GPU (ZeroGPU) it can in a lent process only, where the GPU is in use from the beginning.
    In the server's own process torch.cuda.is_available() says yes, too: the package `spaces` emulates CUDA there.
    """
    import torch

    return torch.cuda.is_available() and (not lent_by_a_space() or torch.cuda.is_initialized())


def lent_by_a_space() -> bool:
    """Whether this is a Space whose GPU is lent for seconds at a time (ZeroGPU)."""
    return os.environ.get("SPACES_ZERO_GPU", "").lower() in ("1", "t", "true")
