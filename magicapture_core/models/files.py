"""Pipelines from files: a diffusers folder, or one .safetensors file with the original key names."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from magicapture_core.languages import N_, _
from magicapture_core.models.vae import with_fitting_vae
from magicapture_core.problems import MissingFiles, Problem
from magicapture_core.weights import ASSETS

CONFIGS = ASSETS / "stable_diffusion"
"""The published configurations, for single files, which hold only weights."""
UNET_KEY = "model.diffusion_model.input_blocks.0.0.weight"
TEXT_KEYS = {
    "cond_stage_model.transformer.text_model.embeddings.token_embedding.weight": "v1",  # CLIP
    "cond_stage_model.transformer.embeddings.token_embedding.weight": "v1",  # as transformers named it before 2022
    "cond_stage_model.model.token_embedding.weight": "v2",  # OpenCLIP
}
XL_TEXT_KEYS = (
    "conditioner.embedders.0.transformer.text_model.embeddings.token_embedding.weight",  # CLIP-L
    "conditioner.embedders.1.model.token_embedding.weight",  # OpenCLIP-bigG
)
REFINER_KEY = "conditioner.embedders.0.model.token_embedding.weight"
EDM_KEYS = {"edm_mean", "edm_std", "edm_vpred.sigma_max"}
"""Marks of models that are trained and sampled by EDM's rules."""
EDM = N_("an EDM model (Playground 2.5, CosXL), which is trained and sampled in another way")
LCM = N_("a latent consistency model (LCM), which is sampled in another way and cannot be trained like this")
REFINER = N_("the refiner of Stable Diffusion XL, which only reworks another model's pictures")
OLD_TEXT = re.compile(r"cond_stage_model\.transformer\.(?!text_model\.)")
FILLING = {"v1": "<|endoftext|>", "v2": "!"}
"""The token that fills prompts up."""
OTHER_INPUTS = {
    5: N_("a depth model"), 8: N_("an editing model (InstructPix2Pix)"), 9: N_("an inpainting model"),
}  # fmt: skip
"""What takes more into its UNet than a picture's 4 channels, by their number."""
PARTS = ("tokenizer", "text_encoder", "unet", "vae", "scheduler")
XL_PARTS = ("tokenizer", "tokenizer_2", "text_encoder", "text_encoder_2", "unet", "vae", "scheduler")
KINDS = {
    "StableDiffusionPipeline": PARTS,
    "StableDiffusionImg2ImgPipeline": PARTS,
    "StableDiffusionXLPipeline": XL_PARTS,
    "StableDiffusionXLImg2ImgPipeline": XL_PARTS,
}
"""Parts of a diffusers folder, by what its model_index.json says it holds."""
OTHER_KINDS = {
    "StableDiffusionInpaintPipeline": N_("an inpainting model"),
    "StableDiffusionXLInpaintPipeline": N_("an inpainting model"),
    "StableDiffusionXLInstructPix2PixPipeline": N_("an editing model"),
    "LatentConsistencyModelPipeline": LCM,
}
WEIGHT_NAMES = {
    "text_encoder": "model",
    "text_encoder_2": "model",
    "unet": "diffusion_pytorch_model",
    "vae": "diffusion_pytorch_model",
    "safety_checker": "model",
}
PICKLES = (".bin", ".ckpt", ".pt", ".pth")
EXPECTED = N_("a Stable Diffusion 1.x or 2.x text-to-image model, or one of Stable Diffusion XL")


def open_folder(folder: Path, dtype: torch.dtype, vae_dtype: torch.dtype) -> Any:
    """A pipeline from a diffusers folder."""
    import diffusers

    variant = weight_variant(folder)
    options: dict[str, Any] = {"variant": variant, "use_safetensors": True, "local_files_only": True}
    if KINDS[_index(folder)["_class_name"]] is PARTS:
        return diffusers.StableDiffusionPipeline.from_pretrained(
            folder, dtype={"default": dtype, "vae": vae_dtype}, **options
        )
    pipeline = diffusers.StableDiffusionXLPipeline.from_pretrained(
        folder, dtype={"default": dtype, "vae": torch.float32}, **options
    )
    return with_fitting_vae(pipeline, dtype, vae_dtype)


def _index(folder: Path) -> dict[str, Any]:
    """A diffusers folder's model_index.json. Raises Problem where there is none."""
    index = folder / "model_index.json"
    if not index.is_file():
        raise Problem(
            _(
                "{folder} is not a model folder: expected {expected} in diffusers layout (model_index.json, {parts}). "
                "For a single .safetensors file, give the file's path.",
                folder=folder,
                expected=_(EXPECTED),
                parts=", ".join(PARTS),
            )
        )
    return dict(json.loads(index.read_text(encoding="utf-8-sig")))


def weight_variant(folder: Path) -> str | None:
    """Which weights a diffusers folder has: None for the plain ones, "fp16" if a part has only those. diffusers then
    takes the plain ones of the other parts.

    Raises Problem if the folder holds another kind of model, MissingFiles if parts of it are not there.
    """
    listed = _index(folder)
    kind = listed.get("_class_name")
    if kind not in KINDS:
        words = f"{kind} ({_(OTHER_KINDS[kind])})" if kind in OTHER_KINDS else str(kind)
        raise Problem(
            _(
                "{folder} holds a {kind}: expected {expected}. Choose one of those.",
                folder=folder, kind=words, expected=_(EXPECTED),
            )
        )  # fmt: skip
    wanted = KINDS[kind]
    if wanted is XL_PARTS and not listed.get("text_encoder", [None])[0]:
        raise Problem(
            _(
                "{folder} holds {found}: expected {expected}. Choose the base model.",
                folder=folder, found=_(REFINER), expected=_(EXPECTED),
            )
        )  # fmt: skip
    optional = [part for part in ("safety_checker",) if wanted is PARTS and listed.get(part, [None])[0]]
    missing = [part for part in (*wanted, *optional) if not (folder / part).is_dir()]
    if missing:
        raise MissingFiles(
            _(
                "{folder} lacks {missing}. Copy or download the model again.",
                folder=folder, missing=", ".join(missing),
            )
        )  # fmt: skip
    parts = [part for part in (*wanted, *optional) if part in WEIGHT_NAMES]
    plain, half = (
        {part for part in parts if _has_weights(folder / part, WEIGHT_NAMES[part], variant)}
        for variant in (None, "fp16")
    )
    lacking = [part for part in parts if part not in plain | half]
    if not lacking:
        return None if plain.issuperset(parts) else "fp16"
    pickles = [file for part in lacking for file in (folder / part).iterdir() if file.suffix in PICKLES]
    if pickles:
        raise Problem(
            _(
                "{folder} has weights of {parts} only as {file}: a pickle, which can run any code when it is opened, "
                "so it is refused. Use the model's .safetensors files.",
                folder=folder,
                parts=", ".join(lacking),
                file=pickles[0].name,
            )
        )
    raise MissingFiles(
        _(
            "{folder} lacks the .safetensors weights of {parts}. Copy or download the model again.",
            folder=folder,
            parts=", ".join(lacking),
        )
    )


def _has_weights(folder: Path, stem: str, variant: str | None) -> bool:
    """Whether all of a part's weights are here: in one file, or in those that its index names."""
    dotted = f".{variant}" if variant else ""
    if (folder / f"{stem}{dotted}.safetensors").is_file():
        return True
    try:
        index = json.loads((folder / f"{stem}.safetensors.index{dotted}.json").read_text(encoding="utf-8"))
        files = set(index["weight_map"].values())
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return False
    return bool(files) and all((folder / str(file)).is_file() for file in files)


def open_file(file: Path, dtype: torch.dtype, vae_dtype: torch.dtype) -> Any:
    """A pipeline from one .safetensors file with the original (not diffusers') key names."""
    from diffusers import AutoencoderKL, StableDiffusionPipeline

    version = _file_version(file)
    if version == "xl":
        return _open_xl_file(file, dtype, vae_dtype)
    configs = str(CONFIGS / version)
    vae = AutoencoderKL.from_single_file(
        str(file), config=configs, subfolder="vae", dtype=vae_dtype, local_files_only=True
    )
    old_text = _old_text_encoder(file, CONFIGS / version, dtype)
    pipeline = StableDiffusionPipeline.from_single_file(
        str(file),
        config=configs,
        vae=vae,
        tokenizer=_tokenizer(FILLING[version]),
        safety_checker=None,
        feature_extractor=None,
        local_files_only=True,
        dtype=dtype,
        **({} if old_text is None else {"text_encoder": old_text}),
    )
    if version == "v2" and predicts_velocity(pipeline.unet):
        pipeline.scheduler.register_to_config(prediction_type="v_prediction")
        pipeline.unet.register_to_config(sample_size=96)
    return pipeline


def _tokenizer(filling: str) -> Any:
    from transformers import CLIPTokenizer

    return CLIPTokenizer.from_pretrained(CONFIGS / "tokenizer", pad_token=filling)


def _open_xl_file(file: Path, dtype: torch.dtype, vae_dtype: torch.dtype) -> Any:
    """As `open_file`, for Stable Diffusion XL."""
    from diffusers import AutoencoderKL, StableDiffusionXLPipeline

    configs = str(CONFIGS / "xl")
    options: dict[str, Any] = {"config": configs, "local_files_only": True}
    vae = AutoencoderKL.from_single_file(str(file), subfolder="vae", dtype=torch.float32, **options)
    pipeline = StableDiffusionXLPipeline.from_single_file(
        str(file),
        vae=vae,
        tokenizer=_tokenizer(FILLING["v1"]),
        tokenizer_2=_tokenizer(FILLING["v2"]),
        add_watermarker=False,
        dtype=dtype,
        **options,
    )
    with safe_open(file, "pt") as content:
        keys, metadata = set(content.keys()), content.metadata() or {}
    if "v_pred" in keys or metadata.get("modelspec.prediction_type") == "v":
        pipeline.scheduler.register_to_config(prediction_type="v_prediction")
    if "ztsnr" in keys:  # its noise schedule ends in noise alone
        pipeline.scheduler.register_to_config(rescale_betas_zero_snr=True, timestep_spacing="trailing")
    return with_fitting_vae(pipeline, dtype, vae_dtype)


def _old_text_encoder(file: Path, configs: Path, dtype: torch.dtype) -> Any:
    """The text encoder of a file that names it as transformers did before 2022; None for any other file.

    diffusers' converter knows only the later names.
    """
    from diffusers.loaders.single_file_utils import create_diffusers_clip_model_from_ldm
    from transformers import CLIPTextModel

    with safe_open(file, "pt") as content:
        old = {name: content.get_tensor(name) for name in content.keys() if OLD_TEXT.match(name)}  # noqa: SIM118
    if not old:
        return None
    renamed = {OLD_TEXT.sub("cond_stage_model.transformer.text_model.", name): old[name] for name in old}
    return create_diffusers_clip_model_from_ldm(
        CLIPTextModel, renamed, "text_encoder", str(configs), torch_dtype=dtype, local_files_only=True
    )


def _file_version(file: Path) -> str:
    """ "v1", "v2" or "xl", from the key names in the file's header; Problem if it is something else."""
    if file.suffix != ".safetensors":
        raise Problem(_not_safetensors(file))
    with safe_open(file, "pt") as content:
        keys = set(content.keys())
        versions = {version for name, version in TEXT_KEYS.items() if name in keys}
        versions |= {"xl"} if keys.issuperset(XL_TEXT_KEYS) else set()
        shape = content.get_slice(UNET_KEY).get_shape() if UNET_KEY in keys else []
    channels = shape[1] if len(shape) == 4 else None
    edm = keys & EDM_KEYS
    if len(versions) == 1 and UNET_KEY in keys and channels not in OTHER_INPUTS and not edm:
        return versions.pop()
    if edm:
        what = _(EDM)
    elif REFINER_KEY in keys:
        what = _(REFINER)
    elif channels in OTHER_INPUTS:
        what = _(OTHER_INPUTS[channels])
    elif any("lora" in key for key in keys):
        what = _("an adapter (LoRA), which only changes a model")
    elif UNET_KEY in keys or any("double_blocks" in key or "joint_blocks" in key for key in keys):
        what = _("a model of another family (SD 3, Flux, …) or only a part of one")
    else:
        what = _("no complete model with the original key names")
    raise Problem(
        _(
            "{file} holds {found}: expected {expected}. Choose one of those.",
            file=file.name, found=what, expected=_(EXPECTED),
        )
    )  # fmt: skip


def _not_safetensors(file: Path) -> str:
    if file.suffix in PICKLES:
        return _(
            "{file} is a pickle, which can run any code when it is opened: expected a .safetensors file. Get the model "
            "in that format.",
            file=file.name,
        )
    return _("{file} is unknown: expected a .safetensors file. Get the model in that format.", file=file.name)


@torch.no_grad()
def predicts_velocity(unet: Any) -> bool:
    """Whether a UNet predicts v rather than epsilon; a single file does not say.

    On pure noise at the last timestep, epsilon IS the input, whereas v = -x0 has nothing to do with it.
    """
    noise = torch.randn(1, unet.config.in_channels, 32, 32, generator=torch.Generator().manual_seed(0))
    nothing = torch.zeros(1, 77, unet.config.cross_attention_dim, dtype=unet.dtype)
    answer = unet(noise.to(unet.dtype), 999, nothing).sample.float()
    return bool(torch.cosine_similarity(answer.flatten(), noise.flatten(), dim=0) < 0.5)
