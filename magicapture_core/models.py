"""Diffusion models: the only place that loads their weights.

Any Stable Diffusion 1.x or 2.x (predicting noise or velocity), from a diffusers folder, a single
.safetensors file or the Hugging Face hub, becomes one `ModelBundle` of diffusers and transformers classes.
"""

from __future__ import annotations

import errno
import itertools
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import safe_open

from magicapture_core.problems import MissingFiles, Problem

HUB_ID = "stable-diffusion-v1-5/stable-diffusion-v1-5"
"""The paper's model."""
HUB_SIZE = "Stable Diffusion 1.5 is about 4.3 GB, 2.1 GB in half precision"
ASSETS = Path(__file__).resolve().parent.parent / "assets"
CONFIGS = ASSETS / "stable_diffusion"
"""The published configurations, for single files, which hold only weights."""
UNET_KEY = "model.diffusion_model.input_blocks.0.0.weight"
TEXT_KEYS = (
    "cond_stage_model.transformer.text_model.embeddings.token_embedding.weight",  # 1.x: CLIP
    "cond_stage_model.model.token_embedding.weight",  # 2.x: OpenCLIP
)
PARTS = ("tokenizer", "text_encoder", "unet", "vae", "scheduler")
WEIGHT_NAMES = {
    "text_encoder": "model",
    "unet": "diffusion_pytorch_model",
    "vae": "diffusion_pytorch_model",
    "safety_checker": "model",
}
PICKLES = (".bin", ".ckpt", ".pt", ".pth")
Progress = Callable[[int, int | None], None]
"""Called with (bytes here, bytes in all or None) while a model is downloaded. What it raises ends the download."""
EXPECTED = "a Stable Diffusion 1.x or 2.x text-to-image model"


@dataclass
class ModelBundle:
    """A diffusion model, frozen, on its device."""

    name: str
    """What the user calls it."""
    source: str
    """Folder or file the weights came from."""
    tokenizer: Any
    text_encoder: Any
    unet: Any
    vae: Any
    noise_scheduler: Any
    """A DDPMScheduler with the model's own noise schedule and prediction type."""
    safety_checker: Any | None
    feature_extractor: Any | None
    device: torch.device
    dtype: torch.dtype
    """Of the frozen weights."""
    schedules: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """TrainConfig overrides by name ("quick"), from `magicapture.json` beside the weights."""
    generate_defaults: Mapping[str, Any] = field(default_factory=dict)
    """GenerateConfig overrides that suit this model, from the same file."""

    @property
    def vae_scale_factor(self) -> int:
        """Pixels per latent cell, along each side."""
        return 2 ** (len(self.vae.config.block_out_channels) - 1)

    @property
    def resolution(self) -> int:
        """Side of the square pictures the model was made for, in pixels."""
        return int(self.unet.config.sample_size) * self.vae_scale_factor

    @property
    def prediction_type(self) -> Literal["epsilon", "v_prediction"]:
        """What the UNet predicts."""
        predicts: Literal["epsilon", "v_prediction"] = self.noise_scheduler.config.prediction_type
        return predicts

    def pipeline(self, scheduler: str = "euler_ancestral") -> Any:
        """A StableDiffusionPipeline that shares these modules.

        scheduler: "euler_ancestral", "dpm++", "unipc" or "ddim"; Problem on any other.
        """
        from diffusers import StableDiffusionPipeline

        pipeline = StableDiffusionPipeline(
            vae=self.vae,
            text_encoder=self.text_encoder,
            tokenizer=self.tokenizer,
            unet=self.unet,
            scheduler=sampler(scheduler, self.noise_scheduler.config),
            safety_checker=self.safety_checker,
            feature_extractor=self.feature_extractor,
            requires_safety_checker=self.safety_checker is not None,
        )
        pipeline.set_progress_bar_config(disable=True)
        return pipeline


def sampler(name: str, noise_config: Mapping[str, Any]) -> Any:
    """The diffusers scheduler called `name`, on the noise schedule of `noise_config`."""
    import diffusers

    samplers: dict[str, tuple[Any, dict[str, Any]]] = {
        "euler_ancestral": (diffusers.EulerAncestralDiscreteScheduler, {}),
        "dpm++": (diffusers.DPMSolverMultistepScheduler, {"use_karras_sigmas": True}),
        "unipc": (diffusers.UniPCMultistepScheduler, {}),
        "ddim": (diffusers.DDIMScheduler, {"set_alpha_to_one": False}),
    }
    if name not in samplers:
        raise Problem(f"scheduler must be one of {', '.join(samplers)}, got {name!r}.")
    scheduler_class, options = samplers[name]
    return scheduler_class.from_config(noise_config, **options)


def load(
    name: str | Path | None = None,
    *,
    device: str | torch.device | None = None,
    dtype: torch.dtype | None = None,
    progress: Progress | None = None,
) -> ModelBundle:
    """Load a Stable Diffusion 1.x or 2.x.

    name: "mini" (the small model that comes with MagiCapture), a diffusers folder, a single .safetensors
    file or a hub id. None: SD 1.5 from the hub with a GPU, "mini" without one.
    device, dtype: None chooses by hardware: CUDA in bfloat16, else Apple's GPU or the CPU in float32.
    progress: is told how a download goes on, if there must be one.
    Raises MissingFiles where files are neither here nor to be had, Problem where they are of another kind.
    """
    device = torch.device(device) if device else best_device()
    dtype = dtype or best_dtype(device)
    name = str(name or (HUB_ID if device.type == "cuda" else "mini"))
    path = _locate(name, dtype, progress)
    with _no_progress_bars():
        try:
            pipeline = _open_file(path, dtype) if path.is_file() else _open_folder(path, dtype)
            settings = _settings(path)
        except Problem:
            raise
        except Exception as error:  # the libraries raise all kinds for damaged files, even the bare class
            raise Problem(
                f"The model at {path} cannot be read ({_first_line(error)}). Copy or download it again."
            ) from error
    bundle = _bundle(name, path, pipeline, device, dtype)
    bundle.schedules, bundle.generate_defaults = settings.get("schedules", {}), settings.get("generate", {})
    return bundle


def fetch(name: str, *, dtype: torch.dtype, progress: Progress | None = None) -> Path:
    """The folder or file of a model, downloaded if it must be, but not loaded. Raises as `load` does."""
    return _locate(name, dtype, progress)


def best_device() -> torch.device:
    """CUDA, else Apple's GPU, else the CPU."""
    if torch.cuda.is_available():
        rank = os.environ.get("LOCAL_RANK")  # of several processes each has a GPU of its own
        return torch.device("cuda", int(rank)) if rank else torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def best_dtype(device: torch.device) -> torch.dtype:
    """bfloat16 on a CUDA GPU that has it; float32 elsewhere, for float16 gives NaN in SD's autoencoder."""
    return torch.bfloat16 if device.type == "cuda" and torch.cuda.is_bf16_supported() else torch.float32


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

    # SD's latents go well beyond [-1, 1]: schedulers of the pixel world would clip them by default.
    noise_scheduler = DDPMScheduler.from_config(pipeline.scheduler.config, clip_sample=False)
    predicts = noise_scheduler.config.prediction_type
    if predicts not in ("epsilon", "v_prediction"):
        raise Problem(f"{name}: the model must predict epsilon or v_prediction, got {predicts!r}.")
    channels = pipeline.unet.config.in_channels
    if channels != pipeline.vae.config.latent_channels:
        raise Problem(
            f"{name}: expected {EXPECTED}, whose UNet takes {pipeline.vae.config.latent_channels} channels; "
            f"this one takes {channels} (an inpainting or depth model). Choose the plain model."
        )
    _check_tokenizer(name, pipeline.tokenizer, pipeline.text_encoder)
    for module in (pipeline.text_encoder, pipeline.unet, pipeline.vae, pipeline.safety_checker):
        if module is not None:
            module.requires_grad_(False).eval().to(device=device)
    return ModelBundle(
        name=name,
        source=str(path),
        tokenizer=pipeline.tokenizer,
        text_encoder=pipeline.text_encoder,
        unet=pipeline.unet,
        vae=pipeline.vae,
        noise_scheduler=noise_scheduler,
        safety_checker=pipeline.safety_checker,
        feature_extractor=pipeline.feature_extractor,
        device=device,
        dtype=dtype,
    )


def _check_tokenizer(name: str, tokenizer: Any, text_encoder: Any) -> None:
    """transformers makes an empty vocabulary of a missing or damaged file, without a word."""
    rows = text_encoder.get_input_embeddings().num_embeddings
    ids = tokenizer("photo", add_special_tokens=False).input_ids
    if not set(ids) - {tokenizer.unk_token_id} or len(tokenizer) > rows:
        raise Problem(
            f"{name}: the tokenizer knows {len(tokenizer)} words, expected the text encoder's {rows}; its "
            "vocab.json or merges.txt cannot be read or is of another model. Copy or download the model again."
        )


def _settings(path: Path) -> dict[str, Any]:
    file = path / "magicapture.json"
    if not file.is_file():
        return {}
    settings = json.loads(file.read_text(encoding="utf-8"))
    unknown = sorted(set(settings) - {"schedules", "generate"})
    if unknown:
        raise Problem(f"{file} has {', '.join(unknown)}; expected only schedules and generate.")
    return dict(settings)


def _locate(name: str, dtype: torch.dtype, progress: Progress | None) -> Path:
    """The folder or file that `name` stands for; downloads it if it must."""
    if name == "mini":
        folder = ASSETS / "mini"
        if not (folder / "model_index.json").is_file():
            raise MissingFiles(
                f"The mini model is not in {folder}. It comes with MagiCapture: get the complete source "
                "again, or name another model (a folder, a .safetensors file or a hub id)."
            )
        return folder
    path = Path(name).expanduser()
    if path.exists():
        return path
    if not re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", name) or name.endswith((".safetensors", *PICKLES)):
        raise MissingFiles(
            f'There is no model at {name}. Expected "mini", a diffusers folder, a .safetensors file or a '
            f"hub id such as {HUB_ID}."
        )
    return _from_hub(name, dtype, progress)


def _from_hub(hub_id: str, dtype: torch.dtype, progress: Progress | None) -> Path:
    """The hub id's snapshot folder: from the cache if it is complete there, else downloaded."""
    import huggingface_hub
    from huggingface_hub import constants

    constants.HF_HUB_DISABLE_TELEMETRY = True
    # The hub's folders hold the same weights in several formats; half the bytes do for half precision.
    variants = ("", ".fp16") if dtype == torch.float32 else (".fp16", "")
    reason: Exception = MissingFiles("nothing was tried")
    for offline, variant in itertools.product((True, False), variants):
        weights = [f"{part}/{stem}{variant}.safetensors" for part, stem in WEIGHT_NAMES.items()]
        small = ["model_index.json", "magicapture.json", "*/*.json", "*/*.txt"]
        try:
            folder = Path(
                huggingface_hub.snapshot_download(
                    hub_id,
                    allow_patterns=[*small, *weights],
                    local_files_only=offline,
                    tqdm_class=None if progress is None else _telling(progress),
                )
            )
            _weight_variant(folder)
        except (OSError, ValueError) as error:
            if isinstance(error, OSError) and error.errno == errno.ENOSPC:
                raise Problem(
                    f"There is no room on the disk for {hub_id} ({HUB_SIZE}); the hub's cache is "
                    f"{constants.HF_HUB_CACHE}. Make room and try again: what has arrived is kept."
                ) from error
            reason = error
        else:
            return folder
    raise MissingFiles(
        f"The model {hub_id} is not on this computer (neither as a folder nor in the hub's cache), and it could "
        f"not be downloaded from the Hugging Face hub ({_first_line(reason)}). {HUB_SIZE}. Go online once, or "
        "copy the model's diffusers folder (or its .safetensors file) here and give its path as the model. The "
        f"cache is {constants.HF_HUB_CACHE}."
    )


def _telling(progress: Progress) -> Any:
    """A tqdm class for the hub's library that draws nothing, and tells `progress` the bytes.

    Of several bars of bytes (one in all, or one a file: that changed between versions) the fullest is told.
    """
    from tqdm.auto import tqdm

    most = 0

    class Telling(tqdm):  # type: ignore[misc]
        def display(self, *_: Any, **__: Any) -> None:
            """Nothing is drawn."""

        def update(self, n: float | None = 1) -> bool | None:
            nonlocal most
            moved = super().update(n)
            if self.unit == "B" and self.n > most:
                most = int(self.n)
                progress(most, int(self.total) if self.total else None)
            return moved

    return Telling


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".partition("\n")[0].rstrip(".: ")


def _open_folder(folder: Path, dtype: torch.dtype) -> Any:
    """A pipeline from a diffusers folder."""
    from diffusers import StableDiffusionPipeline

    variant = _weight_variant(folder)
    return StableDiffusionPipeline.from_pretrained(
        folder, dtype=dtype, variant=variant, use_safetensors=True, local_files_only=True
    )


def _weight_variant(folder: Path) -> str | None:
    """Which weights a diffusers folder has: None for the plain ones, "fp16" if it has only those.

    Raises Problem if the folder holds another kind of model, MissingFiles if parts of it are not there.
    """
    index = folder / "model_index.json"
    if not index.is_file():
        raise Problem(
            f"{folder} is not a model folder: expected {EXPECTED} in diffusers layout (model_index.json, "
            f"{', '.join(PARTS)}). For a single .safetensors file, give the file's path."
        )
    listed = json.loads(index.read_text(encoding="utf-8"))
    kind = listed.get("_class_name")
    if kind not in ("StableDiffusionPipeline", "StableDiffusionImg2ImgPipeline"):
        raise Problem(f"{folder} holds a {kind}: expected {EXPECTED}. Choose one of those.")
    optional = [part for part in ("safety_checker",) if listed.get(part, [None])[0]]
    missing = [part for part in (*PARTS, *optional) if not (folder / part).is_dir()]
    if missing:
        raise MissingFiles(f"{folder} lacks {', '.join(missing)}. Copy or download the model again.")
    parts = ("text_encoder", "unet", "vae", *optional)
    lacking = list(parts)
    for variant in (None, "fp16"):
        lacks = [part for part in parts if not _has_weights(folder / part, WEIGHT_NAMES[part], variant)]
        if not lacks:
            return variant
        lacking = min(lacking, lacks, key=len)
    pickles = [file for part in lacking for file in (folder / part).iterdir() if file.suffix in PICKLES]
    if pickles:
        raise Problem(
            f"{folder} has weights of {', '.join(lacking)} only as {pickles[0].name}: a pickle, which can "
            "run any code when it is opened, so it is refused. Use the model's .safetensors files."
        )
    raise MissingFiles(
        f"{folder} lacks the .safetensors weights of {', '.join(lacking)}. Copy or download the model again."
    )


def _has_weights(folder: Path, stem: str, variant: str | None) -> bool:
    dotted = f".{variant}" if variant else ""
    names = (f"{stem}{dotted}.safetensors", f"{stem}.safetensors.index{dotted}.json")
    return any((folder / name).is_file() for name in names)


def _open_file(file: Path, dtype: torch.dtype) -> Any:
    """A pipeline from one .safetensors file with the original (not diffusers') key names."""
    from diffusers import StableDiffusionPipeline
    from transformers import CLIPTokenizer

    version = _file_version(file)
    tokenizer = CLIPTokenizer.from_pretrained(
        CONFIGS / "tokenizer", pad_token="!" if version == "v2" else "<|endoftext|>"
    )
    pipeline = StableDiffusionPipeline.from_single_file(
        str(file),
        config=str(CONFIGS / version),
        tokenizer=tokenizer,
        safety_checker=None,
        feature_extractor=None,
        local_files_only=True,
        dtype=dtype,
    )
    if version == "v2" and _predicts_velocity(pipeline.unet):
        pipeline.scheduler.register_to_config(prediction_type="v_prediction")
        pipeline.unet.register_to_config(sample_size=96)
    return pipeline


def _file_version(file: Path) -> str:
    """ "v1" or "v2", from the key names in the file's header; Problem if it is something else."""
    if file.suffix != ".safetensors":
        why = "a pickle, which can run any code when it is opened" if file.suffix in PICKLES else "unknown"
        raise Problem(f"{file.name} is {why}: expected a .safetensors file. Get the model in that format.")
    with safe_open(file, "pt") as content:
        keys = set(content.keys())
        v1, v2 = (name in keys for name in TEXT_KEYS)
        if UNET_KEY in keys and v1 != v2:
            return "v1" if v1 else "v2"
    if any("lora" in key for key in keys):
        what = "an adapter (LoRA), which only changes a model"
    elif UNET_KEY in keys or any("double_blocks" in key or "joint_blocks" in key for key in keys):
        what = "a model of another family (SDXL, SD 3, Flux, …) or only a part of one"
    else:
        what = "no complete model with the original key names"
    raise Problem(f"{file.name} holds {what}: expected {EXPECTED}. Choose one of those.")


@torch.no_grad()
def _predicts_velocity(unet: Any) -> bool:
    """Whether a UNet predicts v rather than epsilon; a single file does not say.

    On pure noise at the last timestep, epsilon IS the input, whereas v = -x0 has nothing to do with it.
    """
    noise = torch.randn(1, unet.config.in_channels, 32, 32, generator=torch.Generator().manual_seed(0))
    nothing = torch.zeros(1, 77, unet.config.cross_attention_dim, dtype=unet.dtype)
    answer = unet(noise.to(unet.dtype), 999, nothing).sample.float()
    return bool(torch.cosine_similarity(answer.flatten(), noise.flatten(), dim=0) < 0.5)
