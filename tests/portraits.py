"""Short generations on the toy model, and what a generation must leave as it was."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from toy import ToyAnalyser

from magicapture_core.config import GenerateConfig
from magicapture_core.generation import Portrait, generate
from magicapture_core.models import ModelBundle

QUICK = {"steps": 2, "seed": 5}


def portraits(toy: ModelBundle, run: Path | None, **changes: Any) -> list[Portrait]:
    return list(generate(toy, run, GenerateConfig(**{**QUICK, **changes}), analyser=ToyAnalyser()))


def pixels(portrait: Portrait) -> np.ndarray:
    return np.asarray(portrait.image).astype(int)


class Snapshot:
    """Everything of a bundle that a generation could leave changed."""

    def __init__(self, models: ModelBundle) -> None:
        self.models = models
        self.before = self.look()

    def look(self) -> dict[str, Any]:
        seen: dict[str, Any] = {"tokens": self.models.tokenizer.get_vocab()}
        for name in ("unet", "vae", *self.models.text_encoders):
            network = getattr(self.models, name)
            seen[name] = {key: value.clone() for key, value in network.state_dict().items()}
            seen[name + " modules"] = [(key, type(module)) for key, module in network.named_modules()]
            seen[name + " grads"] = [(key, p.requires_grad) for key, p in network.named_parameters()]
            seen[name + " training"] = network.training
            # The second: transformers hooks a text encoder once, when its hidden states are first asked for.
            passing = {"_hf_peft_config_loaded", "_output_capturing_hooks_installed"}
            seen[name + " attributes"] = sorted(set(vars(network)) - passing)
            seen[name + " peft"] = bool(getattr(network, "_hf_peft_config_loaded", False))
            seen[name + " config"] = dict(
                network.config.to_dict() if name.startswith("text") else network.config
            )
        seen["processors"] = {key: type(value) for key, value in self.models.unet.attn_processors.items()}
        seen["forward"] = "forward" in vars(self.models.text_encoder.get_input_embeddings())
        seen["random"] = torch.get_rng_state()
        return seen

    def check(self) -> None:
        after = self.look()
        for what, before in self.before.items():
            if isinstance(before, dict) and before and isinstance(next(iter(before.values())), torch.Tensor):
                assert before.keys() == after[what].keys(), what
                assert all(torch.equal(before[key], after[what][key]) for key in before), what
            elif isinstance(before, torch.Tensor):
                assert torch.equal(before, after[what]), what
            else:
                assert before == after[what], what


def plain_diffusers(folder: Path, run: Path, *, scale: float, prompt: str) -> np.ndarray:
    """The same picture with nothing but diffusers, as the model card says."""
    from diffusers import EulerAncestralDiscreteScheduler, StableDiffusionPipeline

    pipe = StableDiffusionPipeline.from_pretrained(folder, local_files_only=True, safety_checker=None)
    pipe.scheduler = EulerAncestralDiscreteScheduler.from_config(pipe.scheduler.config)
    adapter = str(run / "adapter")
    pipe.load_textual_inversion(adapter, weight_name="subject.safetensors", token="<subject>")
    pipe.load_textual_inversion(adapter, weight_name="style.safetensors", token="<style>")
    pipe.load_lora_weights(adapter, adapter_name="run")
    pipe.set_adapters("run", scale)
    pipe.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(QUICK["seed"])
    picture = pipe(prompt, num_inference_steps=2, guidance_scale=7.0, generator=generator).images[0]
    return np.asarray(picture).astype(int)
