"""Command line: python -m magicapture_core COMMAND; see COMMANDS.

Exit codes: 0 done, 1 bad input, 2 wrong use, 130 interrupted (training: and saved).
"""

from __future__ import annotations

import logging
import os
import sys
import warnings
from contextlib import closing
from dataclasses import dataclass, field, replace
from io import TextIOWrapper
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro
from rich.markup import escape

from magicapture_core.commands.draft import Draft, run_draft
from magicapture_core.commands.finish import Finish
from magicapture_core.commands.inputs import (
    FaceVariant,
    analyser_for,
    read_concept,
    read_photos,
    style_folder,
    written_stem,
)
from magicapture_core.commands.sheet import Sheet
from magicapture_core.commands.weights import Weights
from magicapture_core.config import GenerateConfig, TrainConfig, from_dict
from magicapture_core.console import BAD_INPUT, DONE, INTERRUPTED, console, polite_interrupt, show_progress
from magicapture_core.evaluation.command import Evaluate
from magicapture_core.files import unused
from magicapture_core.problems import Problem, as_problem, ran_out_of_memory

if TYPE_CHECKING:
    import numpy as np

    from magicapture_core.checkpoints import RunFacts
    from magicapture_core.faces import Face, FaceAnalyser
    from magicapture_core.generation import Portrait
    from magicapture_core.models import ModelBundle
    from magicapture_core.photos import Photo


@dataclass
class Masks:
    """Find the face in every photo, judge the photo, and write its masks as pictures."""

    photos: tyro.conf.Positional[tuple[Path, ...]]
    """Photos, or folders of photos."""
    out: Path
    """Folder for <name>.face.png, <name>.nonface.png and <name>.overlay.png."""
    faces: FaceVariant = "auto"
    """Which face networks to use."""

    def run(self) -> int:
        """Exits 1 if a photo has no face or cannot be read."""
        from magicapture_core.concepts import judge_photos

        analyser = analyser_for(self.faces)
        photos, unreadable = read_photos(self.photos)
        verdicts = judge_photos(photos, "subject", analyser=analyser)
        self.out.mkdir(parents=True, exist_ok=True)
        faceless = 0
        stems: set[str] = set()
        for photo, verdict in zip(photos, verdicts, strict=True):
            reasons = "; ".join(reason.text for reason in verdict.reasons)
            console.print(
                f"{escape(photo.name)}: {verdict.level}{escape(f' - {reasons}' if reasons else '')}"
            )
            if verdict.face is None:
                faceless += 1
                continue
            _write_masks(photo, verdict.face, analyser, self.out, stems)
        return BAD_INPUT if faceless or unreadable else DONE


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
    """Settings to start from: "paper", or one that comes with the model ("quick"), which is then the default."""
    subject_masks: Path | None = None
    """Folder with your own masks, <photo name>.png, white where the subject is."""
    style_masks: Path | None = None
    """Folder with your own masks, <photo name>.png, white where the style is."""
    faces: FaceVariant = "auto"
    """Which face networks to use."""
    use_all: bool = False
    """Learn from photos of another person, of several people and from duplicates, too: they are left out otherwise."""
    resume: bool = False
    """Go on with the run in --out; its settings are kept."""
    config: tyro.conf.OmitArgPrefixes[TrainConfig] = field(default_factory=TrainConfig)

    def run(self, models: ModelBundle) -> int:
        """Exits 130 when interrupted, after saving."""
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
        every = self.use_all or self.preset is not None  # a preset was chosen by people who looked
        style = read_concept("style", look, masks=self.style_masks, use_all=every, **cut)
        reports = train(
            models,
            subject,
            style,
            self.config,
            self.out,
            analyser=analyser,
            resume=self.resume,
        )
        with closing(reports), polite_interrupt() as interrupted:
            finished = show_progress(reports, self.config, interrupted)
        if not finished:
            console.print(f"Stopped and saved in {escape(str(self.out))}. Go on with --resume.")
            return INTERRUPTED
        console.print(f"Done: {escape(str(self.out))}")
        return DONE


@dataclass
class Generate:
    """Make portraits with a trained run, best likeness first."""

    trained: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN")]
    """The run folder."""
    out: Path
    """Folder for the pictures."""
    model: str | None = None
    """Another base model than the run's own."""
    faces: FaceVariant = "auto"
    """Which face networks score the portraits."""
    private: bool = False
    """Leave the prompt out of the files. They are marked as generated in any case."""
    config: tyro.conf.OmitArgPrefixes[GenerateConfig] = field(default_factory=GenerateConfig)

    def run(self, models: ModelBundle, facts: RunFacts) -> int:
        """Writes portrait-seed<seed>.png as each is ready, and then lists them, best likeness first."""
        from rich.progress import Progress

        from magicapture_core.generation import best_first, generate

        analyser = analyser_for(self.faces) if facts.config.subject_kind == "person" else None
        self.out.mkdir(parents=True, exist_ok=True)
        files: dict[int, Path] = {}
        with Progress(console=console) as progress:
            task = progress.add_task("Denoising", total=None)

            def show(_what: str, done: float, total: float | None) -> None:
                progress.update(task, completed=done, total=total)

            portraits = []
            for portrait in generate(models, self.trained, self.config, analyser=analyser, progress=show):
                path = files[portrait.seed] = unused(self.out / f"portrait-seed{portrait.seed}.png")
                portrait.save(path, private=self.private)
                for word, heat in portrait.attention.items():
                    _write_heat(
                        portrait, heat, unused(path.with_suffix(f".{_file_part(word)}.png")), self.private
                    )
                portraits.append(portrait)
        for warning in dict.fromkeys(warning for portrait in portraits for warning in portrait.warnings):
            console.print(f"[yellow]Note[/] {escape(warning)}")
        for portrait in best_first(portraits):
            score = "no face found" if portrait.identity is None else f"identity {portrait.identity:.3f}"
            console.print(f"{escape(str(files[portrait.seed]))}  {score}", soft_wrap=True)
        return DONE


@dataclass
class Export:
    """Write the adapter for other programs."""

    trained: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN")]
    """The run folder."""
    out: Path
    """Folder for the files."""
    format: Literal["diffusers", "kohya"] = "diffusers"
    """diffusers, or kohya: as A1111 and ComfyUI expect it."""

    def run(self) -> int:
        """Prints each file written."""
        from magicapture_core.export import export_run

        for path in export_run(self.trained, self.format, self.out):
            console.print(escape(str(path)))
        return DONE


def main(arguments: list[str] | None = None) -> int:
    """Run one command. Returns its exit code; wrong use leaves through SystemExit(2), as argparse does."""
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper) and stream.errors == "strict":
            stream.reconfigure(errors="backslashreplace")  # a file may have any name, a terminal few letters
    if not sys.warnoptions:  # of libraries, about what the user can do nothing about; python -W shows them
        warnings.simplefilter("ignore")
    arguments = sys.argv[1:] if arguments is None else arguments
    arguments = ["--count" if argument == "-n" else argument for argument in arguments]
    try:
        command = _parse(arguments)
        if isinstance(command, Train):
            return _train(command, arguments[1:])
        if isinstance(command, Generate):
            return _generate(command, arguments[1:])
        if isinstance(command, Draft):
            return run_draft(command, arguments[1:], f"{PROGRAM} draft")
        return int(command.run())
    except Problem as problem:
        console.print(f"[red]Problem:[/] {escape(str(problem))}")
        return BAD_INPUT
    except OSError as error:
        console.print(f"[red]Problem:[/] {escape(str(error))}. Check the path, its permissions and the disk.")
        return BAD_INPUT
    except (MemoryError, RuntimeError) as error:
        if not ran_out_of_memory(error):
            raise
        console.print(f"[red]Problem:[/] {escape(str(as_problem(error)))}")
        return BAD_INPUT
    except KeyboardInterrupt:
        console.print("Interrupted.")
        return INTERRUPTED


COMMANDS: dict[str, type] = {
    "masks": Masks, "draft": Draft, "train": Train, "generate": Generate, "evaluate": Evaluate, "export": Export,
    "finish": Finish, "sheet": Sheet, "weights": Weights,
}  # fmt: skip
PROGRAM = "python -m magicapture_core"


def _parse(arguments: list[str]) -> Any:
    chosen = COMMANDS.get(arguments[0]) if arguments else None
    if chosen is not None:  # parsed on its own, so that messages name its settings and nothing else
        return tyro.cli(chosen, args=arguments[1:], prog=f"{PROGRAM} {arguments[0]}")
    every: Any = Masks | Draft | Train | Generate | Evaluate | Export | Finish | Sheet | Weights
    description = "Portraits of a person in a style, from a few photos of each."
    return tyro.cli(every, args=arguments, prog=PROGRAM, description=description)


def _train(command: Train, arguments: list[str]) -> int:
    """Settings given on the command line win over the preset's, those over the model's schedule's.

    What the model suggests is known only once it is loaded; so the line is read again, on those defaults.
    """
    from magicapture_core.checkpoints import Run
    from magicapture_core.models import load

    before = Run.open(command.out).facts() if command.resume else None
    models = load(command.model or (before.model if before else None))
    start = before.config if before else _starting_config(command, models)
    command = tyro.cli(Train, args=arguments, default=replace(command, config=start), prog=f"{PROGRAM} train")
    return command.run(models)


def _generate(command: Generate, arguments: list[str]) -> int:
    """As for training: what the model suggests comes below what the command line says."""
    from magicapture_core.checkpoints import Run
    from magicapture_core.models import load

    facts = Run.open(command.trained).facts()
    models = load(command.model or facts.model)
    start = from_dict(GenerateConfig, dict(models.generate_defaults))
    default = replace(command, config=start)
    command = tyro.cli(Generate, args=arguments, default=default, prog=f"{PROGRAM} generate")
    return command.run(models, facts)


def _starting_config(command: Train, models: ModelBundle) -> TrainConfig:
    from magicapture_core.presets import load_preset

    schedules = {"paper": {}, **models.schedules}
    name = command.schedule or ("quick" if "quick" in schedules else "paper")
    if name not in schedules:
        raise Problem(f"--schedule must be one of {', '.join(schedules)} for this model, got {name!r}.")
    preset = load_preset(command.preset).overrides if command.preset else {}
    return from_dict(TrainConfig, {"resolution": models.resolution, **schedules[name], **preset})


def _write_masks(photo: Photo, face: Face, analyser: FaceAnalyser, out: Path, stems: set[str]) -> None:
    from PIL import Image

    from magicapture_core.masks import face_masks, overlay

    masks = face_masks(photo.pixels, face, analyser)
    stem, number = written_stem(photo.name), 1
    while stem in stems:  # photos of two folders may share a name
        number += 1
        stem = f"{written_stem(photo.name)}-{number}"
    stems.add(stem)
    for name, mask in (("face", masks.face), ("nonface", masks.nonface)):
        Image.fromarray((mask[0].numpy() * 255).astype("uint8")).save(out / f"{stem}.{name}.png")
    Image.fromarray(overlay(photo.pixels, masks.face)).save(out / f"{stem}.overlay.png")


def _write_heat(portrait: Portrait, heat: np.ndarray, path: Path, private: bool) -> None:
    """It shows the face, so it is marked as the portrait is."""
    import numpy as np
    from PIL import Image

    from magicapture_core.heat import heat_overlay

    coloured = Image.fromarray(heat_overlay(np.asarray(portrait.image.convert("RGB")), heat))
    replace(portrait, image=coloured).save(path, private=private)


def _file_part(word: str) -> str:
    """Short enough for a file's name, whatever its letters: 40 of them are at most 160 bytes."""
    return "".join(letter if letter.isalnum() else "_" for letter in word).strip("_")[:40] or "word"


if __name__ == "__main__":
    sys.exit(main())
