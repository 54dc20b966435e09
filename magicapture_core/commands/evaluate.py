"""python -m magicapture_core evaluate: the table of methods, or the best checkpoint and scale of one run."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro
from rich.markup import escape

from magicapture_core.commands.console import BAD_INPUT, DONE, console
from magicapture_core.evaluation.tasks import EncoderName, FaceVariant
from magicapture_core.problems import Problem
from magicapture_core.progress import duration
from magicapture_core.schedules import usual_schedule

if TYPE_CHECKING:
    from magicapture_core.evaluation.judges import Judges
    from magicapture_core.evaluation.tasks import Setup
    from magicapture_core.photos import Photo

DEFAULT_METHODS = (
    "magicapture,no_ar,no_composed,no_ar_no_composed,no_identity,one_phase,dreambooth,textual_inversion,"
    "custom_diffusion"
)

STEPS_BETWEEN_LINES = 50
"""Optimizer steps of a training between two lines about it."""


@dataclass
class Evaluate:
    """Compare methods on a benchmark (--benchmark), or score the checkpoints of one training (--run).

    To continue a benchmark that was stopped, give the same command again.
    """

    out: Path
    """Folder for the results."""
    benchmark: str | None = None
    """"mini", which comes with MagiCapture, or a folder with identities/NAME/ and styles/NAME/."""
    methods: str = DEFAULT_METHODS
    """Comma-separated, or "all". NAME@2 is a method with all its learning rates doubled."""
    model: str | None = None
    """"mini", a diffusers folder, a .safetensors file or a hub id. Default: mini without a GPU, else SD 1.5."""
    schedule: str | None = None
    """smoke: two steps a phase, to test that everything works; quick, or another one that comes with the model; paper:
    each method as in its own paper. Default: quick where the model has its own (mini has), else paper."""
    identities: str | None = None
    """How many people, the first ones of the benchmark; or their names, with commas. Default: all."""
    styles: str | None = None
    """How many styles, the first ones of the benchmark; or their names, with commas. Default: all."""
    part: str | None = None
    """A part of the benchmark that its benchmark.json names: the mini benchmark has "chosen" (settings are chosen on
    it) and "reported" (the table is of it). Default: everything."""
    held_out: int = 1
    """Photos of each person, the last ones, that are not trained on. Likeness is compared with them, too. 0: none."""
    pictures: int = 8
    """Pictures of the composed prompt per cell (or per checkpoint and scale, with --run)."""
    edited_pictures: int = 0
    """Pictures of each edited prompt per cell. 0: none."""
    other_people: int = 4
    """Pictures of "a photo of a person" per cell, to measure whether others come to look like the subject. 0: none."""
    budget: float | None = None
    """Minutes after which no further pair of a person and a style begins. Default: no limit."""
    steps: int | None = None
    """Denoising steps. Default: as the model suggests."""
    faces: FaceVariant = "auto"
    """Which face networks training uses. Likeness is scored by another one, if one is present."""
    encoder: EncoderName = "auto"
    """What scores style: CLIP ViT-L/14 if its files are present, else statistics that come with MagiCapture."""
    ray: str | None = None
    """Run the cells on a Ray cluster: its address, or "local" for workers on this machine."""
    keep_runs: bool = False
    """Keep checkpoints and whole UNets of finished cells."""
    seed: int = 0
    """Seed of every training."""
    run_folder: Annotated[Path | None, tyro.conf.arg(name="run")] = None
    """Instead of a benchmark: a run whose checkpoints and adapter scales are scored (--run)."""
    subject: Path | None = None
    """With --run: folder of the subject photos it was trained on."""
    style: Path | None = None
    """With --run: folder of the style photos it was trained on."""
    scales: tuple[float, ...] = (0.6, 0.8, 1.0)
    """With --run: the adapter scales to try."""
    adopt: bool = False
    """With --run: let `generate` and `export` use the recommended checkpoint from now on."""

    def run(self) -> int:
        """Exits 1 if a cell failed."""
        if (self.run_folder is None) == (self.benchmark is None):
            raise Problem("Give either --benchmark mini|FOLDER or --run RUN, one of the two.")
        if self.pictures < 1 or min(self.edited_pictures, self.other_people, self.held_out) < 0:
            raise Problem(
                "--pictures must be 1 or more, and --edited-pictures, --other-people and --held-out 0 or more; got "
                f"{self.pictures}, {self.edited_pictures}, {self.other_people} and {self.held_out}."
            )
        if self.budget is not None and not self.budget > 0:
            raise Problem(f"--budget is a number of minutes above 0, got {self.budget:g}.")
        return self._choose() if self.run_folder is not None else self._compare()

    # --- a table of methods -----------------------------------------------------------------------

    def _compare(self) -> int:
        from magicapture_core.evaluation import benchmark, cells, methods, report, runner, table

        table.check_parquet()
        assert self.benchmark is not None
        found = benchmark.load_benchmark(self.benchmark).part(self.identities, self.styles, self.part)
        chosen = methods.choose_methods(self.methods)
        setup = self._setup()
        everything = runner.open_evaluation(self.out, setup, found, chosen)
        tasks = runner.plan(found, chosen)
        failed = 0
        console.print(
            f"{len(found.identities)} people × {len(found.styles)} styles × {len(chosen)} methods: {len(tasks)} cells"
        )
        started, done_before = time.monotonic(), len(tasks)
        budget = None if self.budget is None else self.budget * 60
        finished = sum(cells.is_done(task, setup, self.out) for task in tasks)
        for done in runner.run(tasks, setup, self.out, ray=self.ray, progress=_show_steps, budget=budget):
            finished = done.number
            done_before = min(done_before, done.number - 1)
            each = (time.monotonic() - started) / (done.number - done_before)
            left = duration(each * (done.total - done.number))
            what = "done" if done.problem is None else f"[red]failed[/]: {escape(done.problem)}"
            failed += done.problem is not None
            console.print(
                f"{done.number}/{done.total} {done.task}: {what} in {duration(done.seconds)}, {left} left"
            )
        if self.budget is not None and finished < len(tasks):
            console.print(
                f"--budget {self.budget:g} is used up: {finished} of {len(tasks)} cells. The same command goes on."
            )
        written = report.write_report(setup, found, everything, self.out)
        console.print(f"Report: {escape(str(written))}", soft_wrap=True)
        return BAD_INPUT if failed else DONE

    def _setup(self) -> Setup:
        from magicapture_core.evaluation.cells import judges_for, models_for
        from magicapture_core.evaluation.tasks import Setup
        from magicapture_core.faces import choose_analyser
        from magicapture_core.models import HUB_ID, best_device

        name = self.model or (HUB_ID if best_device().type == "cuda" else "mini")
        # As an absolute path: other machines have other working folders.
        name = str(Path(name).expanduser().resolve()) if Path(name).expanduser().exists() else name
        models = models_for(name)
        likeness = choose_analyser(self.faces)[0].embedder().name
        judges = judges_for(likeness, self.encoder)
        _show_judges(judges)
        assert self.benchmark is not None
        benchmark = (
            self.benchmark if self.benchmark == "mini" else str(Path(self.benchmark).expanduser().resolve())
        )
        return Setup(
            benchmark=benchmark,
            model=name,
            schedule=self.schedule or usual_schedule(models.schedules),
            pictures=self.pictures,
            edited_pictures=self.edited_pictures,
            other_people=self.other_people,
            held_out=self.held_out,
            steps=self.steps,
            faces=self.faces,
            likeness=likeness,
            encoder=self.encoder,
            judged_by=judges.names,
            seed=self.seed,
            keep_runs=self.keep_runs,
        )

    # --- one run ----------------------------------------------------------------------------------

    def _choose(self) -> int:
        from magicapture_core.checkpoints import Run
        from magicapture_core.evaluation.choose import score_run, write_evidence
        from magicapture_core.evaluation.judges import Judges
        from magicapture_core.models import load

        assert self.run_folder is not None
        if self.subject is None or self.style is None:
            raise Problem("--run needs --subject and --style: the folders of photos the run was trained on.")
        facts = Run.open(self.run_folder).facts()
        judges = Judges.chosen(facts.likeness, self.encoder)
        _show_judges(judges)
        choices = []
        for choice in score_run(
            load(self.model or facts.model),
            self.run_folder,
            _photos(self.subject),
            _photos(self.style),
            scales=self.scales,
            pictures=self.pictures,
            judges=judges,
        ):
            choices.append(choice)
            console.print(escape(choice.text))
        self.out.mkdir(parents=True, exist_ok=True)
        best = write_evidence(choices, self.out, judges)
        console.print(
            f"Recommended: {best.checkpoint} with --adapter-scale {best.scale:g}. "
            f"Pictures: {escape(str(self.out / 'choices.jpg'))}",
            soft_wrap=True,
        )
        run = Run.open(self.run_folder)
        if self.adopt:
            run.publish(best.checkpoint)
            console.print("The run's adapter is that checkpoint's now.")
        elif best.checkpoint != f"checkpoint-{run.best_step():06d}":
            console.print("It is not the one that `generate` uses: take it with --adopt.")
        return DONE


def _show_judges(judges: Judges) -> None:
    for what, who in judges.notes().items():
        console.print(f"[dim]{what}: {escape(who)}[/]")


def _show_steps(task: str, done: float, total: float | None) -> None:
    if done % STEPS_BETWEEN_LINES == 0:
        console.print(f"[dim]{escape(task)}: step {done:g} of {total:g}[/]")


def _photos(folder: Path) -> list[Photo]:
    from magicapture_core.photos import list_photos, read_photo

    return [read_photo(path) for path in list_photos(folder)]
