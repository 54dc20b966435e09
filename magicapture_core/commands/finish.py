"""python -m magicapture_core finish: super-resolution and face restoration of pictures."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import tyro
from rich.markup import escape

from magicapture_core.commands.console import BAD_INPUT, DONE, console, show_note, show_problem
from magicapture_core.commands.inputs import written_stem
from magicapture_core.commands.signing import Signing
from magicapture_core.config import PostprocessConfig
from magicapture_core.files import unused
from magicapture_core.problems import Problem
from magicapture_core.progress import share

if TYPE_CHECKING:
    import numpy as np

    from magicapture_core.faces import FaceAnalyser
    from magicapture_core.postprocess import Finished


@dataclass
class Finish:
    """Super-resolve pictures and restore their faces, with a limit on the loss of likeness."""

    pictures: tyro.conf.Positional[tuple[Path, ...]]
    """Pictures, or folders of pictures."""
    out: Path
    """Folder for <name>.finished.png."""
    likeness: Path | None = None
    """Run folder of the person in the pictures: scores compare with them, and not with the picture before."""
    faces: Literal["auto", "bundled", "facexlib"] = "auto"
    """Which face networks to use."""
    private: bool = False
    """Leave the prompt out of the files. They are marked as generated in any case."""
    config: tyro.conf.OmitArgPrefixes[PostprocessConfig] = field(default_factory=PostprocessConfig)
    signing: tyro.conf.OmitArgPrefixes[Signing] = field(default_factory=Signing)

    def run(self) -> int:
        """Exits 1 if a picture cannot be read."""
        from magicapture_core.faces import choose_analyser
        from magicapture_core.photos import list_photos

        signer = self.signing.signer()
        paths = [
            path
            for source in self.pictures
            for path in (list_photos(source) if source.is_dir() else [source])
        ]
        if not paths:
            raise Problem("Name at least one picture to finish.")
        if self.config.restore == "codeformer":
            show_note("CodeFormer's weights are for non-commercial use only (S-Lab License 1.0).")
        analyser, reason = choose_analyser(self.faces)
        console.print(f"[dim]{escape(reason)}[/]")
        identity = None if self.likeness is None else _identity(self.likeness, analyser)
        self.out.mkdir(parents=True, exist_ok=True)
        unreadable = 0
        for path in paths:
            try:
                written = self._finish(path, analyser, identity)
            except Problem as problem:
                if len(paths) == 1:
                    raise
                unreadable += 1
                show_problem(str(problem))
                continue
            if signer is not None:
                signer.sign(written)
        return BAD_INPUT if unreadable else DONE

    def _finish(self, path: Path, analyser: FaceAnalyser, identity: np.ndarray | None) -> Path:
        from PIL import Image
        from rich.progress import Progress as ProgressBar

        from magicapture_core.photos import read_photo
        from magicapture_core.postprocess import finish
        from magicapture_core.provenance import read_provenance, save_picture

        pixels = read_photo(path, max_side=None).pixels
        said = read_provenance(path)
        with ProgressBar(console=console, transient=True) as bar:
            task = bar.add_task("Preparing", total=1.0)
            done = finish(
                pixels,
                self.config,
                analyser=analyser,
                identity=identity,
                progress=lambda what, now, total: bar.update(
                    task, description=what, completed=share(now, total)
                ),
            )
        written = unused(self.out / f"{written_stem(path.name)}.finished.png")
        save_picture(
            Image.fromarray(done.pixels), written, prompt=said.prompt, seed=said.seed,
            settings={**said.settings, **done.settings}, private=self.private,
        )  # fmt: skip
        _tell(path, pixels, done, written)
        return written


def _tell(path: Path, before: np.ndarray, done: Finished, written: Path) -> None:
    took = ", ".join(f"{stage} {seconds:.1f} s" for stage, seconds in done.seconds.items())
    sizes = " → ".join(f"{pixels.shape[1]}×{pixels.shape[0]}" for pixels in (before, done.pixels))
    console.print(f"{escape(str(written))}  {sizes}  ({took})", soft_wrap=True)
    for face in done.faces:
        console.print(
            f"  identity {face.score_before:.3f} before restoration, {face.score_after:.3f} after "
            f"(blended in by {face.strength:.0%})"
        )
    for note in done.notes:
        console.print(f"  [yellow]Note[/] {escape(path.name)}: {escape(note)}", soft_wrap=True)


def _identity(folder: Path, analyser: FaceAnalyser) -> np.ndarray:
    """The embedding of the run's person. Problem if the run has none, or one of another network than `analyser`'s."""
    from magicapture_core.checkpoints import Run

    stored = Run.open(folder).identity()
    if stored is None:
        raise Problem(f"{folder} knows no person (its subject is an object). Leave --likeness out.")
    mean, name = stored
    ours = analyser.embedder().name
    if ours != name:
        raise Problem(
            f"{folder} knows its person by {name}, but faces are compared by {ours} here. Change --faces."
        )
    identity: np.ndarray = mean.numpy()
    return identity
