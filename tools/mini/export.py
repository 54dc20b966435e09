"""Writes the model folder: a diffusers pipeline in half precision, in files under 9.5 MB, with words.safetensors.

python -m tools.mini.export --work .training/mini --out assets/mini

The making writes the parts into the work folder's `model` as soon as they are there; the command copies them.
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers import StableDiffusionPipeline
from torch import Tensor
from transformers import CLIPTokenizer
from transformers.utils import logging

from magicapture_core.files import atomic_file, atomic_folder
from magicapture_core.models.words import FILE as WORDS_FILE
from magicapture_core.models.words import face_statistics, save_words
from tools.mini.networks import RECOGNISER, build_scheduler
from tools.mini.settings import Settings

SHARD = "9MB"
PARTS = ("tokenizer", "scheduler", "text_encoder", "unet", "vae")
INDEX = "model_index.json"


def write_part(network: Any, folder: Path) -> None:
    """One network of diffusers or transformers, which is left in half precision."""
    logging.disable_progress_bar()
    torch.nn.Module.to(network, dtype=torch.float16)
    with atomic_folder(folder) as temporary:
        network.save_pretrained(temporary, max_shard_size=SHARD)
        config = temporary / "config.json"  # it names the folder it came from, and the precision here
        values = json.loads(config.read_text())
        values.pop("_name_or_path", None)
        if "dtype" in values:  # transformers opens in this precision, diffusers in float32: they must agree
            values["dtype"] = "float32"
        config.write_text(json.dumps(values, indent=2, sort_keys=True) + "\n")


def write_words(
    out: Path, maps: Mapping[str, Tensor], look_mean: Tensor, look_std: Tensor, faces: Tensor,
    clean: tuple[Tensor, Tensor],
) -> None:  # fmt: skip
    """What magicapture_core/models/words.py reads.

    faces: (n, 128) face embeddings that words were made of; clean: weight and bias of cleaning.py's map.
    """
    tensors = {name: value.detach().half().cpu().contiguous() for name, value in maps.items()}
    tensors |= {"look_mean": look_mean.float().cpu(), "look_std": look_std.float().cpu()}
    tensors |= face_statistics(faces.cpu())
    tensors["face_directions"] = tensors["face_directions"].half()
    tensors |= {"clean_weight": clean[0].half().contiguous(), "clean_bias": clean[1].float().contiguous()}
    with atomic_file(out / WORDS_FILE) as temporary:
        save_words(temporary, tensors, RECOGNISER)


def write_rest(settings: Settings) -> None:
    """Tokenizer, scheduler and the index that makes a pipeline of the parts."""
    out = settings.model
    out.mkdir(parents=True, exist_ok=True)
    shutil.copytree(settings.tokenizer, out / "tokenizer", dirs_exist_ok=True)
    build_scheduler().save_pretrained(out / "scheduler")
    entries: dict[str, Any] = {
        "_class_name": StableDiffusionPipeline.__name__,
        "_diffusers_version": diffusers.__version__,
        "feature_extractor": [None, None],
        "image_encoder": [None, None],
        "requires_safety_checker": False,
        "safety_checker": [None, None],
        "scheduler": ["diffusers", "DDPMScheduler"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", CLIPTokenizer.__name__],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    }
    (out / INDEX).write_text(json.dumps(entries, indent=2) + "\n")


def copy(model: Path, out: Path) -> None:
    """The model's parts into `out`; the files there that are not the model's (README, settings) stay."""
    missing = [name for name in (*PARTS, WORDS_FILE, INDEX) if not (model / name).exists()]
    if missing:
        raise SystemExit(f"{model} lacks {', '.join(missing)}: the making has not come so far yet.")
    out.mkdir(parents=True, exist_ok=True)
    for part in PARTS:
        shutil.rmtree(out / part, ignore_errors=True)
        shutil.copytree(model / part, out / part)
    for name in (WORDS_FILE, INDEX):
        shutil.copyfile(model / name, out / name)
    sizes = [path.stat().st_size for path in out.rglob("*.safetensors")]
    print(f"{sum(sizes) / 1e6:.1f} MB in {len(sizes)} weight files, the largest {max(sizes) / 1e6:.1f} MB")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--work", required=True, type=Path, help="work folder of tools.mini.make")
    parser.add_argument("--out", default=Path("assets/mini"), type=Path, help="folder of the model")
    args = parser.parse_args()
    copy(args.work / "model", args.out)


if __name__ == "__main__":
    main()
