"""Restoration and upscaling networks with random weights, in files of the published layout."""

from __future__ import annotations

import sys
import types
import warnings
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file


def save_gfpgan(path: Path) -> None:
    """As GFPGANv1.4.pth: gfpgan's own network under "params_ema", in half of its file's usual size."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        _restore_functional_tensor()
        from gfpgan.archs.gfpganv1_clean_arch import GFPGANv1Clean

        torch.manual_seed(0)
        network = GFPGANv1Clean(
            out_size=512, num_style_feat=512, channel_multiplier=2, fix_decoder=False, num_mlp=8, input_is_latent=True,
            different_w=True, narrow=1, sft_half=True,
        )  # fmt: skip
    torch.save({"params_ema": _half(network.state_dict())}, path)


def save_codeformer(path: Path) -> None:
    """As codeformer.pth: the network of its paper's settings under "params_ema"."""
    import importlib

    module: Any = importlib.import_module("spandrel_extra_arches.architectures.CodeFormer.__arch.codeformer")
    torch.manual_seed(0)
    network = module.CodeFormer(
        dim_embd=512, n_head=8, n_layers=9, codebook_size=1024, connect_list=["32", "64", "128", "256"]
    )
    torch.save({"params_ema": _half(network.state_dict())}, path)


def mini_upscaler_state() -> dict[str, torch.Tensor]:
    """Weights of the mini upscaler's layout that enlarge plainly: the network adds its output to nearest neighbours."""
    from realesrgan.archs.srvgg_arch import SRVGGNetCompact

    network = SRVGGNetCompact(num_feat=32, num_conv=12, upscale=2, act_type="prelu")
    return {key: value * (0.05 if "body.26" in key else 1.0) for key, value in network.state_dict().items()}


def save_mini_upscaler(path: Path) -> None:
    """As assets/mini/upscaler.safetensors, random."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        _restore_functional_tensor()
        torch.manual_seed(0)
        save_file(mini_upscaler_state(), path)


def _half(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {key: value.half() if value.is_floating_point() else value for key, value in state.items()}


def _restore_functional_tensor() -> None:
    """basicsr imports a module that torchvision has given up."""
    from torchvision.transforms import functional

    name = "torchvision.transforms.functional_tensor"
    if name not in sys.modules:
        module: Any = types.ModuleType(name)
        module.rgb_to_grayscale = functional.rgb_to_grayscale
        sys.modules[name] = module
