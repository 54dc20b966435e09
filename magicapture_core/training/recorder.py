"""The disk's side of a training: its run folder, checkpoints, attention maps and sample pictures."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from magicapture_core.checkpoints import Run
from magicapture_core.config import TrainConfig
from magicapture_core.faces import FaceAnalyser
from magicapture_core.languages import _
from magicapture_core.model_card import write_model_card
from magicapture_core.problems import RunProblem, ran_out_of_memory
from magicapture_core.prompts import Task
from magicapture_core.run_facts import in_last_phase
from magicapture_core.training import previews
from magicapture_core.training.draws import Phase
from magicapture_core.training.optimisation import Launched, Optimisation

RISE = 0.01
"""Cosine by which likeness must rise to count as rising: below it is noise with a few sample pictures."""


@dataclass(frozen=True, eq=False)
class Recorded:
    """What was kept and made to be looked at after one step."""

    attention: list[previews.AttentionView]
    sample: previews.Sample | None
    checkpoint: Path | None


@dataclass
class Recorder:
    """Keeps and shows what an optimisation does. Of several processes only the main one writes."""

    run: Run
    optimisation: Optimisation
    config: TrainConfig
    pictures: dict[Task, np.ndarray]
    """The photo that the attention maps of each task are shown over."""
    analyser: FaceAnalyser | None
    """Who scores sample pictures; None for an object."""
    saved_step: int = -1
    likeness: list[tuple[int, float]] = field(default_factory=list)
    """(step, likeness) of the samples of the last phase, from likeness.jsonl: a resumed run decides the same."""

    @property
    def settled(self) -> bool:
        """Whether the run ends here, as likeness no longer rises.

        The first part of a phase does not count: while the style weighs more (`style_weight`), likeness may even fall.
        """
        config, patience = self.config, self.config.stop_when_settled
        last: Phase = "lora" if config.lora_steps else "textual_inversion"
        steps = self.optimisation.phase_steps(last)
        counts = (config.ti_steps if last == "lora" else 0) + config.style_weight_until * steps
        late = sum(step > counts for step, _ in self.likeness)
        values = [value for _, value in self.likeness]
        if not 0 < patience <= min(late, len(values) - 1):
            return False
        return max(values[-patience:]) <= max(values[:-patience]) + RISE

    @property
    def writes(self) -> bool:
        """Whether this is the process that writes."""
        return self.optimisation.processes.is_main_process

    def begin(self) -> None:
        """Write what a run folder holds from the start."""
        objective = self.optimisation.objective
        if self.writes and self.analyser is not None and len(objective.subject_features):
            self.run.save_identity(objective.subject_features, objective.likeness.name)

    def record(self, step: Launched, losses: dict[str, float]) -> Recorded:
        """Keep one step's numbers, and make what is due after it."""
        if not self.writes:
            return Recorded([], None, None)
        row: dict[str, Any] = {
            "step": step.step,
            "phase": step.phase,
            **losses,
            **{f"lr_{name}": rate for name, rate in step.rates.items()},
            "seconds": round(step.seconds, 4),
        }
        self.run.append_losses(row)
        attention = self.attention() if self._due(self.config.attention_every, step.step) else []
        sample = self.sample() if self._due(self.config.sample_every, step.step) else None
        best = sample is not None and self._keep_likeness(sample)
        due = best or self.settled or self._due(self.config.checkpoint_every, step.step)
        return Recorded(attention, sample, self.save() if due else None)

    def _keep_likeness(self, sample: previews.Sample) -> bool:
        """Keep a sample's likeness. Returns whether the weights as they are now must be kept, as the best so far."""
        if sample.likeness is None:
            return False
        step = self.optimisation.step
        self.run.append_likeness({"step": step, "likeness": round(sample.likeness, 5)})
        self._read_likeness()
        return self.config.keep_best and step == max(
            self.likeness, key=lambda each: (each[1], each[0]), default=(0, 0.0)
        )[0]  # fmt: skip

    def _read_likeness(self) -> None:
        rows = [(row["step"], row["likeness"]) for row in self.run.likeness()]
        self.likeness = [(step, value) for step, value in rows if in_last_phase(step, self.config)]

    def due(self, step: int) -> bool:
        """Whether anything is made after that step, for which the networks must stay as it leaves them."""
        config = self.config
        every = (config.attention_every, config.sample_every, config.checkpoint_every)
        return any(self._due(each, step) for each in every)

    def save(self) -> Path | None:
        """Write a checkpoint of the last step done, unless it is written already."""
        done = self.optimisation
        if not self.writes or self.saved_step == done.step or done.optimizer is None:
            return None
        path = self.run.save_checkpoint(done.checkpoint(), done.write_adapter, self.config.keep_checkpoints)
        write_model_card(self.run)
        self.saved_step = done.step
        return path

    def restore(self) -> None:
        """Go on from the newest checkpoint; from the start where there is none."""
        checkpoint = self.run.load_checkpoint()
        self.saved_step = checkpoint.step if checkpoint else -1
        if self.writes:
            self.run.rewind(checkpoint.step if checkpoint else 0)
            self._read_likeness()
        if checkpoint is None:
            return
        try:
            self.optimisation.restore(checkpoint)
        except (KeyError, RuntimeError, ValueError, TypeError) as error:
            if ran_out_of_memory(error):
                raise
            raise RunProblem(
                _(
                    "The newest checkpoint in {folder} does not fit ({error}): it was edited, or written with other "
                    "versions of torch or peft. Go on with those versions, or start a new run.",
                    folder=self.run.folder,
                    error=str(error),
                )
            ) from error
        if self.writes:  # a kill may have come between the checkpoint and what is made from it
            self.run.publish_best()
            write_model_card(self.run)

    def attention(self) -> list[previews.AttentionView]:
        """Where the tokens look, also written as a strip per token."""
        step = self.optimisation.step
        with self.optimisation.weights.autocast():
            views = previews.attention_views(self.optimisation.objective, self.pictures)
        for view in views:
            row = {
                "step": step,
                "task": view.task,
                "token": view.token,
                "outside": round(view.outside, 5),
                "mean": round(view.mean, 6),
            }
            self.run.append_attention(row)
        previews.write_strips(views, self.run.folder / "attention", step)
        return views

    def sample(self) -> previews.Sample:
        """A picture of the composed prompt, also written to samples/."""
        with self.optimisation.weights.autocast():
            sample = previews.sample_picture(
                self.optimisation.objective,
                self.analyser,
                seed=self.config.seed,
                steps=self.config.sample_steps,
                count=self.config.sample_pictures,
            )
        step = self.optimisation.step
        previews.write_sample(sample, self.run.folder / "samples" / f"step-{step:06d}.png")
        return sample

    def _due(self, every: int, step: int) -> bool:
        """Whether what happens every so many steps is due (also at the end of each phase)."""
        ends = (self.config.ti_steps, self.optimisation.total_steps)
        return every > 0 and (step % every == 0 or step in ends)
