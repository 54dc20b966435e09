"""The adapter for other programs: as plain diffusers, or as A1111 and ComfyUI expect it (kohya's key names)."""

from __future__ import annotations

import dataclasses
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, get_args

import torch
from safetensors.torch import save_file
from torch import Tensor

from magicapture_core.checkpoints import ADAPTER_FILES, EMBEDDING_FILES, Run, RunFacts
from magicapture_core.config import GenerateConfig, from_dict
from magicapture_core.files import atomic_file, read_tensors
from magicapture_core.model_card import how_to_load, model_title
from magicapture_core.models import drawing_defaults
from magicapture_core.problems import Problem, RunProblem
from magicapture_core.prompts import SUBJECT_TOKEN, named

Format = Literal["diffusers", "kohya"]
LORA_FILE = ADAPTER_FILES[0]
BASE_VERSIONS = {768: "sd_v1", 1024: "sd_v2"}
"""kohya's names of the base models, by the width of their text encoders."""
LORA_KEY = re.compile(
    r"(unet|text_encoder)\.(.+?)\.(?:(?:lora|lora_linear_layer)\.)?(lora_A|lora_B|down|up)\.weight"
)
"""diffusers writes one of three spellings, by its version and the network."""

DIFFUSERS_README = """# {name}

A person and a style learned with MagiCapture for `{model}`.

```python
from diffusers import EulerAncestralDiscreteScheduler, StableDiffusionPipeline

pipe = StableDiffusionPipeline.{load_model}
pipe.scheduler = EulerAncestralDiscreteScheduler.from_config(pipe.scheduler.config)
pipe.load_textual_inversion(".", weight_name="subject.safetensors", token="<subject>")
pipe.load_textual_inversion(".", weight_name="style.safetensors", token="<style>")
{load_lora}picture = pipe(
    "a photo of a {subject} in the <style> style",
    num_inference_steps={steps},
    guidance_scale={guidance:g},
{use_lora}).images[0]
```

Run it in this folder. Without `<subject>` the person does not show, without `<style>` the style does not.
"""

KOHYA_README = """# {name}

A person and a style learned with MagiCapture for `{model}`. Use it with that model or a close relative.

| file | A1111, Forge | ComfyUI |
|---|---|---|
{lora_row}| `{name}-subject.safetensors` | `embeddings` | `models/embeddings` |
| `{name}-style.safetensors` | `embeddings` | `models/embeddings` |

Prompt in A1111 and Forge:

    a photo of a {webui_subject} in the {name}-style style{lora_prompt}

Prompt in ComfyUI{lora_node}:

    a photo of a {comfy_subject} in the embedding:{name}-style style

Steps {steps}, guidance {guidance:g}, Euler a. The embeddings' file names are the words of the prompt:
rename both together.
"""


def export_run(
    run: Path | str, format: Format, out: Path | str, *, adapter_scale: float | None = None
) -> list[Path]:
    """Write the run's adapter into the folder `out`. Returns the files written.

    diffusers: the adapter's files as they are. kohya: <name>.safetensors (fp16 LoRA) and the two embeddings,
    <name>-subject.safetensors and <name>-style.safetensors, named after the run's folder.
    Both come with a README.md that says how to use them, with the steps and guidance that suit the model, and at the
    strength `adapter_scale` (None: the one that suits the model). A run that was stopped in its first phase has no
    LoRA weights yet; its embeddings are exported.
    """
    if format not in get_args(Format):
        raise Problem(f"format must be one of {', '.join(get_args(Format))}, got {format!r}.")
    found, out = Run.open(run), Path(out)
    trained = found.facts().config.trained
    if trained != "lora":
        raise RunProblem(
            f"{found.folder} trained weights of the UNet itself (trained = {trained!r}), as the methods do that "
            "MagiCapture is compared with; expected LoRA, which other programs load. Export another run."
        )
    if out.exists() and not out.is_dir():
        raise Problem(f"{out} is a file; expected a folder to write into. Choose another name.")
    missing = [name for name in EMBEDDING_FILES.values() if not (found.adapter / name).exists()]
    if missing:
        raise RunProblem(f"{found.folder} has no {' and '.join(missing)} yet. Train it first.")
    suits = from_dict(GenerateConfig, drawing_defaults(found.facts().model))
    if adapter_scale is not None:
        suits = dataclasses.replace(suits, adapter_scale=adapter_scale)
    return (_as_diffusers if format == "diffusers" else _as_kohya)(found, out, suits)


def _as_diffusers(run: Run, out: Path, suits: GenerateConfig) -> list[Path]:
    written = []
    for name in ADAPTER_FILES:
        if (run.adapter / name).exists():
            with atomic_file(out / name) as path:
                shutil.copyfile(run.adapter / name, path)
            written.append(out / name)
    has_lora = out / LORA_FILE in written
    load_lora = f'pipe.load_lora_weights(".", weight_name="{LORA_FILE}")\n' if has_lora else ""
    scale = f'    cross_attention_kwargs={{"scale": {suits.adapter_scale:g}}},\n' if has_lora else ""
    readme = _write_readme(DIFFUSERS_README, run, out, suits, load_lora=load_lora, use_lora=scale)
    return [*written, readme]


def _as_kohya(run: Run, out: Path, suits: GenerateConfig) -> list[Path]:
    name, facts = export_name(run.folder), run.facts()
    rows = {token: read_tensors(run.adapter / file)[token] for token, file in EMBEDDING_FILES.items()}
    written = []
    has_lora = (run.adapter / LORA_FILE).exists()
    if has_lora:
        rank = facts.config.lora_rank
        alpha = facts.config.lora_alpha if facts.config.lora_alpha is not None else float(rank)
        state = kohya_state(read_tensors(run.adapter / LORA_FILE), alpha)
        width = next(iter(rows.values())).shape[-1]
        with atomic_file(out / f"{name}.safetensors") as path:
            save_file(state, path, metadata=_metadata(name, facts, rank, alpha, width))
        written.append(out / f"{name}.safetensors")
    for token, row in rows.items():
        target = out / f"{name}-{token.strip('<>')}.safetensors"
        with atomic_file(target) as path:
            save_file({"emb_params": row.float().reshape(1, -1).contiguous()}, path)
        written.append(target)
    readme = _write_readme(
        KOHYA_README,
        run,
        out,
        suits,
        lora_row=f"| `{name}.safetensors` | `models/Lora` | `models/loras` |\n" if has_lora else "",
        lora_prompt=f" <lora:{name}:{suits.adapter_scale:g}>" if has_lora else "",
        lora_node=f" (with a Load LoRA node at strength {suits.adapter_scale:g})" if has_lora else "",
    )
    return [*written, readme]


def kohya_state(adapter: Mapping[str, Tensor], alpha: float) -> dict[str, Tensor]:
    """diffusers' LoRA weights (unet.… and text_encoder.…) under kohya's names, in fp16.

    unet.down_blocks.0.….attn2.to_q.lora_A.weight becomes lora_unet_down_blocks_0_…_attn2_to_q.lora_down.weight,
    with its .alpha beside it: the update is alpha / rank · up · down.
    """
    state: dict[str, Tensor] = {}
    for key, weight in adapter.items():
        found = LORA_KEY.fullmatch(key)
        if found is None:
            raise RunProblem(f"{LORA_FILE} has {key!r}, which is no LoRA weight of a UNet or text encoder.")
        network, module = found[1], found[2]
        if network == "text_encoder":
            # transformers 5 dropped the prefix that every other program knows.
            module = "text_model." + module.removeprefix("text_model.")
        name = f"lora_{'unet' if network == 'unet' else 'te'}_{module.replace('.', '_')}"
        way = "lora_down" if found[3] in ("lora_A", "down") else "lora_up"
        half = weight.to(torch.float16)
        if not half.isfinite().all():
            raise RunProblem(
                f"{key} holds numbers that fp16 cannot: the training has gone astray. Train again with lower "
                "learning rates, or export for diffusers."
            )
        state[f"{name}.{way}.weight"] = half.contiguous()
        state[f"{name}.alpha"] = torch.tensor(alpha, dtype=torch.float16)
    return dict(sorted(state.items()))


def export_name(folder: Path) -> str:
    """A run folder's name as a word that is safe in file names and prompts, and leaves room for endings."""
    return re.sub(r"[^a-z0-9]+", "-", folder.resolve().name.lower())[:80].strip("-") or "magicapture"


def _metadata(name: str, facts: RunFacts, rank: int, alpha: float, width: int) -> dict[str, str]:
    """What programs that manage LoRA files read. A1111 takes ss_output_name as the name in the prompt."""
    metadata = {
        "ss_output_name": name,
        "ss_network_module": "networks.lora",
        "ss_network_dim": str(rank),
        "ss_network_alpha": f"{alpha:g}",
        "ss_resolution": f"({facts.config.resolution}, {facts.config.resolution})",
        "ss_training_comment": "MagiCapture; needs the embeddings that come with it",
    }
    if width in BASE_VERSIONS:
        metadata["ss_base_model_version"] = BASE_VERSIONS[width]
        metadata["ss_v2"] = str(width == 1024)
    return metadata


def _write_readme(template: str, run: Run, out: Path, suits: GenerateConfig, **words: str) -> Path:
    facts = run.facts()
    name, subject = export_name(run.folder), named(facts.config.noun)
    text = template.format(
        name=name, model=model_title(facts.model), load_model=how_to_load(facts.model), subject=subject,
        steps=suits.steps, guidance=suits.guidance_scale,
        webui_subject=subject.replace(SUBJECT_TOKEN, f"{name}-subject"),
        comfy_subject=subject.replace(SUBJECT_TOKEN, f"embedding:{name}-subject"), **words,
    )  # fmt: skip
    with atomic_file(out / "README.md") as path:
        path.write_text(text, encoding="utf-8")
    return out / "README.md"
