"""What a running training holds: the networks, what is trained, and where it stands."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import PartialState
from accelerate.utils import reduce
from torch import Tensor, nn

from magicapture_core.attention import listen, nearest_side
from magicapture_core.checkpoints import Checkpoint, Run, RunFacts, save_embeddings
from magicapture_core.concepts import Concept
from magicapture_core.config import TrainConfig
from magicapture_core.faces import FaceAnalyser, choose_analyser
from magicapture_core.model_card import write_model_card
from magicapture_core.models import ModelBundle
from magicapture_core.models.fingerprint import fingerprint
from magicapture_core.problems import RunProblem, ran_out_of_memory
from magicapture_core.prompts import Task
from magicapture_core.training import previews
from magicapture_core.training.data import encode_concept, shared_face_colour, wanted_lightness
from magicapture_core.training.draws import Phase, Sizes, draw_step
from magicapture_core.training.initial import starting_rows
from magicapture_core.training.likeness import FaceLikeness, FeatureLikeness, Likeness, subject_likenesses
from magicapture_core.training.lora import add_lora, remove_lora, save_lora
from magicapture_core.training.memory import Plan, plan_for
from magicapture_core.training.objective import Objective, Texts
from magicapture_core.training.prior import prior_pictures
from magicapture_core.training.unfreeze import Originals, freeze_again, save_unet, unfreeze

PHASES: tuple[Phase, ...] = ("textual_inversion", "lora")


class NotFiniteError(RunProblem):
    """A loss or the gradient is NaN or infinite; the weights are those of the step before."""


@dataclass
class Trainer:
    """One training in one process. `opened` builds it, `advance` is one optimizer step."""

    models: ModelBundle
    config: TrainConfig
    processes: PartialState
    """Who else trains. It knows of no precision: that is the model's, whatever a launcher asks for."""
    objective: Objective
    rows: nn.Parameter
    """(2, width) embeddings of [V1] and [V2]."""
    generator: torch.Generator
    sizes: Sizes
    facts: RunFacts
    pictures: dict[Task, np.ndarray]
    """The photo that the attention maps of each task are shown over."""
    analyser: FaceAnalyser | None
    plan: Plan
    """How a step is split to fit into memory."""
    note: str | None = None
    """What the user should know about how it starts."""
    step: int = 0
    weights: dict[str, nn.Parameter] = field(default_factory=dict)
    """What phase 2 trains beside the rows, by name: LoRA, or weights of the UNet itself."""
    originals: Originals = field(default_factory=dict)
    """What the latter were before."""
    optimizer: torch.optim.Optimizer | None = None
    schedule: Any = None
    saved_step: int = -1

    @classmethod
    @contextmanager
    def opened(
        cls,
        models: ModelBundle,
        subject: Concept,
        style: Concept,
        config: TrainConfig,
        processes: PartialState,
        analyser: FaceAnalyser | None,
    ) -> Iterator[Trainer]:
        """Encode the photos and build everything; leaves the models as they were."""
        person = config.subject_kind == "person"
        if person and analyser is None:
            analyser, _ = choose_analyser()
        generator = torch.Generator().manual_seed(config.seed)
        data = {
            concept.role: encode_concept(concept, models, flip=config.flip) for concept in (subject, style)
        }
        likeness: Likeness = FeatureLikeness(models)
        if person and analyser is not None:
            likeness = FaceLikeness(analyser, models.device)
        likenesses = subject_likenesses(subject, likeness, models.device)
        rows, note = starting_rows(models, config, likenesses, likeness.name, style, generator)
        trained_rows = nn.Parameter(rows.to(models.device))
        width = data["subject"].latents.shape[-1]
        side = config.attention_resolution or nearest_side(models.unet, width, config.attention_side)
        with listen(models.unet, side, width) as store:
            objective = Objective(
                models=models,
                config=config,
                texts=Texts(models, trained_rows, config.noun),
                subject=data["subject"],
                style=data["style"],
                likeness=likeness,
                likenesses=likenesses,
                store=store,
                face_colour=shared_face_colour(style, models.vae_scale_factor) if person else None,
                lightness=wanted_lightness(subject, style) if person else None,
            )
            facts = RunFacts(
                config, models.name, fingerprint(models, objective.tiny), likeness.name, data["subject"].digests,
                data["style"].digests,
            )  # fmt: skip
            trainer = cls(
                models=models,
                config=config,
                processes=processes,
                objective=objective,
                rows=trained_rows,
                generator=generator,
                sizes=_sizes(objective),
                facts=facts,
                pictures=previews.shown_pictures(subject, style),
                analyser=analyser if person else None,
                plan=plan_for(models, config, objective.windows.side),
                note=note,
            )
            try:
                yield trainer
            finally:
                trainer._release()

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

    @property
    def is_main(self) -> bool:
        """Only one process writes."""
        return self.processes.is_main_process

    def phase_steps(self, phase: Phase) -> int:
        """Optimizer steps of a phase."""
        return self.config.ti_steps if phase == PHASES[0] else self.config.lora_steps

    def due(self, setting: str) -> bool:
        """Whether the thing that happens every `setting` steps is due (also at the end of each phase)."""
        every = getattr(self.config, setting)
        return every > 0 and (self.step % every == 0 or self.step in (self.config.ti_steps, self.total_steps))

    # --- the step ---------------------------------------------------------------------------------

    def advance(self) -> tuple[dict[str, float], dict[str, float]]:
        """One optimizer step. Returns the unweighted loss terms and the learning rates it used."""
        step = self.step + 1
        phase: Phase = PHASES[0] if step <= self.config.ti_steps else PHASES[1]
        if self.optimizer is None or step == self.config.ti_steps + 1:
            self._start_phase(phase)
        assert self.optimizer is not None
        done = step - 1 - (0 if phase == PHASES[0] else self.config.ti_steps)
        early = done < self.config.style_weight_until * self.phase_steps(phase)
        before = self.generator.get_state()
        draw = draw_step(
            self.generator,
            self.sizes,
            phase,
            self.config,
            rank=self.processes.process_index,
            processes=self.processes.num_processes,
        )
        with self._mixed():
            terms = self.objective.step(
                draw, phase, self.config.style_weight if early else 1.0, self.plan.items_per_call
            )
        losses = self._reduce(terms)
        try:
            self._check_finite(losses, step)
        except NotFiniteError:
            self.generator.set_state(before)  # this step was not made
            raise
        if self.config.max_grad_norm is not None:
            nn.utils.clip_grad_norm_(self._trained(), self.config.max_grad_norm)
        rates = {group["name"]: group["lr"] for group in self.optimizer.param_groups}
        self.optimizer.step()
        self.schedule.step()
        self.optimizer.zero_grad(set_to_none=True)
        if phase == PHASES[0] and self.config.embedding_norm is not None:
            self._pull_norms(self.config.embedding_norm, rates["embeddings"])
        self.step = step
        return losses, rates

    def _start_phase(self, phase: Phase) -> None:
        """Phase 1 trains the two embeddings; phase 2 adds LoRA or what else is trained. Each has its own optimizer."""
        from diffusers.optimization import get_scheduler

        config = self.config
        rows = {"name": "embeddings", "params": [self.rows], "weight_decay": 0.0}
        groups: list[dict[str, Any]] = [{**rows, "lr": config.ti_learning_rate}]
        if phase == PHASES[1]:
            if not self.weights:
                self._add_weights()
            groups = [
                {**rows, "lr": config.embedding_learning_rate},
                {
                    "name": "lora",
                    "params": list(self.weights.values()),
                    "weight_decay": config.lora_weight_decay,
                    "lr": config.lora_learning_rate,
                },
            ]
        if self.plan.gradient_checkpointing:
            self.models.unet.enable_gradient_checkpointing()
            self.models.unet.train()
        self.optimizer = torch.optim.AdamW(groups)
        self.schedule = get_scheduler(
            config.learning_rate_decay,
            self.optimizer,
            num_warmup_steps=0,
            num_training_steps=self.phase_steps(phase),
        )

    def _add_weights(self) -> None:
        if self.config.trained == "lora":
            self.weights = add_lora(self.models, self.config)
        else:
            self.weights, self.originals = unfreeze(self.models.unet, self.config.trained)

    def _mixed(self) -> torch.autocast:
        """The UNet's own weights are trained in fp32, however it was loaded; its layers still compute as loaded."""
        models = self.models
        needed = self.config.trained != "lora" and models.dtype != torch.float32
        return torch.autocast(models.device.type, dtype=models.dtype if needed else None, enabled=needed)

    def _trained(self) -> list[nn.Parameter]:
        return [self.rows, *self.weights.values()]

    def _reduce(self, terms: dict[str, Tensor]) -> dict[str, float]:
        """Average gradients and losses over the processes; one transfer to the host."""
        values = torch.stack(list(terms.values()))
        if self.processes.num_processes > 1:
            values = reduce(values, "mean")
            for parameter in self._trained():
                if parameter.grad is not None:
                    parameter.grad = reduce(parameter.grad, "mean")
        return dict(zip(terms, values.tolist(), strict=True))

    def _check_finite(self, losses: dict[str, float], step: int) -> None:
        """Before the optimizer acts on it: the weights are still those of the last good step."""
        bad = [f"{name} loss" for name, value in losses.items() if not math.isfinite(value)]
        gradients = [parameter.grad for parameter in self._trained() if parameter.grad is not None]
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
        norms = self.rows.norm(dim=1, keepdim=True)
        self.rows.mul_((norms + min(1.0, 100 * rate) * (target - norms)) / norms.clamp(min=1e-12))

    # --- keeping and showing ----------------------------------------------------------------------

    def begin(self, run: Run) -> None:
        """Write what a run folder holds from the start, and make what training needs of the untrained model."""
        if self.config.prior_weight > 0:
            self.objective.prior = prior_pictures(run, self.objective, self.processes)
        if self.is_main and self.analyser is not None and len(self.objective.likenesses):
            run.save_identity(self.objective.likenesses, self.objective.likeness.name)

    def save(self, run: Run) -> Path | None:
        """Write a checkpoint of the last step done, unless it is written already."""
        if not self.is_main or self.saved_step == self.step or self.optimizer is None:
            return None
        checkpoint = Checkpoint(
            step=self.step,
            items_per_call=self.plan.items_per_call,
            trainable={name: tensor.detach().cpu().contiguous() for name, tensor in self._named().items()},
            state={
                "optimizer": self.optimizer.state_dict(),
                "schedule": self.schedule.state_dict(),
                "generator": self.generator.get_state(),
            },
        )
        path = run.save_checkpoint(checkpoint, self._write_adapter, self.config.keep_checkpoints)
        write_model_card(run)
        self.saved_step = self.step
        return path

    def restore(self, run: Run) -> None:
        """Go on from the newest checkpoint; from the start where there is none."""
        checkpoint = run.load_checkpoint()
        self.saved_step = checkpoint.step if checkpoint else -1
        if self.is_main:
            run.rewind(checkpoint.step if checkpoint else 0)
        if checkpoint is None:
            return
        self.step = checkpoint.step
        items_per_call = self.config.items_per_call or checkpoint.items_per_call
        self.plan = self.plan._replace(items_per_call=items_per_call)
        self._start_phase(self.phase)
        assert self.optimizer is not None
        try:
            with torch.no_grad():
                for name, tensor in self._named().items():
                    tensor.copy_(checkpoint.trainable[name])
            self.optimizer.load_state_dict(checkpoint.state["optimizer"])
            self.schedule.load_state_dict(checkpoint.state["schedule"])
            self.generator.set_state(checkpoint.state["generator"])
        except (KeyError, RuntimeError, ValueError, TypeError) as error:
            if ran_out_of_memory(error):
                raise
            raise RunProblem(
                f"The newest checkpoint in {run.folder} does not fit ({error}): it was edited, or written with "
                "other versions of torch or peft. Go on with those versions, or start a new run."
            ) from error
        if self.is_main:  # a kill may have come between the checkpoint and what is made from it
            run.publish_newest()
            write_model_card(run)

    def attention(self, run: Run) -> list[previews.AttentionView]:
        """Where the tokens look, also written as a strip per token."""
        with self._mixed():
            views = previews.attention_views(self.objective, self.pictures)
        for view in views:
            row = {
                "step": self.step,
                "task": view.task,
                "token": view.token,
                "outside": round(view.outside, 5),
                "mean": round(view.mean, 6),
            }
            run.append_attention(row)
        previews.write_strips(views, run.folder / "attention", self.step)
        return views

    def sample(self, run: Run) -> previews.Sample:
        """A picture of the composed prompt, also written to samples/."""
        with self._mixed():
            sample = previews.sample_picture(
                self.objective, self.analyser, seed=self.config.seed, steps=self.config.sample_steps
            )
        previews.write_sample(sample, run.folder / "samples" / f"step-{self.step:06d}.png")
        return sample

    def _named(self) -> dict[str, Tensor]:
        return {"embeddings": self.rows, **self.weights}

    def _write_adapter(self, folder: Path) -> None:
        save_embeddings(self.rows, folder)
        if self.originals:
            save_unet(self.weights, folder, self.models.dtype)
        elif self.weights:
            save_lora(self.models, folder)

    def _release(self) -> None:
        remove_lora(self.models)
        freeze_again(self.models.unet, self.originals)
        if self.plan.gradient_checkpointing:
            self.models.unet.disable_gradient_checkpointing()
            self.models.unet.eval()


def _sizes(objective: Objective) -> Sizes:
    _, channels, height, width = objective.subject.latents.shape
    return Sizes(
        subject=len(objective.subject),
        style=len(objective.style),
        prior=objective.config.prior_pictures,
        likenesses=len(objective.likenesses),
        latent=(channels, height, width),
        timesteps=len(objective.alphas),
    )
