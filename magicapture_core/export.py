"""A run's adapter for other programs."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from magicapture_core.adapters.exporting import Exported, Format, export_adapter, export_name
from magicapture_core.adapters.files import missing_embeddings
from magicapture_core.checkpoints import Run
from magicapture_core.config import GenerateConfig, from_dict
from magicapture_core.languages import _
from magicapture_core.models import generate_defaults
from magicapture_core.models.families import family_called
from magicapture_core.problems import Problem, RunProblem


def export_run(
    run: Path | str, format: Format, out: Path | str, *, adapter_scale: float | None = None
) -> list[Path]:
    """Write the run's adapter into the folder `out`, named after the run's folder. Returns the files written.

    format: "diffusers" or "kohya", see `adapters.export_adapter`. Both come with a README.md that says how to use
    them, with the steps and guidance that suit the model, and at the strength `adapter_scale` (None: the one that suits
    the model). A run that was stopped in its first phase has no LoRA weights yet; its embeddings are exported.
    Raises Problem for another format or a file in the way, RunProblem for a run that cannot be exported.
    """
    found, out = Run.open(run), Path(out)
    facts = found.facts()
    if facts.config.trained != "lora":
        raise RunProblem(
            _(
                "{folder} trained weights of the UNet itself (trained = {trained}), as the methods do that MagiCapture "
                "is compared with; expected LoRA, which other programs load. Export another run.",
                folder=found.folder,
                trained=repr(facts.config.trained),
            )
        )
    if out.exists() and not out.is_dir():
        raise Problem(_("{path} is a file; expected a folder to write into. Choose another name.", path=out))
    missing = missing_embeddings(found.adapter)
    if missing:
        raise RunProblem(
            _(
                "{folder} has no {files} yet. Train it first.",
                folder=found.folder,
                files=_(" and ").join(missing),
            )
        )
    suits = from_dict(GenerateConfig, generate_defaults(facts.model))
    if adapter_scale is not None:
        suits = dataclasses.replace(suits, adapter_scale=adapter_scale)
    exported = Exported(
        adapter=found.adapter,
        name=export_name(found.folder),
        model=facts.model,
        family=family_called(facts.family),
        config=facts.config,
        suits=suits,
    )
    return export_adapter(exported, format, out)
