"""Diffusion models: the only place that loads their weights.

Any Stable Diffusion 1.x, 2.x or XL (predicting noise or velocity), from a diffusers folder, a single
.safetensors file or the Hugging Face hub, becomes one `ModelBundle` of diffusers and transformers classes.
"""

from __future__ import annotations

import json
import os
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, get_args

import torch

from magicapture_core.config import Framing
from magicapture_core.gpu import has_gpu
from magicapture_core.languages import _
from magicapture_core.models.bundle import ModelBundle, sampler
from magicapture_core.models.families import family_of
from magicapture_core.models.files import EDM, EXPECTED, LCM, PICKLES, open_file, open_folder
from magicapture_core.models.hub import HUB_ID, SDXL_ID, first_line, from_hub
from magicapture_core.models.kernels import kernels_for
from magicapture_core.models.precision import take_float32, vae_dtype_for
from magicapture_core.models.safety import local_checker
from magicapture_core.models.words import read_words
from magicapture_core.problems import MissingFiles, Problem, ran_out_of_memory
from magicapture_core.progress import Progress
from magicapture_core.weights import ASSETS

__all__ = [
    "HUB_ID",
    "SDXL_ID",
    "ModelBundle",
    "best_device",
    "best_dtype",
    "bundle_of",
    "fetch",
    "generate_defaults",
    "load",
    "sampler",
]

KNOWN_SETTINGS = {"schedules", "generate", "edits", "framing", "vocabulary", "strength_with"}
"""What `magicapture.json` beside a model's weights may hold."""

_opening = threading.Lock()
"""One at a time: the libraries patch torch's own classes while they build a model, and two at once would leave them
patched, so that no model could be opened any more."""


def _open_anew() -> None:
    """In a forked process, where whoever held the lock does not live on."""
    global _opening
    _opening = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_open_anew)


def load(
    name: str | Path | None = None,
    *,
    device: str | torch.device | None = None,
    dtype: torch.dtype | None = None,
    vae_dtype: torch.dtype | None = None,
    progress: Progress | None = None,
) -> ModelBundle:
    """Load a Stable Diffusion 1.x, 2.x or XL.

    name: "mini" (the small model that comes with MagiCapture), a diffusers folder, a single .safetensors
    file or a hub id. None: SD 1.5 from the hub with a GPU, "mini" without one. A path beside an existing folder
    is never taken for a hub id.
    device, dtype: None chooses by hardware: bfloat16 on a GPU or CPU that computes in it, else float32.
    vae_dtype: of the autoencoder; None for float32 on a CUDA GPU, else `dtype`.
    progress: called during a download, if there must be one. A StoppedError that it raises ends the download.
    Raises MissingFiles where files are neither here nor to be had, Problem where they are of another kind.
    """
    device = torch.device(device) if device else best_device()
    dtype = dtype or best_dtype(device)
    vae_dtype = vae_dtype or vae_dtype_for(device, dtype)
    name = str(name or (HUB_ID if device.type == "cuda" else "mini"))
    path = _locate(name, dtype, progress)
    if name != "mini" and Path(name).expanduser().exists():
        name = str(path)  # a run remembers it, and may be used from another folder
    with _opening, _no_progress_bars():
        try:
            open_it = open_file if path.is_file() else open_folder
            pipeline = open_it(path, dtype, vae_dtype)
            settings, words = _settings(path), read_words(path)
        except Problem:
            raise
        except Exception as error:  # the libraries raise all kinds for damaged files, even the bare class
            if ran_out_of_memory(error):
                raise
            raise Problem(
                _(
                    "The model at {path} cannot be read ({reason}). Copy or download it again.",
                    path=path,
                    reason=first_line(error),
                )
            ) from error
    bundle = _bundle(name, path, pipeline, device, dtype)
    bundle.schedules, bundle.generate_defaults = settings.get("schedules", {}), settings.get("generate", {})
    bundle.framing = settings.get("framing", "photo")
    bundle.vocabulary = frozenset(settings.get("vocabulary", ()))
    bundle.strength_with = settings.get("strength_with", {})
    bundle.words = words
    kernels_for(device).apply(bundle)
    return bundle


def bundle_of(pipeline: Any, name: str, device: torch.device, dtype: torch.dtype) -> ModelBundle:
    """What `load` would give of a pipeline that is in memory already; its networks are cast and moved."""
    for part, network in pipeline.components.items():
        if isinstance(network, torch.nn.Module):
            network.to(vae_dtype_for(device, dtype) if part == "vae" else dtype)
    bundle = _bundle(name, Path(name), pipeline, device, dtype)
    kernels_for(device).apply(bundle)
    return bundle


def fetch(name: str, *, dtype: torch.dtype, progress: Progress | None = None) -> Path:
    """The folder or file of a model, downloaded if it must be, but not loaded. Raises as `load` does."""
    return _locate(name, dtype, progress)


def generate_defaults(name: str) -> dict[str, Any]:
    """GenerateConfig values that suit a model, as far as files on this machine tell; nothing is loaded."""
    try:
        return dict(_settings(ASSETS / "mini" if name == "mini" else Path(name)).get("generate", {}))
    except (Problem, OSError, ValueError):  # loading says what is wrong
        return {}


def best_device() -> torch.device:
    """CUDA, else Apple's GPU, else the CPU."""
    if has_gpu():
        rank = os.environ.get("LOCAL_RANK")  # of several processes each has a GPU of its own
        return torch.device("cuda", int(rank)) if rank else torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def best_dtype(device: torch.device) -> torch.dtype:
    """bfloat16 on a CUDA GPU or a CPU that has it; float32 elsewhere, for float16 gives NaN in SD's autoencoder."""
    has_bfloat16 = {"cuda": _gpu_has_bfloat16, "cpu": _cpu_has_bfloat16}.get(device.type)
    return torch.bfloat16 if has_bfloat16 and has_bfloat16() else torch.float32


def _gpu_has_bfloat16() -> bool:
    """Whether the GPU multiplies in bfloat16 itself (Ampere and later); older ones only emulate it."""
    return torch.cuda.is_bf16_supported(including_emulation=False)


def _cpu_has_bfloat16() -> bool:
    """Whether the CPU multiplies in bfloat16 itself (AVX512-BF16 or AMX); emulated, it is slower than float32."""
    ask = getattr(torch.cpu, "get_capabilities", None)  # newer versions of torch
    capabilities: dict[str, Any] = ask() if ask else {}
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


@contextmanager
def _no_progress_bars() -> Iterator[None]:
    """Opening a model takes seconds: the libraries' bars (one for each part) only hide what matters."""
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    shown = [log for log in (diffusers_logging, transformers_logging) if log.is_progress_bar_enabled()]
    for log in shown:
        log.disable_progress_bar()
    try:
        yield
    finally:
        for log in shown:
            log.enable_progress_bar()


def _bundle(name: str, path: Path, pipeline: Any, device: torch.device, dtype: torch.dtype) -> ModelBundle:
    from diffusers import DDPMScheduler
    from diffusers.models.attention_processor import AttnProcessor

    family = family_of(pipeline)
    _check_sampling(name, pipeline)
    # SD's latents go well beyond [-1, 1]: schedulers of the pixel world would clip them by default.
    noise_scheduler = DDPMScheduler.from_config(pipeline.scheduler.config, clip_sample=False)
    predicts = noise_scheduler.config.prediction_type
    if predicts not in ("epsilon", "v_prediction"):
        raise Problem(
            _(
                "{model}: the model must predict epsilon or v_prediction, got {predicts!r}.",
                model=name, predicts=predicts,
            )
        )  # fmt: skip
    channels = pipeline.unet.config.in_channels
    if channels != pipeline.vae.config.latent_channels:
        raise Problem(
            _(
                "{model}: expected {expected}, whose UNet takes {wanted} channels; this one takes {channels} (an "
                "inpainting or depth model). Choose the plain model.",
                model=name,
                expected=_(EXPECTED),
                wanted=pipeline.vae.config.latent_channels,
                channels=channels,
            )
        )
    bundle = family(
        name=name,
        source=str(path),
        tokenizer=pipeline.tokenizer,
        unet=pipeline.unet,
        vae=pipeline.vae,
        noise_scheduler=noise_scheduler,
        device=device,
        dtype=dtype,
        **_safety_of(pipeline, dtype),
        **family.parts_of(pipeline, name),
    )
    for text_encoder in bundle.text_encoders.values():
        _check_tokenizer(name, pipeline.tokenizer, text_encoder)
    for module in (*bundle.networks, bundle.safety_checker):
        if module is not None:
            module.requires_grad_(False).eval().to(device=device)
    if device.type == "cpu" and dtype == torch.bfloat16:
        # Torch's fused attention is slow in this one case: it alone took a third of a training step.
        for network in (bundle.unet, bundle.vae):
            if network.dtype == dtype:
                network.set_attn_processor(AttnProcessor())
        for text_encoder in bundle.text_encoders.values():
            text_encoder.set_attn_implementation("eager")
    if bundle.vae.dtype != dtype:
        take_float32(bundle.unet, dtype)
    return bundle


def _check_sampling(name: str, pipeline: Any) -> None:
    """Raises Problem for a model that is trained and sampled by other rules than Stable Diffusion's."""
    edm = type(pipeline.scheduler).__name__.startswith("EDM")
    if edm or pipeline.unet.config.time_cond_proj_dim is not None:
        raise Problem(
            _(
                "{model} is {found}: expected {expected}. Choose one of those.",
                model=name, found=_(EDM if edm else LCM), expected=_(EXPECTED),
            )
        )  # fmt: skip


def _safety_of(pipeline: Any, dtype: torch.dtype) -> dict[str, Any]:
    """The pipeline's own safety checker, or for a family without one that of `weights_dir`, where it is."""
    if hasattr(pipeline, "safety_checker"):
        checker, extractor = pipeline.safety_checker, pipeline.feature_extractor
    else:
        checker, extractor = local_checker(dtype)
    return {"safety_checker": checker, "feature_extractor": extractor}


def _check_tokenizer(name: str, tokenizer: Any, text_encoder: Any) -> None:
    """transformers makes an empty vocabulary of a missing or damaged file, without a word."""
    rows = text_encoder.get_input_embeddings().num_embeddings
    ids = tokenizer("photo", add_special_tokens=False).input_ids
    if not set(ids) - {tokenizer.unk_token_id} or len(tokenizer) > rows:
        raise Problem(
            _(
                "{model}: the tokenizer knows {words} words, expected the text encoder's {rows}; its vocab.json or "
                "merges.txt cannot be read or is of another model. Copy or download the model again.",
                model=name,
                words=len(tokenizer),
                rows=rows,
            )
        )


def _settings(path: Path) -> dict[str, Any]:
    file = path / "magicapture.json"
    if not file.is_file():
        return {}
    settings = json.loads(file.read_text(encoding="utf-8-sig"))
    unknown = sorted(set(settings) - KNOWN_SETTINGS)
    if unknown:
        raise Problem(
            _(
                "{file} has {unknown}; expected only {known}.",
                file=file,
                unknown=", ".join(unknown),
                known=", ".join(sorted(KNOWN_SETTINGS)),
            )
        )
    if settings.get("framing", "photo") not in get_args(Framing):
        raise Problem(
            _("{file}: framing must be one of {known}.", file=file, known=", ".join(get_args(Framing)))
        )
    return dict(settings)


def _locate(name: str, dtype: torch.dtype, progress: Progress | None) -> Path:
    """The folder or file that `name` stands for; downloads it if it must."""
    if name == "mini":
        folder = ASSETS / "mini"
        if not (folder / "model_index.json").is_file():
            raise MissingFiles(
                _(
                    "The mini model is not in {folder}. It comes with MagiCapture: get the complete source again, or "
                    "name another model (a folder, a .safetensors file or a hub id).",
                    folder=folder,
                )
            )
        return folder
    path = Path(name).expanduser()
    if path.exists():
        return (
            path.parent.resolve() / path.name
        )  # a file of the hub's cache is a link to one without a suffix
    unlike_id = not re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", name) or name.endswith((".safetensors", *PICKLES))
    # "models/sd15" beside a folder "models" is a path with a mistake: on the hub it would be a stranger's.
    if unlike_id or (name != HUB_ID and Path(path.parts[0]).is_dir()):
        raise MissingFiles(
            _(
                'There is no model at {path}. Expected "mini", a diffusers folder, a .safetensors file or a hub id '
                "such as {example}.",
                path=path.absolute(),
                example=HUB_ID,
            )
        )
    return from_hub(name, dtype, progress)
