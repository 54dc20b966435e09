"""Everything random in one optimizer step, drawn at once on the CPU.

Drawn for all processes and before the step is split, so that a step is the same whatever the device,
the number of processes and the number of items per UNet call.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from magicapture_core.config import TrainConfig
from magicapture_core.prompts import Task, templates

Phase = Literal["textual_inversion", "lora"]


@dataclass(frozen=True)
class TaskDraw:
    """Items of one task: photos, prompts, noise levels and noise."""

    task: Task
    items: Tensor
    """(n,) rows of the concept's cached latents."""
    prompts: Tensor
    """(n,) which of the task's templates."""
    timesteps: Tensor
    """(n,) t."""
    noise: Tensor
    """(n, c, h, w) eps."""

    def part(self, where: slice) -> TaskDraw:
        """The items `where`, as views."""
        return replace(
            self,
            items=self.items[where],
            prompts=self.prompts[where],
            timesteps=self.timesteps[where],
            noise=self.noise[where],
        )


@dataclass(frozen=True)
class StepDraw:
    """What one optimizer step of one process computes with."""

    tasks: tuple[TaskDraw, ...]
    identity: TaskDraw | None
    """Eq. 7's own noise levels (t_id) and noise for the composed items; None where no x0 is decoded."""
    compared_with: Tensor | None
    """(n,) the subject photo that each of Eq. 7's items is compared with."""

    def part(self, where: slice) -> StepDraw:
        """The items `where` of every task."""
        return StepDraw(
            tuple(draw.part(where) for draw in self.tasks),
            self.identity.part(where) if self.identity else None,
            self.compared_with[where] if self.compared_with is not None else None,
        )


@dataclass(frozen=True)
class Sizes:
    """How much there is to draw from."""

    subject: int
    """Cached subject latents (photos times augmentations)."""
    style: int
    """Cached style latents."""
    compared: int
    """Subject photos that Eq. 7 compares with: those with a recognisable face. 0 turns it off."""
    latent: tuple[int, int, int]
    """(c, h, w)."""
    timesteps: int
    """T."""
    prior: int = 0
    """Pictures of any person, where there is prior preservation."""


def tasks_of(phase: Phase, config: TrainConfig) -> tuple[Task, ...]:
    """Phase 1 learns (4) and (5); phase 2 adds the composed prompt, (6), and prior preservation if wanted."""
    if phase == "textual_inversion":
        return ("source", "reference")
    prior: tuple[Task, ...] = ("prior",) if config.prior_weight > 0 else ()
    composes = config.composed_weight > 0 or config.decodes
    composed: tuple[Task, ...] = ("composed",) if composes else ()
    return (*prior, "source", "reference", *composed)


def draw_step(
    generator: torch.Generator,
    sizes: Sizes,
    phase: Phase,
    config: TrainConfig,
    *,
    rank: int = 0,
    processes: int = 1,
) -> StepDraw:
    """Draw one optimizer step for all `processes` and return the part of process `rank`."""
    count = config.items_per_step * processes
    tasks = tuple(
        _draw_task(generator, task, sizes, count, sizes.timesteps) for task in tasks_of(phase, config)
    )
    identity = compared_with = None
    if phase == "lora" and config.decodes and sizes.compared > 0:
        composed = tasks[-1]
        # t_id ~ U(1, T'), T' < T: early noise levels leave nothing of a face to recognise.
        latest = max(1, int(config.identity_time_limit * sizes.timesteps))
        fresh = _draw_task(generator, "composed", sizes, count, latest)
        identity = replace(composed, timesteps=fresh.timesteps, noise=fresh.noise)
        compared_with = torch.randint(sizes.compared, (count,), generator=generator)
    mine = slice(rank * config.items_per_step, (rank + 1) * config.items_per_step)
    return StepDraw(tasks, identity, compared_with).part(mine)


def _draw_task(generator: torch.Generator, task: Task, sizes: Sizes, count: int, latest: int) -> TaskDraw:
    photos = {"prior": sizes.prior, "source": sizes.subject}.get(task, sizes.style)
    return TaskDraw(
        task=task,
        items=torch.randint(photos, (count,), generator=generator),
        prompts=torch.randint(len(templates(task)), (count,), generator=generator),
        timesteps=torch.randint(latest, (count,), generator=generator),
        noise=torch.randn((count, *sizes.latent), generator=generator),
    )
