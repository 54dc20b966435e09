"""README.md of a run: how it was made, how to load it, what it is for, and its limits."""

from __future__ import annotations

import json

from magicapture_core.adapters.files import has_lora, has_unet_weights
from magicapture_core.checkpoints import Run
from magicapture_core.config import TrainConfig, to_dict
from magicapture_core.files import atomic_file
from magicapture_core.losses import TERMS
from magicapture_core.models.families import family_called
from magicapture_core.models.naming import how_to_load, model_title
from magicapture_core.prompts import named

CARD = """---
license: other
tags: [magicapture, {family}, lora, textual-inversion]
---
# A personalised portrait model

Made with MagiCapture (arXiv 2309.06895) from {subject_count} photos of one {kind} and {style_count} photos
in one style. It holds two embeddings, `<subject>` and `<style>`{lora_sentence}, for the base model `{model}`.

Trained so far: {step} of {total} optimizer steps ({ti_steps} of textual inversion, then {lora_steps} with LoRA).
{last_losses}
Settings that differ from the defaults:

```json
{settings}
```

## Use it

With MagiCapture (in this folder):

    python -m magicapture_core generate . --prompt "a photo of a {{subject}} in the {{style}}" -n 4 --out portraits

With diffusers (in this folder):

```python
from diffusers import {pipeline_class}
{imports}
pipe = {pipeline_class}.{load_model}
{load_words}{load_lora}picture = pipe("a photo of a {subject} in the <style> style").images[0]
```

## Intended use

Portraits of the person shown in the photos, by that person or with that person's permission. Not for
deceiving anyone, not for identification, not for pictures of people who did not agree.

## Limits

Hands and limbs can come out odd. The method's authors report lower fidelity for non-white subjects and a
gender bias of the base model. Every picture that MagiCapture writes is marked as generated.
"""


def write_model_card(run: Run, trained: Run | None = None) -> None:
    """Write RUN/README.md, again if it exists, from the content of the run folder.

    trained: where `run` is a copy without logs, the run that it was copied from.
    """
    trained = trained or run
    facts, rows = run.facts(), trained.losses()
    config, family = facts.config, family_called(facts.family)
    defaults = to_dict(TrainConfig())
    changed = {name: value for name, value in to_dict(config).items() if value != defaults[name]}
    lora = has_lora(run.adapter)
    unet = has_unet_weights(run.adapter)  # diffusers has no loader for those: MagiCapture alone does
    weights = " and LoRA weights" if lora else " and weights of the UNet" if unet else ""
    last = ", ".join(f"{name} {rows[-1][name]:.3f}" for name in rows[-1] if name in TERMS) if rows else ""
    text = CARD.format(
        subject_count=len(facts.subject),
        style_count=len(facts.style),
        kind=config.subject_kind,
        subject=named(config.noun),
        model=model_title(facts.model),
        family=family.family,
        pipeline_class=family.pipeline_class,
        **family.how_to_load_words("adapter"),
        load_model=how_to_load(trained.facts().model),
        lora_sentence=weights,
        load_lora='pipe.load_lora_weights("adapter")\n' if lora else "",
        step=rows[-1]["step"] if rows else 0,
        total=config.ti_steps + config.lora_steps,
        ti_steps=config.ti_steps,
        lora_steps=config.lora_steps,
        last_losses=f"Losses of the last step: {last}.\n" if last else "",
        settings=json.dumps(changed, indent=2),
    )
    with atomic_file(run.folder / "README.md") as path:
        path.write_text(text, encoding="utf-8")
