"""An adapter for other programs: as plain diffusers, or as A1111 and ComfyUI expect it (kohya's key names)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from safetensors.torch import save_file
from torch import Tensor

from magicapture_core.adapters.files import EMBEDDING_FILES, LORA_FILE, copy_adapter, has_lora
from magicapture_core.config import GenerateConfig, TrainConfig
from magicapture_core.files import atomic_file, read_tensors
from magicapture_core.languages import _
from magicapture_core.models import ModelBundle
from magicapture_core.models.naming import how_to_load, model_title
from magicapture_core.problems import Problem, RunProblem
from magicapture_core.prompts import SUBJECT_TOKEN, named

Format = Literal["diffusers", "kohya"]
LORA_KEY = re.compile(
    r"(unet|text_encoder(?:_2)?)\.(.+?)\.(?:(?:lora|lora_linear_layer)\.)?(lora_A|lora_B|down|up)\.weight"
)
"""diffusers writes one of three spellings, by its version and the network."""

DIFFUSERS_README = """# {name}

A person and a style learned with MagiCapture for `{model}`.

```python
from diffusers import EulerAncestralDiscreteScheduler, {pipeline_class}
{imports}
pipe = {pipeline_class}.{load_model}
pipe.scheduler = EulerAncestralDiscreteScheduler.from_config(pipe.scheduler.config)
{load_words}{load_lora}picture = pipe(
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


@dataclass(frozen=True)
class Exported:
    """An adapter and what its export says about it."""

    adapter: Path
    """Folder of its files."""
    name: str
    """As `export_name` makes it."""
    model: str
    """That it was trained for: what `models.load` takes."""
    family: type[ModelBundle]
    config: TrainConfig
    suits: GenerateConfig
    """Steps, guidance and strength that suit the model."""


def export_adapter(exported: Exported, format: Format, out: Path) -> list[Path]:
    """Write the adapter and a README.md into the folder `out`. Returns the files written.

    diffusers: the adapter's files as they are. kohya: NAME.safetensors (fp16 LoRA) and the two embeddings,
    NAME-subject.safetensors and NAME-style.safetensors.
    """
    if format not in get_args(Format):
        raise Problem(
            _(
                "format must be one of {formats}, got {format}.",
                formats=", ".join(get_args(Format)),
                format=repr(format),
            )
        )
    return (_as_diffusers if format == "diffusers" else _as_kohya)(exported, out)


def _as_diffusers(exported: Exported, out: Path) -> list[Path]:
    written = copy_adapter(exported.adapter, out)
    lora = has_lora(exported.adapter)
    load_lora = f'pipe.load_lora_weights(".", weight_name="{LORA_FILE}")\n' if lora else ""
    scale = f'    cross_attention_kwargs={{"scale": {exported.suits.adapter_scale:g}}},\n' if lora else ""
    readme = _write_readme(DIFFUSERS_README, exported, out, load_lora=load_lora, use_lora=scale)
    return [*written, readme]


def _as_kohya(exported: Exported, out: Path) -> list[Path]:
    name, adapter, config = exported.name, exported.adapter, exported.config
    embeddings = {token: read_tensors(adapter / file) for token, file in EMBEDDING_FILES.items()}
    written = []
    lora = has_lora(adapter)
    if lora:
        alpha = config.lora_alpha if config.lora_alpha is not None else float(config.lora_rank)
        state = kohya_state(read_tensors(adapter / LORA_FILE), alpha, exported.family)
        width = sum(part.numel() for part in embeddings[SUBJECT_TOKEN].values())
        with atomic_file(out / f"{name}.safetensors") as path:
            save_file(state, path, metadata=_metadata(exported, alpha, width))
        written.append(out / f"{name}.safetensors")
    for token, embedding in embeddings.items():
        target = out / f"{name}-{token.strip('<>')}.safetensors"
        with atomic_file(target) as path:
            save_file(exported.family.shared_embedding(embedding), path)
        written.append(target)
    strength = exported.suits.adapter_scale
    readme = _write_readme(
        KOHYA_README,
        exported,
        out,
        lora_row=f"| `{name}.safetensors` | `models/Lora` | `models/loras` |\n" if lora else "",
        lora_prompt=f" <lora:{name}:{strength:g}>" if lora else "",
        lora_node=f" (with a Load LoRA node at strength {strength:g})" if lora else "",
    )
    return [*written, readme]


def kohya_state(adapter: Mapping[str, Tensor], alpha: float, family: type[ModelBundle]) -> dict[str, Tensor]:
    """diffusers' LoRA weights (unet.… and text_encoder.…) under kohya's names, in fp16.

    unet.down_blocks.0.….attn2.to_q.lora_A.weight becomes (in Stable Diffusion 1.x)
    lora_unet_down_blocks_0_…_attn2_to_q.lora_down.weight, with its .alpha beside it: the update is
    alpha / rank · up · down.
    """
    state: dict[str, Tensor] = {}
    for key, weight in adapter.items():
        found = LORA_KEY.fullmatch(key)
        network, module = (found[1], found[2]) if found else ("", key)
        if network != "unet":
            # transformers 5 dropped the prefix that every other program knows.
            module = "text_model." + module.removeprefix("text_model.")
        name = family.kohya_name(network, module)
        if found is None or name is None:
            raise RunProblem(
                _(
                    "{file} has {key}, which is no LoRA weight of a UNet or text encoder.",
                    file=LORA_FILE,
                    key=repr(key),
                )
            )
        way = "lora_down" if found[3] in ("lora_A", "down") else "lora_up"
        half = weight.to(torch.float16)
        if not half.isfinite().all():
            raise RunProblem(
                _(
                    "{key} holds numbers that fp16 cannot: the training has gone astray. Train again with lower "
                    "learning rates, or export for diffusers.",
                    key=key,
                )
            )
        state[f"{name}.{way}.weight"] = half.contiguous()
        state[f"{name}.alpha"] = torch.tensor(alpha, dtype=torch.float16)
    return dict(sorted(state.items()))


def export_name(folder: Path) -> str:
    """A run folder's name as a word that is safe in file names and prompts, and leaves room for endings."""
    return re.sub(r"[^a-z0-9]+", "-", folder.resolve().name.lower())[:80].strip("-") or "magicapture"


def _metadata(exported: Exported, alpha: float, width: int) -> dict[str, str]:
    """What programs that manage LoRA files read. A1111 takes ss_output_name as the name in the prompt."""
    config = exported.config
    return {
        "ss_output_name": exported.name,
        "ss_network_module": "networks.lora",
        "ss_network_dim": str(config.lora_rank),
        "ss_network_alpha": f"{alpha:g}",
        "ss_resolution": f"({config.resolution}, {config.resolution})",
        "ss_training_comment": "MagiCapture; needs the embeddings that come with it",
        **exported.family.kohya_metadata(width),
    }


def _write_readme(template: str, exported: Exported, out: Path, **words: Any) -> Path:
    name, subject = exported.name, named(exported.config.noun)
    text = template.format(
        name=name, model=model_title(exported.model), load_model=how_to_load(exported.model), subject=subject,
        pipeline_class=exported.family.pipeline_class, **exported.family.how_to_load_words("."),
        steps=exported.suits.steps, guidance=exported.suits.guidance_scale,
        webui_subject=subject.replace(SUBJECT_TOKEN, f"{name}-subject"),
        comfy_subject=subject.replace(SUBJECT_TOKEN, f"embedding:{name}-subject"), **words,
    )  # fmt: skip
    with atomic_file(out / "README.md") as path:
        path.write_text(text, encoding="utf-8")
    return out / "README.md"
