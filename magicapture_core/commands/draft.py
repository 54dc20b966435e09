"""`draft`: portraits before any training."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tyro
from rich.markup import escape

from magicapture_core.commands.inputs import FaceVariant, analyser_for, read_concept, style_folder
from magicapture_core.config import GenerateConfig, check_noun, from_dict
from magicapture_core.console import DONE, console
from magicapture_core.files import unused

if TYPE_CHECKING:
    from magicapture_core.models import ModelBundle


@dataclass
class Draft:
    """See a person roughly in a style within seconds, without training. A training then makes the face true."""

    subject: Path
    """Folder with 4 to 6 photos of one person."""
    out: Path
    """Folder for the pictures."""
    style: Path | None = None
    """Folder with 4 to 6 photos in one style."""
    preset: str | None = None
    """A ready-made style instead of --style: the name of a folder in presets/."""
    model: str = "mini"
    """A model that brings words.safetensors; the built-in one does."""
    subject_words: str = "person"
    """What the person is called in the prompt: woman, man or person, after young, middle-aged or old if wanted."""
    use_all: bool = False
    """Use photos of another person, of several people and duplicates, too: they are left out otherwise."""
    faces: FaceVariant = "auto"
    """Which face networks to use."""
    private: bool = False
    """Leave the prompt out of the files. They are marked as generated in any case."""
    config: tyro.conf.OmitArgPrefixes[GenerateConfig] = field(default_factory=GenerateConfig)

    def run(self, models: ModelBundle) -> int:
        """Writes draft-seed<seed>.png as each is ready, and then lists them, best likeness first."""
        from magicapture_core.generation import best_first, draft

        check_noun(self.subject_words)
        look = style_folder(self.style, self.preset)
        analyser = analyser_for(self.faces)
        cut: dict[str, Any] = {
            "resolution": models.resolution,
            "framing": models.framing,
            "analyser": analyser,
        }
        subject = read_concept("subject", self.subject, use_all=self.use_all, **cut)
        every = self.use_all or self.preset is not None  # a preset was chosen by people who looked
        style = read_concept("style", look, use_all=every, **cut)
        self.out.mkdir(parents=True, exist_ok=True)
        files: dict[int, Path] = {}
        portraits = []
        for portrait in draft(
            models, subject, style, self.config, analyser=analyser, noun=self.subject_words
        ):
            path = files[portrait.seed] = unused(self.out / f"draft-seed{portrait.seed}.png")
            portrait.save(path, private=self.private)
            portraits.append(portrait)
        console.print("Drafts: the look, not yet the face. A training makes the face true.")
        for portrait in best_first(portraits):
            score = "no face found" if portrait.identity is None else f"identity {portrait.identity:.3f}"
            console.print(f"{escape(str(files[portrait.seed]))}  {score}", soft_wrap=True)
        return DONE


def run_draft(command: Draft, arguments: list[str], program: str) -> int:
    """The model's and the preset's suggestions come below what the command line says."""
    from magicapture_core.models import load
    from magicapture_core.presets import load_preset

    models = load(command.model)
    suggested = dict(models.generate_defaults)
    if command.preset:
        preset = load_preset(command.preset)
        suggested |= {"prompt": preset.prompts[0], "negative_prompt": preset.negative_prompt}
    default = replace(command, config=from_dict(GenerateConfig, suggested))
    command = tyro.cli(Draft, args=arguments, default=default, prog=program)
    return command.run(models)
