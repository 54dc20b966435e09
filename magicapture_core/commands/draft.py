"""python -m magicapture_core draft: portraits before any training."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tyro

from magicapture_core.commands.console import DONE, console, list_portraits
from magicapture_core.commands.inputs import FaceVariant, analyser_for, read_concept, style_folder
from magicapture_core.commands.parsing import parse
from magicapture_core.commands.portraits import save_portrait, show_warnings
from magicapture_core.config import GenerateConfig, check_noun, from_dict
from magicapture_core.files import unused

if TYPE_CHECKING:
    from magicapture_core.models import ModelBundle


@dataclass
class Draft:
    """Show a person in a style in seconds, without training. The face is only similar; a training makes it accurate."""

    subject: Path
    """Folder with 4 to 6 photos of one person."""
    out: Path
    """Folder for the pictures."""
    style: Path | None = None
    """Folder with 4 to 6 photos in one style."""
    preset: str | None = None
    """A ready-made style instead of --style: the name of a folder in presets/."""
    model: str = "mini"
    """A model with words.safetensors; the built-in one has it."""
    subject_words: str = "person"
    """What the person is called in the prompt: woman, man or person, after young, middle-aged or old if wanted."""
    use_all: bool = False
    """Use photos of another person, of several people and duplicates, too: they are left out otherwise."""
    faces: FaceVariant = "auto"
    """Which face networks to use."""
    private: bool = False
    """Leave the prompt out of the files. They are marked as generated in any case."""
    config: tyro.conf.OmitArgPrefixes[GenerateConfig] = field(default_factory=GenerateConfig)

    def run(self, arguments: list[str]) -> int:
        """Writes draft-seed<seed>.png as each is ready, and then lists them, best likeness first.

        What the model and the preset suggest has a lower priority than `arguments`, which are read again over it.
        """
        from magicapture_core.models import load
        from magicapture_core.presets import load_preset

        models = load(self.model)
        suggested = dict(models.generate_defaults)
        if self.preset:
            preset = load_preset(self.preset)
            suggested |= {"prompt": preset.prompts[0], "negative_prompt": preset.negative_prompt}
        start = from_dict(GenerateConfig, suggested)
        return parse(Draft, arguments, default=replace(self, config=start))._draft(models)

    def _draft(self, models: ModelBundle) -> int:
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
        every = self.use_all or self.preset is not None  # the photos of presets were checked by people
        style = read_concept("style", look, use_all=every, **cut)
        self.out.mkdir(parents=True, exist_ok=True)
        files: dict[int, Path] = {}
        portraits = []
        for portrait in draft(
            models, subject, style, self.config, analyser=analyser, noun=self.subject_words
        ):
            path = files[portrait.seed] = unused(self.out / f"draft-seed{portrait.seed}.png")
            save_portrait(portrait, path, private=self.private)
            portraits.append(portrait)
        show_warnings(portraits)
        console.print("Drafts: the look, not yet the face. A training makes the face true.")
        list_portraits(best_first(portraits), files)
        return DONE
