"""Write the trained model as a diffusers pipeline folder, in half precision and in shards under 9.5 MB.

python -m tools.mini.export --work .training/mini --out assets/mini
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path

import numpy as np
import torch
from diffusers import StableDiffusionPipeline
from transformers import CLIPTokenizer

from tools.mini.train_unet import Denoiser, build_scheduler, build_text_encoder, build_unet, marks_of
from tools.mini.train_vae import build_vae

SHARD = "9MB"


def assemble(work: Path) -> StableDiffusionPipeline:
    """The pipeline with the newest averaged weights of `work`, float32."""
    state = torch.load(work / "unet.pt", map_location="cpu", weights_only=True)
    tokenizer = CLIPTokenizer.from_pretrained(work / "model" / "tokenizer")
    resolution = np.load(work / "heldout.npy", mmap_mode="r").shape[1]
    unet = build_unet(resolution // 8, tuple(state["shape"]["channels"]), state["shape"]["layers"])
    model = Denoiser(unet, build_text_encoder(tokenizer), marks_of(tokenizer))
    model.load_state_dict(state["average"])
    vae = build_vae(resolution)
    refined = work / "vae_refined.pt"
    vae.load_state_dict(torch.load(refined if refined.exists() else work / "vae_final.pt", weights_only=True))
    print(f"UNet after {state['step']} steps, {state['seconds'] / 60:.0f} minutes", flush=True)
    return StableDiffusionPipeline(
        vae=vae, text_encoder=model.text_encoder, tokenizer=tokenizer, unet=model.unet, scheduler=build_scheduler(),
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip


def export(work: Path, out: Path) -> None:
    """Write the pipeline to `out`; the files there that are not the model's (README, settings) stay."""
    pipeline = assemble(work).to(dtype=torch.float16)
    for part in ("unet", "vae", "text_encoder", "tokenizer", "scheduler"):
        shutil.rmtree(out / part, ignore_errors=True)
    pipeline.save_pretrained(out, max_shard_size=SHARD)
    shutil.rmtree(out / "tokenizer", ignore_errors=True)
    shutil.copytree(work / "model" / "tokenizer", out / "tokenizer")
    for config in out.glob("*/config.json"):  # saved configurations name the folder they came from
        values = json.loads(config.read_text())
        values.pop("_name_or_path", None)
        if "dtype" in values:  # transformers opens in this precision, diffusers in float32: they must agree
            values["dtype"] = "float32"
        config.write_text(json.dumps(values, indent=2, sort_keys=True) + "\n")
    sizes = [path.stat().st_size for path in out.rglob("*.safetensors")]
    print(f"{sum(sizes) / 1e6:.1f} MB in {len(sizes)} weight files, the largest {max(sizes) / 1e6:.1f} MB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", required=True, help="folder of the checkpoints")
    parser.add_argument("--out", default="assets/mini", help="folder of the model")
    args = parser.parse_args()
    export(Path(args.work), Path(args.out))


if __name__ == "__main__":
    main()
