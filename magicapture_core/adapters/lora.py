"""Eq. 3: W' = W + U Vᵀ on the cross-attention projections, through peft and diffusers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from magicapture_core.adapters.files import LORA_FILE
from magicapture_core.config import LoraTarget, TrainConfig
from magicapture_core.models import ModelBundle

ADAPTER = "default"
PROJECTIONS = r"(to_q|to_k|to_v|to_out\.0)"
UNET_MODULES: dict[LoraTarget, str] = {
    "cross": rf"attn2\.{PROJECTIONS}",
    "self": rf"attn1\.{PROJECTIONS}",
    "feed_forward": r"ff\.net\.(0\.proj|2)",
}
TEXT_MODULES = r".*self_attn\.(q_proj|k_proj|v_proj|out_proj)"


def add_lora(models: ModelBundle, config: TrainConfig) -> dict[str, nn.Parameter]:
    """Put fresh LoRA weights (fp32) into the networks. Returns them by name; the update starts at zero."""
    adapted = _adapted(models, config)
    # First values are drawn on the CPU. torch.manual_seed would seed the caller's GPUs, too.
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(config.seed)
        for network, pattern in adapted.values():
            network.add_adapter(_peft_config(config, pattern), ADAPTER)
    weights = {}
    for part, (network, _) in adapted.items():
        for name, parameter in network.named_parameters():
            if "lora_" in name:
                parameter.data = parameter.data.float()
                weights[f"{part}.{name}"] = parameter.requires_grad_(True)
    return weights


def remove_lora(models: ModelBundle) -> None:
    """Leave the networks as they were before `add_lora`."""
    from diffusers.utils import recurse_remove_peft_layers

    for network in _with_lora(models).values():
        recurse_remove_peft_layers(network)
        del network.peft_config
        network._hf_peft_config_loaded = False
        network.requires_grad_(False)


def save_lora(models: ModelBundle, folder: Path) -> None:
    """Write the networks' LoRA weights as plain diffusers' `load_lora_weights` reads them."""
    import diffusers
    from diffusers.utils import convert_state_dict_to_diffusers
    from peft import get_peft_model_state_dict

    layers: dict[str, Any] = {}
    for part, network in _with_lora(models).items():
        state: dict[str, Tensor] = get_peft_model_state_dict(network, adapter_name=ADAPTER)
        layers[f"{part}_lora_layers"] = convert_state_dict_to_diffusers(state)
        # Without it a reader has to guess alpha, and is wrong where alpha differs from the rank.
        layers[f"{part}_lora_adapter_metadata"] = network.peft_config[ADAPTER].to_dict()
    pipeline_class = getattr(diffusers, models.pipeline_class)
    pipeline_class.save_lora_weights(folder, weight_name=LORA_FILE, **layers)


def _with_lora(models: ModelBundle) -> dict[str, Any]:
    parts = {"unet": models.unet, **models.text_encoders}
    return {part: each for part, each in parts.items() if getattr(each, "_hf_peft_config_loaded", False)}


def _adapted(models: ModelBundle, config: TrainConfig) -> dict[str, tuple[Any, str]]:
    """Network and pattern of its adapted modules, by the network's name in diffusers' pipeline."""
    chosen = [UNET_MODULES[target] for target in config.lora_targets if target in UNET_MODULES]
    adapted: dict[str, tuple[Any, str]] = {"unet": (models.unet, rf".*({'|'.join(chosen)})")}
    if "text_encoder" in config.lora_targets:
        adapted |= {part: (encoder, TEXT_MODULES) for part, encoder in models.text_encoders.items()}
    return adapted


def _peft_config(config: TrainConfig, pattern: str) -> Any:
    from peft import LoraConfig

    return LoraConfig(
        r=config.lora_rank,
        lora_alpha=config.lora_alpha if config.lora_alpha is not None else config.lora_rank,
        target_modules=pattern,
    )
