"""The training loop, a generator of reports: wizard, command line and tests consume the same one."""

from __future__ import annotations

import logging
import time
import traceback
from collections.abc import Generator
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from accelerate import PartialState

from magicapture_core.checkpoints import Run, RunFacts
from magicapture_core.concepts import Concept
from magicapture_core.config import TrainConfig
from magicapture_core.faces import FaceAnalyser
from magicapture_core.models import ModelBundle
from magicapture_core.problems import OutOfMemory, Problem, forget_frames, ran_out_of_memory
from magicapture_core.training.draws import Phase
from magicapture_core.training.memory import Plan
from magicapture_core.training.previews import AttentionView, Sample
from magicapture_core.training.trainer import NotFiniteError, Trainer

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class StepReport:
    """What happened in one optimizer step."""

    phase: Phase
    step: int
    """Steps done over both phases, from 1."""
    total_steps: int
    phase_step: int
    phase_steps: int
    losses: dict[str, float]
    """Unweighted terms (see `TERMS`): means over a task's items; attention is the sum over the tasks."""
    learning_rates: dict[str, float]
    seconds: float
    """This step alone, without previews and checkpoints."""
    seconds_left: float
    """Estimate for the rest of the run."""
    attention: list[AttentionView] = field(default_factory=list)
    sample: Sample | None = None
    checkpoint: Path | None = None
    note: str | None = None
    """What the user should know; with the first step only."""


def train(
    models: ModelBundle,
    subject: Concept,
    style: Concept,
    config: TrainConfig,
    run_folder: Path | str,
    *,
    analyser: FaceAnalyser | None = None,
    resume: bool = False,
) -> Generator[StepReport]:
    """Learn `subject` and `style` into `run_folder`: phase 1 textual inversion, phase 2 LoRA.

    Yields a StepReport per optimizer step. Closing the generator between two reports saves a checkpoint
    from which `resume=True` goes on bit for bit (on the CPU). The models come back as they were.
    analyser: whose face recognition Eq. 7 uses; None chooses.
    Raises RunProblem for a folder that cannot be used, a changed setting or photo on resume, a loss that is
    not finite, or a full disk; Problem for settings that do not fit the model. A finished run yields nothing.
    """
    _check(models, subject, style, config)
    processes = PartialState(cpu=models.device.type == "cpu")
    folder = Path(run_folder)
    if resume:
        Run.open(folder)
    trainer: Trainer | None = None
    try:
        with (
            Run.claimed(folder) if processes.is_main_process else nullcontext(),
            Trainer.opened(models, subject, style, config, processes, analyser) as trainer,
        ):
            run = _open_run(folder, trainer.facts, processes, resume=resume)
            trainer.begin(run)
            if resume:
                trainer.restore(run)
            clock = _Clock(config)
            try:
                while trainer.step < trainer.total_steps:
                    yield _advance(trainer, run, clock)
            except (GeneratorExit, NotFiniteError):
                trainer.save(run)
                raise
    except (MemoryError, RuntimeError) as error:
        if not ran_out_of_memory(error):
            raise
        problem, trainer = _out_of_memory(error, config, trainer.plan if trainer else None), None
        raise problem from error


def _advance(trainer: Trainer, run: Run, clock: _Clock) -> StepReport:
    """One optimizer step and whatever is due after it."""
    started = time.monotonic()
    losses, learning_rates = trainer.advance()
    seconds = time.monotonic() - started
    clock.tick(trainer.phase, seconds)
    report = {
        "step": trainer.step,
        "phase": trainer.phase,
        **losses,
        **{f"lr_{name}": rate for name, rate in learning_rates.items()},
        "seconds": round(seconds, 4),
    }
    attention, sample, checkpoint = [], None, None
    if trainer.is_main:  # of several processes only one writes and shows
        run.append_losses(report)
        attention = trainer.attention(run) if trainer.due("attention_every") else []
        sample = trainer.sample(run) if trainer.due("sample_every") else None
        checkpoint = trainer.save(run) if trainer.due("checkpoint_every") else None
    return StepReport(
        phase=trainer.phase,
        step=trainer.step,
        total_steps=trainer.total_steps,
        phase_step=trainer.phase_step,
        phase_steps=trainer.phase_steps(trainer.phase),
        losses=losses,
        learning_rates=learning_rates,
        seconds=seconds,
        seconds_left=clock.left(trainer.phase, trainer.phase_step),
        attention=attention,
        sample=sample,
        checkpoint=checkpoint,
        note=trainer.note if trainer.step == 1 else None,
    )


def _check(models: ModelBundle, subject: Concept, style: Concept, config: TrainConfig) -> None:
    if subject.role != "subject" or style.role != "style":
        raise ValueError(f"expected a subject and a style, got a {subject.role} and a {style.role}")
    if subject.kind != config.subject_kind:
        raise Problem(
            f"subject_kind is {config.subject_kind!r}, but the photos were prepared as {subject.kind!r}. "
            "Prepare the photos again with the same kind."
        )
    for concept in (subject, style):
        side = concept.examples[0].image.shape[-1]
        if side != config.resolution:
            raise Problem(
                f"resolution is {config.resolution}, but the {concept.role} photos were prepared at {side}. "
                "Prepare the photos again at the same resolution."
            )
    # Every halving in the UNet must come out even, or its skip connections do not fit.
    multiple = models.vae_scale_factor * 2 ** (len(models.unet.config.block_out_channels) - 1)
    if config.resolution % multiple:
        raise Problem(f"resolution must be a multiple of {multiple} for this model, got {config.resolution}.")


def _open_run(folder: Path, facts: RunFacts, processes: PartialState, *, resume: bool) -> Run:
    if resume:
        run = Run.open(folder)
        run.check_same(facts)
        return run
    run = Run(folder)
    if processes.is_main_process:
        run = Run.create(folder, facts)
    processes.wait_for_everyone()
    return run


class _Clock:
    """Estimates the time left from the steps done, phase by phase."""

    # Before phase 2 has been measured: it has a third task, a second UNet pass and a decode.
    PHASE_2_PER_PHASE_1 = 2.5

    def __init__(self, config: TrainConfig) -> None:
        self.steps: dict[Phase, int] = {"textual_inversion": config.ti_steps, "lora": config.lora_steps}
        self.mean: dict[Phase, float] = {}

    def tick(self, phase: Phase, seconds: float) -> None:
        """Fold one step into the running mean; recent steps count more."""
        self.mean[phase] = 0.9 * self.mean[phase] + 0.1 * seconds if phase in self.mean else seconds

    def left(self, phase: Phase, phase_step: int) -> float:
        """Seconds until the end of the run."""
        here = self.mean[phase] * (self.steps[phase] - phase_step)
        if phase == "lora":
            return here
        later = self.mean.get("lora", self.mean[phase] * self.PHASE_2_PER_PHASE_1)
        return here + later * self.steps["lora"]


def _out_of_memory(error: Exception, config: TrainConfig, plan: Plan | None) -> OutOfMemory:
    """What to tell about `error`, which is left without the failed step's tensors.

    plan: how the steps were split; None if memory ran out before the first, which no split changes.
    """
    # Whoever keeps the error, or tries again while handling it, must not keep them; clearing the frames is not
    # enough, for their functions hold some, too.
    log.info("training ran out of memory\n%s", "".join(traceback.format_exception(error)))
    forget_frames(error)
    smaller: dict[str, Any] = {}
    if plan is not None and plan.items_per_call > 1:
        smaller["items_per_call"] = 1
    elif plan is not None and not plan.gradient_checkpointing:
        smaller["gradient_checkpointing"] = True
    advice = " and ".join(f"{name} = {value}" for name, value in smaller.items())
    return OutOfMemory(
        f"The device ran out of memory at resolution {config.resolution}. What was saved before is whole. "
        + (
            f"Resume with {advice}; it learns the same."
            if smaller
            else "Close other programs and resume, or start anew at a lower resolution or with a smaller model."
        ),
        smaller,
    )
