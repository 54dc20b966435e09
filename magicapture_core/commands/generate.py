"""python -m magicapture_core generate: portraits with a trained run."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from magicapture_core.commands.console import DONE, console, list_portraits
from magicapture_core.commands.inputs import FaceVariant, analyser_for
from magicapture_core.commands.parsing import parse
from magicapture_core.commands.portraits import save_portrait, show_warnings
from magicapture_core.config import GenerateConfig, from_dict
from magicapture_core.files import unused
from magicapture_core.problems import Problem

if TYPE_CHECKING:
    from magicapture_core.models import ModelBundle
    from magicapture_core.run_facts import RunFacts


@dataclass
class Generate:
    """Make portraits with a trained run, best likeness first."""

    out: Path
    """Folder for the pictures."""
    trained: Annotated[tyro.conf.Positional[Path | None], tyro.conf.arg(metavar="RUN")] = None
    """The run folder."""
    adapter: str | None = None
    """Instead of RUN: a repository of the Hugging Face hub, "user/name", that the command upload wrote."""
    model: str | None = None
    """Another base model than the run's own."""
    faces: FaceVariant = "auto"
    """Which face networks score the portraits."""
    extra_lora: Path | None = None
    """Another LoRA file (.safetensors) to use beside what was learned, for example one that needs few steps. Mind the
    steps, guidance and sampler that its makers name."""
    extra_lora_scale: float = 1.0
    """Its strength, 0 to 2."""
    private: bool = False
    """Leave the prompt out of the files. They are marked as generated in any case."""
    config: tyro.conf.OmitArgPrefixes[GenerateConfig] = field(default_factory=GenerateConfig)

    def run(self, arguments: list[str]) -> int:
        """Writes portrait-seed<seed>.png as each is ready, and then lists them, best likeness first.

        What the model suggests is known only once it is loaded; so `arguments` are read again, over those values.
        """
        from magicapture_core.checkpoints import Run
        from magicapture_core.models import load

        trained = self._found()
        facts = Run.open(trained).facts()
        models = load(self.model or facts.model)
        start = from_dict(GenerateConfig, dict(models.generate_defaults))
        again = parse(Generate, arguments, default=replace(self, config=start))
        return again._generate(models, facts, trained)

    def _found(self) -> Path:
        """The run folder, downloaded first if it is on the hub. Raises Problem unless exactly one is given."""
        from magicapture_core.sharing import fetch_run

        if (self.trained is None) == (self.adapter is None):
            raise Problem("Give a run folder, or --adapter with a repository of the hub, and not both.")
        return self.trained if self.trained is not None else fetch_run(str(self.adapter))

    def _generate(self, models: ModelBundle, facts: RunFacts, trained: Path) -> int:
        from rich.progress import Progress as ProgressBar

        from magicapture_core.adapters.attach import ExtraLora
        from magicapture_core.generation import best_first, generate

        extra = ExtraLora(self.extra_lora, self.extra_lora_scale) if self.extra_lora else None
        analyser = analyser_for(self.faces) if facts.config.subject_kind == "person" else None
        self.out.mkdir(parents=True, exist_ok=True)
        files: dict[int, Path] = {}
        with ProgressBar(console=console) as bar:
            task = bar.add_task("Denoising", total=None)

            def show(_what: str, done: float, total: float | None) -> None:
                bar.update(task, completed=done, total=total)

            portraits = []
            made = generate(models, trained, self.config, analyser=analyser, extra=extra, progress=show)
            for portrait in made:
                path = files[portrait.seed] = unused(self.out / f"portrait-seed{portrait.seed}.png")
                save_portrait(portrait, path, private=self.private)
                portraits.append(portrait)
        show_warnings(portraits)
        list_portraits(best_first(portraits), files)
        return DONE
