"""Concepts and short trainings on the toy model."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from toy import RESOLUTION, ToyAnalyser

from magicapture_core.concepts import Concept, Example
from magicapture_core.config import TrainConfig
from magicapture_core.evaluation.class_pictures import class_latents
from magicapture_core.masks import Masks
from magicapture_core.training import StepReport, train

SHORT: dict[str, Any] = {
    "resolution": RESOLUTION,
    "ti_steps": 3,
    "lora_steps": 4,
    "batch_size": 2,
    "gradient_accumulation": 2,
    "attention_resolution": 8,
    "ti_learning_rate": 1e-2,
    "lora_learning_rate": 1e-2,
    "embedding_learning_rate": 1e-3,
    "checkpoint_every": 100,
    "sample_every": 0,
    "attention_every": 0,
}


def short(**changes: Any) -> TrainConfig:
    """A few steps at toy size."""
    return TrainConfig(**{**SHORT, **changes})


def toy_concept(
    role: Literal["subject", "style"],
    count: int = 3,
    *,
    faces: bool = True,
    kind: Literal["person", "object"] = "person",
) -> Concept:
    """Smooth random pictures with the toy analyser's face in the middle."""
    generator = torch.Generator().manual_seed(7 if role == "subject" else 8)
    examples = []
    for number in range(count):
        coarse = torch.rand(1, 3, 4, 4, generator=generator) * 2 - 1
        image = torch.nn.functional.interpolate(coarse, size=RESOLUTION, mode="bicubic")[0].clamp(-1, 1)
        pixels = ((image / 2 + 0.5) * 255).byte().permute(1, 2, 0).numpy()
        analyser = ToyAnalyser()
        face = analyser.detect(pixels)[0]
        mask = torch.from_numpy(analyser.face_mask(pixels, face))[None]
        examples.append(
            Example(
                name=f"{role}-{number}.png",
                image=image,
                masks=Masks(mask if faces else torch.zeros_like(mask)),
                landmarks=torch.from_numpy(np.asarray(face.landmarks)) if faces else None,
                digest=f"{role}{number}{faces}",
                warnings=(),
            )
        )
    return Concept(role, kind, tuple(examples))


def start(models: Any, config: TrainConfig, folder: Path, **options: Any) -> Iterator[StepReport]:
    """A training on three subject and three style pictures."""
    subject = options.pop("subject", None) or toy_concept("subject", kind=config.subject_kind)
    style = options.pop("style", None) or toy_concept("style")
    options.setdefault("class_latents", class_latents(models, config))
    return train(models, subject, style, config, folder, analyser=ToyAnalyser(), **options)


def weights_of(folder: Path) -> dict[str, torch.Tensor]:
    """Every tensor of a run's adapter."""
    from safetensors.torch import load_file

    return {
        f"{path.name}:{name}": tensor
        for path in sorted((folder / "adapter").glob("*.safetensors"))
        for name, tensor in load_file(path).items()
    }
