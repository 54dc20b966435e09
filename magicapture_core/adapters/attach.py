"""A saved adapter in a pipeline's networks, for as long as pictures are generated."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from magicapture_core.adapters.files import LORA_FILE, UNET_FILE, has_unet_weights
from magicapture_core.adapters.full_weights import replaced
from magicapture_core.files import read_tensors
from magicapture_core.problems import RunProblem, ran_out_of_memory

DOES_NOT_FIT = (
    "{file} does not fit this model or is damaged ({reason}). Use the model that the run was trained on."
)


@contextmanager
def attached(pipeline: Any, folder: Path | None, scale: float) -> Iterator[None]:
    """The weights of the adapter in `folder` at strength `scale`; None: there are none.

    Afterwards the networks are as they were before. Raises RunProblem for weights that do not fit.
    """
    if folder is None:
        yield
    elif has_unet_weights(folder):
        with _with_unet_weights(pipeline.unet, folder / UNET_FILE, scale):
            yield
    else:
        with _with_lora(pipeline, folder, scale):
            yield


@contextmanager
def _with_lora(pipeline: Any, folder: Path, scale: float) -> Iterator[None]:
    read_tensors(folder / LORA_FILE)
    try:
        try:
            # Loading draws first values for the layers; the caller's random numbers are not its own.
            with _without_hints(), torch.random.fork_rng(devices=[]):
                pipeline.load_lora_weights(folder, weight_name=LORA_FILE, adapter_name="run")
            pipeline.set_adapters("run", scale)
        except (SafetensorError, OSError, RuntimeError, ValueError) as error:
            if ran_out_of_memory(error):
                raise
            reason, _, _ = str(error).partition("\n")
            raise RunProblem(DOES_NOT_FIT.format(file=folder / LORA_FILE, reason=reason)) from error
        yield
    finally:
        pipeline.unload_lora_weights()


@contextmanager
def _with_unet_weights(unet: Any, file: Path, scale: float) -> Iterator[None]:
    """W + scale · (W' - W), so that `scale` means what it does for LoRA."""
    trained = read_tensors(file)
    parameters = dict(unet.named_parameters())
    unlike = [
        name for name in trained if name not in parameters or parameters[name].shape != trained[name].shape
    ]
    if unlike:
        raise RunProblem(
            DOES_NOT_FIT.format(file=file, reason=f"{unlike[0]} is not in it, or of another shape")
        )
    with replaced(unet, trained, scale):
        yield


@contextmanager
def _without_hints() -> Iterator[None]:
    """diffusers warns where LoRA leaves the text encoder alone (the paper's way); what fails is raised anyway."""
    log = logging.getLogger("diffusers.loaders")
    level = log.level
    log.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        log.setLevel(level)
