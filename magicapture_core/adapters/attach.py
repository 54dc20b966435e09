"""A saved adapter in a pipeline's networks, for as long as pictures are generated."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from magicapture_core.adapters.files import LORA_FILE, UNET_FILE, has_unet_weights
from magicapture_core.adapters.full_weights import replaced
from magicapture_core.files import read_tensors
from magicapture_core.languages import N_, _
from magicapture_core.problems import MissingFiles, Problem, RunProblem, ran_out_of_memory

RUN, EXTRA = "run", "extra"
"""Names of adapters in a pipeline."""
Switch = Callable[[bool], None]
"""Puts a run's LoRA weights out of use, and into use again."""
DOES_NOT_FIT = N_(
    "{file} does not fit this model or is damaged ({reason}). Use the model that the run was trained on."
)


@dataclass(frozen=True)
class ExtraLora:
    """Somebody else's LoRA file for pictures, beside what was learned: one for few steps, for a look, for details."""

    file: Path
    """A .safetensors file with diffusers' or kohya's key names."""
    scale: float = 1.0
    """Strength; 1 is as its makers meant it."""

    def check(self) -> None:
        """Raise Problem for a file or a strength that cannot be used. What fits the model shows when it is attached."""
        if not self.file.is_file():
            raise MissingFiles(
                _("There is no LoRA file {file}. Give the path of a .safetensors file.", file=self.file)
            )
        if self.file.suffix != ".safetensors":
            raise Problem(
                _(
                    "{file} is no .safetensors file: expected one, because other formats can run any code when they "
                    "are opened. Get the LoRA as .safetensors.",
                    file=self.file.name,
                )
            )
        if not 0 <= self.scale <= 2:
            raise Problem(_("extra_lora_scale must be 0 to 2, got {scale}.", scale=f"{self.scale:g}"))


@contextmanager
def attached(
    pipeline: Any, folder: Path | None, scale: float, extra: ExtraLora | None = None
) -> Iterator[Switch]:
    """The weights of the adapter in `folder` at strength `scale`, and `extra` beside them; None: there are none.

    Gives a switch for LoRA weights of the run; whole UNet weights stay in use. Afterwards the networks are as they were
    before. Raises RunProblem for weights that do not fit, Problem for an `extra` that does not.
    """
    loras: dict[str, tuple[Path, float]] = {}
    with ExitStack() as stack:
        if folder is not None and has_unet_weights(folder):
            stack.enter_context(_with_unet_weights(pipeline.unet, folder / UNET_FILE, scale))
        elif folder is not None:
            loras[RUN] = (folder / LORA_FILE, scale)
        if extra is not None:
            loras[EXTRA] = (extra.file, extra.scale)
        if loras:
            stack.enter_context(_with_loras(pipeline, loras))
        yield partial(_switch, pipeline, loras)


@contextmanager
def _with_loras(pipeline: Any, loras: Mapping[str, tuple[Path, float]]) -> Iterator[None]:
    """loras: a file and its strength, by the names that they have in the pipeline."""
    try:
        for name, (file, _scale) in loras.items():
            _load(pipeline, name, file)
        _set_scales(pipeline, {name: scale for name, (_file, scale) in loras.items()})
        yield
    finally:
        pipeline.unload_lora_weights()


def _switch(pipeline: Any, loras: Mapping[str, tuple[Path, float]], used: bool) -> None:
    if RUN in loras:
        scales = {name: scale for name, (_file, scale) in loras.items()}
        _set_scales(pipeline, scales if used else {**scales, RUN: 0.0})


def _set_scales(pipeline: Any, scales: Mapping[str, float]) -> None:
    with _without_hints():
        pipeline.set_adapters(list(scales), list(scales.values()))


def _load(pipeline: Any, name: str, file: Path) -> None:
    if name == RUN:
        read_tensors(file)
    reason = _("none of its weights belong to it")
    try:
        # Loading draws first values for the layers; the caller's random numbers are not its own.
        with _without_hints(), torch.random.fork_rng(devices=[]):
            pipeline.load_lora_weights(
                file.parent, weight_name=file.name, adapter_name=name, use_safetensors=True
            )
        if any(name in names for names in pipeline.get_list_adapters().values()):
            return
    # The libraries raise all kinds for files of other models.
    except (SafetensorError, OSError, RuntimeError, ValueError, LookupError) as error:
        if ran_out_of_memory(error):
            raise
        reason = str(error).partition("\n")[0]
    if name == RUN:
        raise RunProblem(_(DOES_NOT_FIT, file=file, reason=reason))
    raise Problem(
        _(
            "{file} does not fit this model or is damaged ({reason}). Choose a LoRA that was made for the same kind "
            "of model.",
            file=file.name,
            reason=reason,
        )
    )


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
            _(
                DOES_NOT_FIT,
                file=file,
                reason=_("{name} is not in it, or of another shape", name=unlike[0]),
            )
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
