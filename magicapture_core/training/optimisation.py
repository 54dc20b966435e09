"""The optimizer's side of a training: two phases, their steps and gradients."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
from accelerate import PartialState
from accelerate.utils import reduce
from torch import Tensor, nn

from magicapture_core.adapters.embeddings import save_embeddings
from magicapture_core.adapters.trained import TrainedWeights
from magicapture_core.checkpoints import Checkpoint
from magicapture_core.config import TrainConfig
from magicapture_core.languages import _, n_
from magicapture_core.problems import RunProblem
from magicapture_core.training.draws import Phase, Sizes, draw_step
from magicapture_core.training.memory import Plan, Planner, Watch
from magicapture_core.training.objective import Objective
from magicapture_core.training.recompute import decoder_parts, recompute, unet_parts
from magicapture_core.training.sending import Arrival, Mark

log = logging.getLogger(__name__)

PHASES: tuple[Phase, ...] = ("textual_inversion", "lora")


class NotFiniteError(RunProblem):
    """A loss or the gradient is NaN or infinite; the weights are those of the step before."""


class Position(NamedTuple):
    """What of a training the host knows after a step, beside the weights."""

    step: int
    generator: Tensor
    schedule: dict[str, Any]
    rates: dict[str, float]


@dataclass
class Launched:
    """An optimizer step that the device may still be working on."""

    step: int
    """Its number, from 1, over both phases."""
    phase: Phase
    rates: dict[str, float]
    """The learning rates it uses."""
    terms: tuple[str, ...]
    arrival: Arrival
    """The losses by `terms`, and the gradient's norm: the one thing that is read back."""
    started: Mark
    before: Position
    finished: Mark | None = None

    @property
    def seconds(self) -> float:
        """What it took; waits for it."""
        assert self.finished is not None
        return self.finished.since(self.started)


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
    planner: Planner
    """How a step is split to fit into memory, and what is learned of it."""
    step: int = 0
    """Steps done, over both phases."""
    plan: Plan = field(init=False)
    """How steps are split now."""
    optimizer: torch.optim.Optimizer | None = None
    schedule: Any = None
    guard: Tensor | None = None
    """0-d on the device: 1 from a step on whose losses or gradient are not finite. None: the host looks at every step
    before the optimizer acts on it."""

    def __post_init__(self) -> None:
        self.plan = self.planner.plan()
        self._watch: Watch | None = None
        self._end_recomputing: list[Callable[[], None]] = []

    @property
    def works_ahead(self) -> bool:
        """Whether a step may be launched before the last one was settled. Not before the first."""
        return self.guard is not None and self.objective.models.kernels.ahead

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

        Raises NotFiniteError with everything as it was before.
        """
        step = self.launch()
        return self.settle(step), step.rates

    def launch(self) -> Launched:
        """Begin an optimizer step. What it needs of `settle` is a check: where that comes late, as on a CUDA GPU, which
        works on while the host goes on, the device itself leaves the weights alone from a bad step on."""
        phase, before = self._next_phase(), self._position()
        if self.optimizer is None or (phase == PHASES[1] and self.step == self.config.ti_steps):
            self.start_phase(phase)
            before = self._position()
        assert self.optimizer is not None
        started = Mark(self.objective.models.device)
        terms = self._gradient(phase)
        norm = nn.utils.get_total_norm([each.grad for each in self.trained() if each.grad is not None])
        values = torch.stack([*terms.values(), norm])
        if self.guard is not None:
            self.guard.copy_(torch.maximum(self.guard, (~values.isfinite().all()).to(self.guard)))
        step = Launched(self.step + 1, phase, self._rates(), tuple(terms), Arrival(values), started, before)
        if self.guard is None:
            self._check_finite(step)
        if self.config.max_grad_norm is not None:
            nn.utils.clip_grads_with_norm_(self.trained(), self.config.max_grad_norm, norm)
        self.optimizer.step()
        self.schedule.step()
        self.optimizer.zero_grad(set_to_none=True)
        if phase == PHASES[0] and self.config.embedding_norm is not None:
            self._pull_norms(self.config.embedding_norm, step.rates["embeddings"])
        self.step += 1
        self._learn_from_memory()
        step.finished = Mark(self.objective.models.device)
        return step

    def settle(self, step: Launched) -> dict[str, float]:
        """Wait for a launched step and return its unweighted loss terms.

        Raises NotFiniteError with everything as it was before that step, whatever was launched after it.
        """
        if self.guard is not None:
            self._check_finite(step)
        return dict(zip(step.terms, step.arrival.values(), strict=False))

    def _next_phase(self) -> Phase:
        return PHASES[0] if self.step < self.config.ti_steps else PHASES[1]

    def _rates(self) -> dict[str, float]:
        assert self.optimizer is not None
        return {group["name"]: group["lr"] for group in self.optimizer.param_groups}

    def start_phase(self, phase: Phase) -> None:
        """Phase 1 trains the two embeddings; phase 2 adds LoRA or what else is trained. Each has its own optimizer."""
        from diffusers.optimization import get_scheduler

        config = self.config
        embeddings = {"name": "embeddings", "params": [self.embeddings], "weight_decay": 0.0}
        groups: list[dict[str, Any]] = [{**embeddings, "lr": config.ti_learning_rate}]
        if phase == PHASES[1] and self.step == config.ti_steps:
            self._forget_roomier_steps()
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
        self._follow(self.plan)
        self._watch = Watch(self.embeddings.device)
        kernels = self.objective.models.kernels
        self.optimizer = torch.optim.AdamW(groups, fused=kernels.fused_adamw or None)
        if kernels.fused_adamw:
            # As torch.amp.GradScaler does: the kernel reads it, and where it is 1 leaves weights and moments alone.
            self.guard = torch.zeros((), device=self.embeddings.device)
            self.optimizer.found_inf = self.guard  # type: ignore[attr-defined]
        self.schedule = get_scheduler(
            config.learning_rate_decay,
            self.optimizer,
            num_warmup_steps=0,
            num_training_steps=self.phase_steps(phase),
        )

    def _gradient(self, phase: Phase) -> dict[str, Tensor]:
        """Draw a step's items and leave the gradient of their losses in what is trained. Returns the losses, 0-d."""
        draw = draw_step(
            self.generator,
            self.sizes,
            phase,
            self.config,
            rank=self.processes.process_index,
            processes=self.processes.num_processes,
        )
        done = self.step - (0 if phase == PHASES[0] else self.config.ti_steps)
        early = done < self.config.style_weight_until * self.phase_steps(phase)
        style_weight = self.config.style_weight if early else 1.0
        with self.weights.autocast():
            terms = self.objective.step(draw, phase, style_weight, self.plan.items_per_call)
        return self._reduce(terms)

    def _forget_roomier_steps(self) -> None:
        """Before phase 2: phase 1 may have found room for more items than a step with Eq. 7 has."""
        most = self.planner.plan().items_per_call
        self.plan = self.plan._replace(items_per_call=min(self.plan.items_per_call, most))

    def _follow(self, plan: Plan) -> None:
        """Split the steps so from now on."""
        self.plan = plan
        self._stop_recomputing()
        parts = unet_parts(self.objective.models.unet, plan.recomputed)
        if plan.decoder_recomputed and self.objective.decoder_network is not None:
            parts += decoder_parts(self.objective.decoder_network)
        self._end_recomputing.append(recompute(parts))

    def _stop_recomputing(self) -> None:
        while self._end_recomputing:
            self._end_recomputing.pop()()

    def _learn_from_memory(self) -> None:
        """After the first step of a phase: whether the plan holds."""
        taken = self._watch.taken() if self._watch is not None else None
        self._watch = None
        if taken is None:
            return
        better = self.planner.corrected(self.plan, taken)
        log.info("a step by %s took %.2f GB of %.2f GB", self.plan, taken / 1e9, self.planner.budget / 1e9)
        if better != self.plan:
            log.info("steps go by %s from now on", better)
            self._follow(better)

    def trained(self) -> list[nn.Parameter]:
        """All that has a gradient now."""
        return [self.embeddings, *self.weights.parameters.values()]

    def _reduce(self, terms: dict[str, Tensor]) -> dict[str, Tensor]:
        """Average gradients and losses over the processes."""
        if self.processes.num_processes == 1:
            return terms
        for parameter in self.trained():
            if parameter.grad is not None:
                parameter.grad = reduce(parameter.grad, "mean")
        return dict(zip(terms, reduce(torch.stack(list(terms.values())), "mean").unbind(), strict=True))

    def _check_finite(self, step: Launched) -> None:
        """Put everything back to before a step whose losses or gradient are no finite numbers, and raise."""
        *losses, norm = step.arrival.values()
        bad = [name for name, value in zip(step.terms, losses, strict=True) if not math.isfinite(value)]
        if not bad and math.isfinite(norm):
            return
        self._go_back(step.before)
        raise NotFiniteError(_not_finite(bad, step.step))

    def _position(self) -> Position:
        rates = self._rates() if self.optimizer is not None else {}
        schedule = self.schedule.state_dict() if self.schedule is not None else {}
        return Position(self.step, self.generator.get_state(), schedule, rates)

    def _go_back(self, position: Position) -> None:
        """The host's side of a step that was not made; on the device the weights have stayed, and may move again."""
        assert self.optimizer is not None
        self.step = position.step
        self.generator.set_state(position.generator)
        self.schedule.load_state_dict(position.schedule)
        for group in self.optimizer.param_groups:
            group["lr"] = position.rates[group["name"]]
        self.optimizer.zero_grad(set_to_none=True)
        if self.guard is not None:
            self.guard.zero_()

    @torch.no_grad()
    def _pull_norms(self, target: float, rate: float) -> None:
        """Unlike the paper (its code does it): move each embedding's norm a little toward `target`."""
        norms = self.embeddings.norm(dim=1, keepdim=True)
        factors = (norms + min(1.0, 100 * rate) * (target - norms)) / norms.clamp(min=1e-12)
        if self.guard is not None:
            factors = torch.where(self.guard > 0, 1.0, factors)
        self.embeddings.mul_(factors)

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
        self.plan = self.planner.plan_with(self.config.items_per_call or checkpoint.items_per_call)
        self.start_phase(self.phase)
        assert self.optimizer is not None
        with torch.no_grad():
            for name, tensor in self._named().items():
                tensor.copy_(checkpoint.trainable[name])
        kernel = self.optimizer.defaults[
            "fused"
        ]  # of this device, not of the one that the checkpoint is from
        groups = [{**group, "fused": kernel} for group in checkpoint.state["optimizer"]["param_groups"]]
        self.optimizer.load_state_dict({**checkpoint.state["optimizer"], "param_groups": groups})
        self.schedule.load_state_dict(checkpoint.state["schedule"])
        self.generator.set_state(checkpoint.state["generator"])

    def write_adapter(self, folder: Path) -> None:
        """Write what was learned so far as an adapter's files."""
        save_embeddings(self.objective.models, self.embeddings, folder)
        self.weights.save(folder)

    def release(self) -> None:
        """Leave the models as they were."""
        self._stop_recomputing()
        self.weights.detach()

    def _named(self) -> dict[str, Tensor]:
        return {"embeddings": self.embeddings, **self.weights.parameters}


def _not_finite(losses: Sequence[str], step: int) -> str:
    """losses: names of the terms; none: it is the gradient."""
    if not losses:
        return _(
            "The gradient is not a finite number at step {step}. What was learned before is saved and usable. Lower "
            "the learning rates or train in fp32, and start a new run.",
            step=step,
        )
    return n_(
        "The {losses} loss is not a finite number at step {step}. What was learned before is saved and usable. Lower "
        "the learning rates or train in fp32, and start a new run.",
        "These losses are not finite numbers at step {step}: {losses}. What was learned before is saved and usable. "
        "Lower the learning rates or train in fp32, and start a new run.",
        len(losses), losses=", ".join(losses), step=step,
    )  # fmt: skip
