"""The optimizer's side of a training: two phases, their steps and gradients."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import reduce
from torch import Tensor, nn

from magicapture_core.adapters.embeddings import save_embeddings
from magicapture_core.adapters.trained import TrainedWeights
from magicapture_core.checkpoints import Checkpoint
from magicapture_core.config import TrainConfig
from magicapture_core.problems import RunProblem
from magicapture_core.training.draws import Phase, Sizes, draw_step
from magicapture_core.training.memory import Plan
from magicapture_core.training.objective import Objective

PHASES: tuple[Phase, ...] = ("textual_inversion", "lora")


class NotFiniteError(RunProblem):
    """A loss or the gradient is NaN or infinite; the weights are those of the step before."""


@dataclass
class Optimisation:
    """What is trained, by which optimizer, and how far it has come. `advance` is one optimizer step."""

    objective: Objective
    config: TrainConfig
    embeddings: nn.Parameter
    """(2, width) of [V1] and [V2]."""
    weights: TrainedWeights
    """What phase 2 trains beside them."""
    generator: torch.Generator
    """All that is random in a step comes from it."""
    sizes: Sizes
    processes: PartialState
    """Who else trains. It knows of no precision: that is the model's, whatever a launcher asks for."""
    plan: Plan
    """How a step is split to fit into memory."""
    step: int = 0
    """Steps done, over both phases."""
    optimizer: torch.optim.Optimizer | None = None
    schedule: Any = None

    @property
    def total_steps(self) -> int:
        """Optimizer steps of both phases."""
        return self.config.ti_steps + self.config.lora_steps

    @property
    def phase(self) -> Phase:
        """The phase of the last step done (of the first one, before any)."""
        return PHASES[0] if max(self.step, 1) <= self.config.ti_steps else PHASES[1]

    @property
    def phase_step(self) -> int:
        """Steps done in that phase."""
        return self.step if self.phase == PHASES[0] else self.step - self.config.ti_steps

    def phase_steps(self, phase: Phase) -> int:
        """Optimizer steps of a phase."""
        return self.config.ti_steps if phase == PHASES[0] else self.config.lora_steps

    def advance(self) -> tuple[dict[str, float], dict[str, float]]:
        """One optimizer step. Returns the unweighted loss terms and the learning rates it used.

        Raises NotFiniteError before anything is changed.
        """
        step = self.step + 1
        phase: Phase = PHASES[0] if step <= self.config.ti_steps else PHASES[1]
        if self.optimizer is None or step == self.config.ti_steps + 1:
            self.start_phase(phase)
        assert self.optimizer is not None
        losses = self._gradient(phase, step)
        if self.config.max_grad_norm is not None:
            nn.utils.clip_grad_norm_(self.trained(), self.config.max_grad_norm)
        rates = {group["name"]: group["lr"] for group in self.optimizer.param_groups}
        self.optimizer.step()
        self.schedule.step()
        self.optimizer.zero_grad(set_to_none=True)
        if phase == PHASES[0] and self.config.embedding_norm is not None:
            self._pull_norms(self.config.embedding_norm, rates["embeddings"])
        self.step = step
        return losses, rates

    def start_phase(self, phase: Phase) -> None:
        """Phase 1 trains the two embeddings; phase 2 adds LoRA or what else is trained. Each has its own optimizer."""
        from diffusers.optimization import get_scheduler

        config = self.config
        embeddings = {"name": "embeddings", "params": [self.embeddings], "weight_decay": 0.0}
        groups: list[dict[str, Any]] = [{**embeddings, "lr": config.ti_learning_rate}]
        if phase == PHASES[1]:
            self.weights.attach()
            groups = [
                {**embeddings, "lr": config.embedding_learning_rate},
                {
                    "name": "lora",
                    "params": list(self.weights.parameters.values()),
                    "weight_decay": config.lora_weight_decay,
                    "lr": config.lora_learning_rate,
                },
            ]
        if self.plan.gradient_checkpointing:
            self.objective.models.unet.enable_gradient_checkpointing()
            self.objective.models.unet.train()
        self.optimizer = torch.optim.AdamW(groups)
        self.schedule = get_scheduler(
            config.learning_rate_decay,
            self.optimizer,
            num_warmup_steps=0,
            num_training_steps=self.phase_steps(phase),
        )

    def _gradient(self, phase: Phase, step: int) -> dict[str, float]:
        """Draw a step's items and leave the gradient of their losses in what is trained. Returns the losses."""
        before = self.generator.get_state()
        draw = draw_step(
            self.generator,
            self.sizes,
            phase,
            self.config,
            rank=self.processes.process_index,
            processes=self.processes.num_processes,
        )
        done = step - 1 - (0 if phase == PHASES[0] else self.config.ti_steps)
        early = done < self.config.style_weight_until * self.phase_steps(phase)
        style_weight = self.config.style_weight if early else 1.0
        with self.weights.autocast():
            terms = self.objective.step(draw, phase, style_weight, self.plan.items_per_call)
        losses = self._reduce(terms)
        try:
            self._check_finite(losses, step)
        except NotFiniteError:
            self.generator.set_state(before)  # this step was not made
            raise
        return losses

    def trained(self) -> list[nn.Parameter]:
        """All that has a gradient now."""
        return [self.embeddings, *self.weights.parameters.values()]

    def _reduce(self, terms: dict[str, Tensor]) -> dict[str, float]:
        """Average gradients and losses over the processes; one transfer to the host."""
        values = torch.stack(list(terms.values()))
        if self.processes.num_processes > 1:
            values = reduce(values, "mean")
            for parameter in self.trained():
                if parameter.grad is not None:
                    parameter.grad = reduce(parameter.grad, "mean")
        return dict(zip(terms, values.tolist(), strict=True))

    def _check_finite(self, losses: dict[str, float], step: int) -> None:
        """Before the optimizer acts on it: the weights are still those of the last good step."""
        bad = [f"{name} loss" for name, value in losses.items() if not math.isfinite(value)]
        gradients = [parameter.grad for parameter in self.trained() if parameter.grad is not None]
        if not bad and not bool(nn.utils.get_total_norm(gradients).isfinite()):
            bad = ["gradient"]
        if bad:
            raise NotFiniteError(
                f"The {' and the '.join(bad)} is not a finite number at step {step}. What was learned before "
                "is saved and usable. Lower the learning rates or train in fp32, and start a new run."
            )

    @torch.no_grad()
    def _pull_norms(self, target: float, rate: float) -> None:
        """Unlike the paper (its code does it): move each embedding's norm a little toward `target`."""
        norms = self.embeddings.norm(dim=1, keepdim=True)
        self.embeddings.mul_((norms + min(1.0, 100 * rate) * (target - norms)) / norms.clamp(min=1e-12))

    # --- to disk and back -------------------------------------------------------------------------

    def checkpoint(self) -> Checkpoint:
        """All that decides how the training goes on after the last step done."""
        assert self.optimizer is not None
        return Checkpoint(
            step=self.step,
            items_per_call=self.plan.items_per_call,
            trainable={name: tensor.detach().cpu().contiguous() for name, tensor in self._named().items()},
            state={
                "optimizer": self.optimizer.state_dict(),
                "schedule": self.schedule.state_dict(),
                "generator": self.generator.get_state(),
            },
        )

    def restore(self, checkpoint: Checkpoint) -> None:
        """Go on from a checkpoint. Raises KeyError, RuntimeError, ValueError or TypeError if it does not fit."""
        self.step = checkpoint.step
        items_per_call = self.config.items_per_call or checkpoint.items_per_call
        self.plan = self.plan._replace(items_per_call=items_per_call)
        self.start_phase(self.phase)
        assert self.optimizer is not None
        with torch.no_grad():
            for name, tensor in self._named().items():
                tensor.copy_(checkpoint.trainable[name])
        self.optimizer.load_state_dict(checkpoint.state["optimizer"])
        self.schedule.load_state_dict(checkpoint.state["schedule"])
        self.generator.set_state(checkpoint.state["generator"])

    def write_adapter(self, folder: Path) -> None:
        """Write what was learned so far as an adapter's files."""
        save_embeddings(self.objective.models, self.embeddings, folder)
        self.weights.save(folder)

    def release(self) -> None:
        """Leave the models as they were."""
        self.weights.detach()
        if self.plan.gradient_checkpointing:
            self.objective.models.unet.disable_gradient_checkpointing()
            self.objective.models.unet.eval()

    def _named(self) -> dict[str, Tensor]:
        return {"embeddings": self.embeddings, **self.weights.parameters}
