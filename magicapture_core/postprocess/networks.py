"""Networks for super-resolution and face restoration, built by spandrel. Files of other networks are refused."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from magicapture_core.languages import N_, _
from magicapture_core.problems import MissingFiles, Problem
from magicapture_core.progress import Progress
from magicapture_core.weights import ASSETS, WEIGHTS, fetch_weight, find_weight, read_state

MINI_FILE = ASSETS / "mini" / "upscaler.safetensors"
"""SRVGGNetCompact ×2 (32 channels, 12 layers) with basicsr's key names."""
RESTORER_WEIGHTS = {"gfpgan": "GFPGANv1.4", "codeformer": "CodeFormer"}

# spandrel's names for the architectures that each purpose accepts.
_SUPER_RESOLUTION = ("ESRGAN", "RealESRGAN Compact", "Compact")
_RESTORATION = {"gfpgan": ("GFPGAN",), "codeformer": ("CodeFormer",)}

_built: dict[tuple[str, str], Any] = {}
_building = threading.RLock()


@dataclass(frozen=True)
class UpscalerNetwork:
    """A super-resolution network on its device."""

    name: str
    """For people."""
    scale: int
    device: torch.device
    dtype: torch.dtype
    enlarge: Callable[[Tensor], Tensor]
    """(1, 3, h, w) in [0, 1] of `dtype` on `device` -> (1, 3, h·scale, w·scale) in [0, 1]."""


@dataclass(frozen=True)
class RestorerNetwork:
    """A face restoration network on its device."""

    name: str
    """For people."""
    device: torch.device
    restore: Callable[[Tensor, float], Tensor]
    """((1, 3, 512, 512) in [0, 1], aligned as FFHQ; fidelity) -> the same, restored."""


def upscaler(
    kind: str, factor: float, device: torch.device, progress: Progress | None = None
) -> UpscalerNetwork:
    """kind: "realesrgan" or "mini". `factor` decides between Real-ESRGAN's ×2 and ×4 where both are here, and whether
    the mini upscaler runs once or twice.

    fp16 on CUDA, fp32 elsewhere. MissingFiles where the weights cannot be had, Problem where they are another
    network's.
    """
    path = MINI_FILE if kind == "mini" else fetch_weight(realesrgan_weight(factor), progress)
    if kind == "mini" and not path.is_file():
        raise MissingFiles(
            _(
                "The bundled upscaler {path} is not there. It belongs to MagiCapture; get it back from its "
                'repository, or choose the upscaler "lanczos" or "realesrgan".',
                path=path,
            )
        )
    # Real-ESRGAN was published in fp16 for GPUs; a CPU has no fast fp16 convolutions.
    dtype = torch.float16 if device.type == "cuda" else torch.float32

    def build() -> UpscalerNetwork:
        descriptor = _load(path, _SUPER_RESOLUTION, N_("super-resolution"))
        if descriptor.scale < 2 or descriptor.input_channels != 3 or descriptor.output_channels != 3:
            raise Problem(
                _(
                    "{path} does not enlarge colour pictures: expected ×2 or more with 3 channels, got ×{scale} with "
                    "{channels}. Put the published file in its place.",
                    path=path,
                    scale=descriptor.scale,
                    channels=descriptor.input_channels,
                )
            )
        descriptor.to(device, dtype).eval()
        if device.type == "cpu":  # convolutions of few channels run up to twice as fast in this memory format
            descriptor.model.to(memory_format=torch.channels_last)
        return UpscalerNetwork(_name(kind, descriptor.scale), descriptor.scale, device, dtype, descriptor)

    network: UpscalerNetwork = _once((str(path), str(device)), build)
    return _twice(network, kind) if kind == "mini" and factor > network.scale else network


def _name(kind: str, scale: int) -> str:
    return f"{'mini upscaler' if kind == 'mini' else 'Real-ESRGAN'} ×{scale}"


def _twice(network: UpscalerNetwork, kind: str) -> UpscalerNetwork:
    """The network applied twice: its scale is squared."""
    scale, once = network.scale**2, network.enlarge
    return replace(network, name=_name(kind, scale), scale=scale, enlarge=lambda pixels: once(once(pixels)))


def best_upscaler(factor: float, device: torch.device) -> str:
    """What "auto" enlarges with: the best that is here; on the CPU the mini one, Real-ESRGAN takes minutes there."""
    if find_weight(realesrgan_weight(factor)) and (device.type != "cpu" or not MINI_FILE.is_file()):
        return "realesrgan"
    return "mini" if MINI_FILE.is_file() else "lanczos"


def enlarging_file(factor: float, device: torch.device) -> Path | None:
    """The weights that "auto" enlarges with; None where it needs none."""
    kind = best_upscaler(factor, device)
    if factor == 1 or kind == "lanczos":
        return None
    return MINI_FILE if kind == "mini" else find_weight(realesrgan_weight(factor))


def realesrgan_weight(factor: float) -> str:
    """The better of Real-ESRGAN's two weights for enlarging by `factor`; the other where only that one is here."""
    names = ("RealESRGAN_x2plus", "RealESRGAN_x4plus")
    names = names if factor <= 2 else names[::-1]
    return next((name for name in names if find_weight(name)), names[0])


def restorer(kind: str, device: torch.device, progress: Progress | None = None) -> RestorerNetwork:
    """kind: "gfpgan" or "codeformer". MissingFiles and Problem as for `upscaler`. Runs in fp32 everywhere:
    spandrel does not support either network in half precision."""
    path = fetch_weight(RESTORER_WEIGHTS[kind], progress)

    def build() -> RestorerNetwork:
        descriptor = _load(path, _RESTORATION[kind], WEIGHTS[RESTORER_WEIGHTS[kind]].purpose)
        model = descriptor.to(device).eval().model

        @torch.inference_mode()
        def restore(face: Tensor, fidelity: float) -> Tensor:
            # Not through the descriptor's call, which skips the [-1, 1] that both networks were trained on. GFPGAN
            # adds random noise like StyleGAN, unless told not to: the same picture twice is the same portrait.
            options = {"weight": fidelity} if kind == "codeformer" else {"randomize_noise": False}
            restored: Tensor = model(face * 2 - 1, **options)[0]
            return ((restored + 1) / 2).clamp(0, 1)

        return RestorerNetwork("CodeFormer" if kind == "codeformer" else "GFPGAN v1.4", device, restore)

    return _once((str(path), str(device)), build)


def forget_networks() -> None:
    """Remove all loaded networks from memory."""
    with _building:
        _built.clear()


def _once(key: tuple[str, str], build: Callable[[], Any]) -> Any:
    with _building:
        if key not in _built:
            _built[key] = build()
        return _built[key]


def _load(path: Path, architectures: tuple[str, ...], purpose: str) -> Any:
    """spandrel's descriptor of the file. Problem unless it is of one of the architectures."""
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore"
        )  # of torch, about how spandrel compiles; the user can do nothing about it
        import spandrel
        import spandrel_extra_arches

    spandrel_extra_arches.install(ignore_duplicates=True)  # CodeFormer lives there, for its licence
    state = read_state(path)
    try:
        with torch.random.fork_rng(
            devices=[]
        ):  # building a network draws random weights; the caller's generator stays as it was
            descriptor = spandrel.ModelLoader().load_from_state_dict(state)
    except (
        spandrel.UnsupportedModelError,
        RuntimeError,
        KeyError,
        ValueError,
        IndexError,
        AssertionError,
    ) as error:
        raise Problem(_another(path, architectures, purpose, _("tensors of an unknown network"))) from error
    if descriptor.architecture.name not in architectures and descriptor.architecture.id not in architectures:
        raise Problem(_another(path, architectures, purpose, descriptor.architecture.name))
    # The file may be stored in fp16; computing is in fp32 unless asked otherwise.
    return descriptor.float()


def _another(path: Path, architectures: tuple[str, ...], purpose: str, got: str) -> str:
    return _(
        "{path} is a weight file of another network: expected {architecture} ({purpose}), got {got}. Delete it and get "
        "the right one: {command}",
        path=path,
        architecture=architectures[0],
        purpose=_(purpose),
        got=got,
        command="python -m magicapture_core weights list",
    )
