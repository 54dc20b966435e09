"""The training loop, a generator of reports: wizard, command line and tests consume the same one."""

from __future__ import annotations

import logging
import time
import traceback
from collections.abc import Callable, Generator
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from accelerate import PartialState
from accelerate.utils import broadcast_object_list
from torch import Tensor

from magicapture_core.checkpoints import Run
from magicapture_core.concepts import Concept
from magicapture_core.config import TrainConfig
from magicapture_core.faces import FaceAnalyser
from magicapture_core.languages import _
from magicapture_core.models import ModelBundle
from magicapture_core.problems import OutOfMemory, Problem, forget_frames, ran_out_of_memory
from magicapture_core.run_facts import RunFacts
from magicapture_core.training.data import Encoded
from magicapture_core.training.draws import Phase
from magicapture_core.training.memory import Plan
from magicapture_core.training.optimisation import PHASES, Launched, NotFiniteError, Optimisation
from magicapture_core.training.preparation import Prepared, check_fit, prepared
from magicapture_core.training.previews import AttentionView, Sample, shown_pictures
from magicapture_core.training.recorder import Recorder

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
    """What the user should know; with the first step, and with one after which the run ends early."""
    settled: bool = False
    """Whether the run ends with this step, as likeness no longer rises (`stop_when_settled`)."""


ClassLatents = Callable[[Path], Tensor]
"""Makes, or finds again in the run folder it is given, scaled latents (n, c, h, w) of pictures of other people."""


def train(
    models: ModelBundle,
    subject: Concept,
    style: Concept,
    config: TrainConfig,
    run_folder: Path | str,
    *,
    analyser: FaceAnalyser | None = None,
    class_latents: ClassLatents | None = None,
    resume: bool = False,
) -> Generator[StepReport]:
    """Learn `subject` and `style` into `run_folder`: phase 1 textual inversion, phase 2 LoRA.

    Yields a StepReport per optimizer step. Closing the generator between two reports saves a checkpoint
    from which `resume=True` goes on bit for bit (on the CPU). The models come back as they were. On a CUDA GPU the
    step after the last report may have been made already: then the checkpoint is of that one.
    analyser: whose face recognition Eq. 7 uses; None chooses. class_latents: what prior preservation trains on, where
    `config.prior_weight` asks for it (`evaluation.class_pictures` makes them).
    Raises RunProblem for a folder that cannot be used, a changed setting or photo on resume, a loss that is
    not finite, or a full disk; Problem for settings that do not fit the model. A finished run yields nothing.
    """
    check_fit(models, subject, style, config)
    if config.prior_weight > 0 and class_latents is None:
        raise Problem(
            _(
                "prior_weight is above 0, which takes pictures of other people; expected class_latents, got None. Give "
                "evaluation.class_pictures.class_latents(models, config), or set prior_weight to 0."
            )
        )
    processes = PartialState(cpu=models.device.type == "cpu")
    folder = Path(run_folder)
    if resume:
        Run.open(folder)
    ready: Prepared | None = None
    try:
        with (
            Run.claimed(folder) if processes.is_main_process else nullcontext(),
            prepared(models, subject, style, config, processes, analyser) as ready,
        ):
            optimisation = ready.optimisation
            run = _open_run(folder, ready.facts, processes, resume=resume)
            recorder = Recorder(run, optimisation, config, shown_pictures(subject, style), ready.analyser)
            if class_latents is not None and config.prior_weight > 0:
                latents = class_latents(folder).to(models.device)
                optimisation.objective.prior = Encoded.without_faces(latents, config.resolution)
            recorder.begin()
            if resume:
                recorder.restore()
            yield from _reports(optimisation, recorder, _Clock(config), ready.note, processes)
    except (MemoryError, RuntimeError) as error:
        if not ran_out_of_memory(error):
            raise
        # The names go too: they hold the failed step's tensors.
        problem = _out_of_memory(error, config, ready.optimisation.plan if ready else None)
        ready = optimisation = recorder = None  # type: ignore[assignment]
        raise problem from error


def _reports(
    optimisation: Optimisation, recorder: Recorder, clock: _Clock, note: str | None, processes: PartialState
) -> Generator[StepReport]:
    """A report for each step. Saves a checkpoint when it is closed, and when a loss is not finite."""
    ahead: Launched | None = None
    try:
        while ahead is not None or (
            optimisation.step < optimisation.total_steps and not _settled(recorder, processes)
        ):
            step = ahead or optimisation.launch()
            ahead = None
            # The device need not wait until this one's losses have been read.
            if optimisation.works_ahead and not recorder.due(step.step):
                ahead = optimisation.launch()
            yield _report(optimisation, recorder, clock, step, note)
    except NotFiniteError:
        recorder.save()
        raise
    except GeneratorExit:
        if ahead is not None:
            with suppress(NotFiniteError):  # it is made again on resume, and told then
                recorder.record(ahead, optimisation.settle(ahead))
        recorder.save()
        raise


def _report(
    optimisation: Optimisation, recorder: Recorder, clock: _Clock, step: Launched, note: str | None
) -> StepReport:
    """What a launched step came to, and whatever is due after it."""
    losses = optimisation.settle(step)
    began = time.monotonic()
    recorded = recorder.record(step, losses)
    clock.tick(step.phase, step.seconds, time.monotonic() - began)
    settled = recorder.settled and step.step < optimisation.total_steps
    if settled:
        note = f"Likeness no longer rises, so the training ends after step {step.step}."
    elif step.step > 1:
        note = None
    phase_step = step.step - (0 if step.phase == PHASES[0] else optimisation.config.ti_steps)
    return StepReport(
        phase=step.phase,
        step=step.step,
        total_steps=optimisation.total_steps,
        phase_step=phase_step,
        phase_steps=optimisation.phase_steps(step.phase),
        losses=losses,
        learning_rates=step.rates,
        seconds=step.seconds,
        seconds_left=clock.left(step.phase, phase_step),
        attention=recorded.attention,
        sample=recorded.sample,
        checkpoint=recorded.checkpoint,
        note=note,
        settled=settled,
    )


def _settled(recorder: Recorder, processes: PartialState) -> bool:
    """Whether the run ends early. Only the main process draws samples; the others are told."""
    if not recorder.config.stop_when_settled or processes.num_processes == 1:
        return recorder.settled
    told: list[bool] = broadcast_object_list([recorder.settled])
    return told[0]


def _open_run(folder: Path, facts: RunFacts, processes: PartialState, *, resume: bool) -> Run:
    if resume:
        run = Run.open(folder)
        run.check_same(facts)
        if processes.is_main_process:
            run.go_on_with(facts)
        processes.wait_for_everyone()
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
        self.ticks, self.beside = 0, 0.0

    def tick(self, phase: Phase, seconds: float, beside: float) -> None:
        """Fold one step into the running mean; recent steps count more. beside: seconds of what was due after it."""
        self.ticks, self.beside = self.ticks + 1, self.beside + beside
        self.mean[phase] = 0.9 * self.mean[phase] + 0.1 * seconds if phase in self.mean else seconds

    def left(self, phase: Phase, phase_step: int) -> float:
        """Seconds until the end of the run."""
        beside = self.beside / self.ticks
        here = (self.mean[phase] + beside) * (self.steps[phase] - phase_step)
        if phase == "lora":
            return here
        later = beside + self.mean.get("lora", self.mean[phase] * self.PHASE_2_PER_PHASE_1)
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
    elif plan is not None and not plan.saves_all:
        smaller["gradient_checkpointing"] = True
    if not smaller:
        text = _(
            "The device ran out of memory at resolution {side}. What was saved before is whole. Close other programs "
            "and resume, or start anew at a lower resolution or with a smaller model.",
            side=config.resolution,
        )
        return OutOfMemory(text, smaller)
    advice = ", ".join(f"{name} = {value}" for name, value in smaller.items())  # one at a time
    text = _(
        "The device ran out of memory at resolution {side}. What was saved before is whole. Resume with {advice}; it "
        "learns the same.",
        side=config.resolution, advice=advice,
    )  # fmt: skip
    return OutOfMemory(text, smaller)
