"""python -m magicapture_core generate: portraits with a trained run."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from magicapture_core.commands.console import DONE, console, list_portraits, show_note
from magicapture_core.commands.inputs import FaceVariant, analyser_for
from magicapture_core.commands.parsing import parse
from magicapture_core.config import GenerateConfig, from_dict
from magicapture_core.files import unused
from magicapture_core.problems import Problem

if TYPE_CHECKING:
    import numpy as np

    from magicapture_core.checkpoints import RunFacts
    from magicapture_core.generation import Portrait
    from magicapture_core.models import ModelBundle


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

        from magicapture_core.generation import best_first, generate

        analyser = analyser_for(self.faces) if facts.config.subject_kind == "person" else None
        self.out.mkdir(parents=True, exist_ok=True)
        files: dict[int, Path] = {}
        with ProgressBar(console=console) as bar:
            task = bar.add_task("Denoising", total=None)

            def show(_what: str, done: float, total: float | None) -> None:
                bar.update(task, completed=done, total=total)

            portraits = []
            for portrait in generate(models, trained, self.config, analyser=analyser, progress=show):
                path = files[portrait.seed] = unused(self.out / f"portrait-seed{portrait.seed}.png")
                portrait.save(path, private=self.private)
                for word, heat in portrait.attention.items():
                    _write_heat(
                        portrait, heat, unused(path.with_suffix(f".{_file_part(word)}.png")), self.private
                    )
                portraits.append(portrait)
        for warning in dict.fromkeys(warning for portrait in portraits for warning in portrait.warnings):
            show_note(warning)
        list_portraits(best_first(portraits), files)
        return DONE


def _write_heat(portrait: Portrait, heat: np.ndarray, path: Path, private: bool) -> None:
    """Write the heat map over the portrait. It shows the face, so it gets the same provenance marks as the portrait."""
    import numpy as np
    from PIL import Image

    from magicapture_core.heat import heat_overlay

    coloured = Image.fromarray(heat_overlay(np.asarray(portrait.image.convert("RGB")), heat))
    replace(portrait, image=coloured).save(path, private=private)


def _file_part(word: str) -> str:
    """The word as a part of a file name: at most 40 letters, which are at most 160 bytes."""
    return "".join(letter if letter.isalnum() else "_" for letter in word).strip("_")[:40] or "word"
