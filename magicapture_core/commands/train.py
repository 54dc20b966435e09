"""python -m magicapture_core train: learn a person and a style."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tyro
from rich.markup import escape

from magicapture_core.commands.console import DONE, INTERRUPTED, console, polite_interrupt, show_progress
from magicapture_core.commands.inputs import FaceVariant, analyser_for, read_concept, style_folder
from magicapture_core.commands.parsing import parse
from magicapture_core.config import TrainConfig
from magicapture_core.schedules import fitting_schedules, scheduled_config, usual_schedule

if TYPE_CHECKING:
    from magicapture_core.models import ModelBundle


@dataclass
class Train:
    """Learn a person and a style. Ctrl-C saves and stops; --resume goes on."""

    subject: Path
    """Folder with 4 to 6 photos of one person (or object)."""
    out: Path
    """Run folder to write."""
    style: Path | None = None
    """Folder with 4 to 6 photos in one style."""
    preset: str | None = None
    """A ready-made style instead of --style: the name of a folder in presets/."""
    model: str | None = None
    """"mini", a diffusers folder, a .safetensors file or a hub id. Default: mini without a GPU, else SD 1.5."""
    schedule: str | None = None
    """Settings to start from: "quick", "paper", or another one that comes with the model. Default: quick where the
    model has its own (mini has), else paper."""
    subject_masks: Path | None = None
    """Folder with your own masks, <photo name>.png, white where the subject is."""
    style_masks: Path | None = None
    """Folder with your own masks, <photo name>.png, white where a face is, which the style leaves out."""
    faces: FaceVariant = "auto"
    """Which face networks to use."""
    use_all: bool = False
    """Learn from photos of another person, of several people and from duplicates, too: they are left out otherwise."""
    resume: bool = False
    """Go on with the run in --out; its settings are kept."""
    config: tyro.conf.OmitArgPrefixes[TrainConfig] = field(default_factory=TrainConfig)

    def run(self, arguments: list[str]) -> int:
        """Exits 130 when interrupted, after saving.

        Settings given on the command line win over the preset's, those over the schedule's. The schedule can come with
        the model and is known only once that is loaded; so `arguments` are read again, over those values.
        """
        from magicapture_core.checkpoints import Run
        from magicapture_core.models import load

        before = Run.open(self.out).facts() if self.resume else None
        models = load(self.model or (before.model if before else None))
        start = before.config if before else self._starting_config(models)
        return parse(Train, arguments, default=replace(self, config=start))._train(models)

    def _starting_config(self, models: ModelBundle) -> TrainConfig:
        from magicapture_core.presets import load_preset

        name = self.schedule or usual_schedule(models.schedules)
        style = load_preset(self.preset).overrides if self.preset else {}
        config = scheduled_config(name, models.schedules, models.resolution, style)
        fitting = fitting_schedules(models.schedules)
        if name not in fitting:
            console.print(
                f"The schedule {escape(name)} is not made for this model: portraits can be much worse than with its "
                f"own, {escape(', '.join(fitting))}."
            )
        return config

    def _train(self, models: ModelBundle) -> int:
        from magicapture_core.evaluation.class_pictures import class_latents
        from magicapture_core.training import train

        look = style_folder(self.style, self.preset)
        analyser = analyser_for(self.faces)
        cut: dict[str, Any] = {
            "resolution": self.config.resolution,
            "framing": models.framing,
            "kind": self.config.subject_kind,
            "analyser": analyser,
        }
        subject = read_concept("subject", self.subject, masks=self.subject_masks, use_all=self.use_all, **cut)
        every = self.use_all or self.preset is not None  # the photos of presets were checked by people
        style = read_concept("style", look, masks=self.style_masks, use_all=every, **cut)
        reports = train(
            models,
            subject,
            style,
            self.config,
            self.out,
            analyser=analyser,
            class_latents=class_latents(models, self.config),
            resume=self.resume,
        )
        with closing(reports), polite_interrupt() as interrupted:
            finished = show_progress(reports, self.config, interrupted)
        if not finished:
            console.print(f"Stopped and saved in {escape(str(self.out))}. Go on with --resume.")
            return INTERRUPTED
        console.print(f"Done: {escape(str(self.out))}")
        return DONE
