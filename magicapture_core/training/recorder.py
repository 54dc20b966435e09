"""The disk's side of a training: its run folder, checkpoints, attention maps and sample pictures."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from magicapture_core.checkpoints import Run
from magicapture_core.config import TrainConfig
from magicapture_core.faces import FaceAnalyser
from magicapture_core.model_card import write_model_card
from magicapture_core.problems import RunProblem, ran_out_of_memory
from magicapture_core.prompts import Task
from magicapture_core.training import previews
from magicapture_core.training.optimisation import Launched, Optimisation


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
        return Recorded(
            attention=self.attention() if self._due(self.config.attention_every, step.step) else [],
            sample=self.sample() if self._due(self.config.sample_every, step.step) else None,
            checkpoint=self.save() if self._due(self.config.checkpoint_every, step.step) else None,
        )

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
        if checkpoint is None:
            return
        try:
            self.optimisation.restore(checkpoint)
        except (KeyError, RuntimeError, ValueError, TypeError) as error:
            if ran_out_of_memory(error):
                raise
            raise RunProblem(
                f"The newest checkpoint in {self.run.folder} does not fit ({error}): it was edited, or written with "
                "other versions of torch or peft. Go on with those versions, or start a new run."
            ) from error
        if self.writes:  # a kill may have come between the checkpoint and what is made from it
            self.run.publish_newest()
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
            )
        step = self.optimisation.step
        previews.write_sample(sample, self.run.folder / "samples" / f"step-{step:06d}.png")
        return sample

    def _due(self, every: int, step: int) -> bool:
        """Whether what happens every so many steps is due (also at the end of each phase)."""
        ends = (self.config.ti_steps, self.optimisation.total_steps)
        return every > 0 and (step % every == 0 or step in ends)
