"""MagiCapture: portraits of a person in a style, from a few photos of each.

The walk of one photo, and where each step lives:
photo (photos) → face (faces) → masks (masks) → example (concepts) → latents, loss, adapter (training) →
run folder (checkpoints) → portrait (generation).

Axes in comments and docstrings: b items, c channels, h height, w width, heads of attention, tokens of the
prompt, dim of an embedding. Masks are 1 in the region; boxes are xyxy in pixels; pictures are RGB.

    from magicapture_core import TrainConfig, choose_analyser, load, prepare_concept, read_photo, train

Names are loaded on first use, so that importing the package costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from magicapture_core.adapters.attach import ExtraLora
    from magicapture_core.checkpoints import Run
    from magicapture_core.concepts import Concept, Example, Verdict, judge_photos, prepare_concept
    from magicapture_core.config import GenerateConfig, PostprocessConfig, TrainConfig
    from magicapture_core.export import export_run
    from magicapture_core.faces import Face, FaceAnalyser, choose_analyser
    from magicapture_core.generation import Portrait, best_first, draft, generate
    from magicapture_core.masks import Masks
    from magicapture_core.models import ModelBundle, load
    from magicapture_core.photos import Photo, list_photos, read_photo
    from magicapture_core.postprocess import Finished, finish
    from magicapture_core.presets import Preset, load_preset, preset_names
    from magicapture_core.problems import MissingFiles, PhotoProblem, Problem, RunProblem
    from magicapture_core.progress import StoppedError
    from magicapture_core.schedules import scheduled_config
    from magicapture_core.training import StepReport, train

_HOME = {
    "adapters.attach": ("ExtraLora",),
    "checkpoints": ("Run",),
    "concepts": ("Concept", "Example", "Verdict", "judge_photos", "prepare_concept"),
    "config": ("GenerateConfig", "PostprocessConfig", "TrainConfig"),
    "export": ("export_run",),
    "faces": ("Face", "FaceAnalyser", "choose_analyser"),
    "generation": ("Portrait", "best_first", "draft", "generate"),
    "masks": ("Masks",),
    "models": ("ModelBundle", "load"),
    "photos": ("Photo", "list_photos", "read_photo"),
    "postprocess": ("Finished", "finish"),
    "presets": ("Preset", "load_preset", "preset_names"),
    "problems": ("MissingFiles", "PhotoProblem", "Problem", "RunProblem"),
    "progress": ("StoppedError",),
    "schedules": ("scheduled_config",),
    "training": ("StepReport", "train"),
}
_WHERE = {name: module for module, names in _HOME.items() for name in names}

__version__ = "0.2.0"
__all__ = [
    "Concept",
    "Example",
    "ExtraLora",
    "Face",
    "FaceAnalyser",
    "Finished",
    "GenerateConfig",
    "Masks",
    "MissingFiles",
    "ModelBundle",
    "Photo",
    "PhotoProblem",
    "Portrait",
    "PostprocessConfig",
    "Preset",
    "Problem",
    "Run",
    "RunProblem",
    "StepReport",
    "StoppedError",
    "TrainConfig",
    "Verdict",
    "best_first",
    "choose_analyser",
    "draft",
    "export_run",
    "finish",
    "generate",
    "judge_photos",
    "list_photos",
    "load",
    "load_preset",
    "prepare_concept",
    "preset_names",
    "read_photo",
    "scheduled_config",
    "train",
]


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_WHERE[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
