"""One optimizer step's losses and gradients: Eqs. 4 to 8 over the items that were drawn."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from magicapture_core import losses
from magicapture_core.attention import AttentionStore
from magicapture_core.config import TrainConfig
from magicapture_core.models import ModelBundle
from magicapture_core.models.conditioning import Conditioning
from magicapture_core.models.placeholders import token_positions, with_placeholders
from magicapture_core.models.precision import HalfDecoder
from magicapture_core.models.tiny import tiny_decoder
from magicapture_core.prompts import Task, templates
from magicapture_core.training.data import Encoded, Windows, face_windows
from magicapture_core.training.draws import Phase, StepDraw, TaskDraw
from magicapture_core.training.likeness import Likeness
from magicapture_core.training.sending import Sent, sent


@dataclass
class TaskPrompts:
    """The templates of every task, tokenized once, and the two learned embeddings in them."""

    models: ModelBundle
    embeddings: Tensor
    """(2, width) float32 of [V1] and [V2], trained."""
    noun: str
    """What the subject is called."""

    def __post_init__(self) -> None:
        self.tokenizer, self.token_ids = with_placeholders(self.models.tokenizer)
        self.ids: dict[Task, Tensor] = {}
        for task in get_args(Task):
            self.ids[task] = self.tokenize(templates(task, self.noun))

    def tokenize(self, prompts: list[str]) -> Tensor:
        """(b, tokens) ids on the CPU, padded to the model's length."""
        return self.tokenizer(
            prompts,
            padding="max_length",
            max_length=self.tokenizer.model_max_length,
            truncation=True,
            return_tensors="pt",
        ).input_ids

    def encode(self, input_ids: Tensor) -> Conditioning:
        """(b, tokens) ids → what the network reads, with the learned embeddings in place."""
        return self.models.encode(input_ids, self.token_ids, self.embeddings)

    def positions(self, input_ids: Tensor) -> Tensor:
        """(b, 2) where [V1] and [V2] stand, -1 where they do not."""
        return token_positions(input_ids, self.token_ids).to(self.models.device)


@dataclass
class Objective:
    """Computes every term of a step and leaves the gradient in the trained weights."""

    models: ModelBundle
    config: TrainConfig
    prompts: TaskPrompts
    subject: Encoded
    style: Encoded
    likeness: Likeness
    subject_features: Tensor
    """(photos, dim) R(B(I_s)) of the subject's photos that have one."""
    store: AttentionStore
    face_colour: losses.FaceColour | None = None
    """That the style's faces share; None where no face shows."""
    lightness: Tensor | None = None
    """Of the subject's face in the style's light, 0-d; None where no face shows."""

    def __post_init__(self) -> None:
        self.alphas_cumprod = self.models.noise_scheduler.alphas_cumprod.to(self.models.device)
        person = self.config.subject_kind == "person"
        whole = not person or self.config.identity_decode == "full"
        self.windows: Windows = face_windows(self.style, self.models.vae_scale_factor, whole=whole)
        # Eq. 7 needs a face in the style photo whose pose x0 keeps, or an object whose place it takes.
        comparable = self.style.has_face if person else self.style.face.amax((1, 2, 3)) > 0
        self.comparable = comparable.to(self.models.device)
        self.landmarks = self.style.landmarks.nan_to_num()
        scale = self.models.vae_scale_factor
        side = self.windows.side * scale
        self.warps = self.likeness.warps(self.windows.shifted(self.landmarks, scale), side, side)
        if self.face_colour is not None:
            self.face_colour = losses.FaceColour(*(part.to(self.models.device) for part in self.face_colour))
        if self.lightness is not None:
            self.lightness = self.lightness.to(self.models.device)
        self.prior: Encoded | None = None
        decodes = self.config.decodes and self.config.lora_steps > 0
        tiny = decodes and self.config.identity_decode == "tiny"
        self.tiny = tiny_decoder(self.models, self.style.latents) if tiny else None
        half = (
            decodes and not tiny and self.models.half_decodes and self.models.vae.dtype != self.models.dtype
        )
        self.decoder = HalfDecoder(self.models.vae, self.models.dtype) if half else None

    def step(self, draw: StepDraw, phase: Phase, style_weight: float, per_call: int) -> dict[str, Tensor]:
        """Back-propagate one optimizer step. Returns the mean of each unweighted term, 0-d, on the device.

        per_call: items of each task per UNet call; the gradient does not depend on it. Asks the device for nothing.
        """
        there = sent(draw, self.prompts.ids, self.prompts.token_ids, self.models.device)
        return self.backpropagate(there, phase, style_weight, per_call)

    def backpropagate(
        self, step: Sent, phase: Phase, style_weight: float, per_call: int
    ) -> dict[str, Tensor]:
        """`step` once what was drawn is on the device."""
        count = len(step.draw.tasks[0].items)
        encoded = self.prompts.encode(step.input_ids)
        # The text encoder runs once a step, however many UNet calls follow: they leave their gradient
        # in a leaf, which is passed on at the end.
        leaf = encoded.as_leaf()
        totals: dict[str, Tensor] = defaultdict(lambda: torch.zeros((), device=self.models.device))
        for start in range(0, count, per_call):
            part = step.part(slice(start, start + per_call))
            # One after the other; no name holds the first, so that its graph is gone before the second is built.
            self._backward(self._reconstruction(part, leaf, phase), style_weight, count, totals)
            if part.draw.identity is not None:
                self._backward(self._decoded(part, leaf), style_weight, count, totals)
        encoded.backward_from(leaf)
        return dict(totals)

    def _backward(
        self, terms: dict[str, Tensor], style_weight: float, count: int, totals: dict[str, Tensor]
    ) -> None:
        """Weigh per-item terms as METHOD's total does, back-propagate, and add up their means."""
        config = self.config
        weights = {
            "prior": config.prior_weight,
            "source": 1.0,
            "reference": style_weight,
            "composed": style_weight * config.composed_weight,
            "identity": config.lambda_id,
            "attention": config.lambda_attn,
            "colour": config.lambda_colour,
            "lightness": config.lambda_lightness,
        }
        if not terms:
            return
        means = {name: term.sum() / count for name, term in terms.items()}
        torch.stack([weights[name] * mean for name, mean in means.items()]).sum().backward()
        self.store.take()  # gradient checkpointing hears the maps again while going backward
        for name, mean in means.items():
            totals[name] = totals[name] + mean.detach()

    def _reconstruction(self, step: Sent, leaf: Conditioning, phase: Phase) -> dict[str, Tensor]:
        """Eqs. 4 to 6 and 8: all tasks go through the UNet in one call."""
        draw = step.draw
        index = torch.cat([task.prompts for task in draw.tasks])
        latents = torch.cat([self._data(task).latents[task.items] for task in draw.tasks])
        face = torch.cat([self._data(task).face[task.items] for task in draw.tasks])
        noise = torch.cat([task.noise for task in draw.tasks])
        timesteps = torch.cat([task.timesteps for task in draw.tasks])
        listening = phase == "lora" and self.config.lambda_attn > 0
        positions = step.positions[index]
        self.store.positions = positions if listening else None
        noisy_latents = losses.add_noise(latents, noise, self.alphas_cumprod[timesteps])
        model_pred = self.models.predict(noisy_latents, timesteps, leaf[index])
        heard = self.store.take()
        target = losses.target_of(latents, noise, self.alphas_cumprod[timesteps], self.models.prediction_type)

        sizes = [len(task.items) for task in draw.tasks]
        regions = [
            self._region(task.task, part) for task, part in zip(draw.tasks, face.split(sizes), strict=True)
        ]
        per_item = losses.masked_reconstruction(target, model_pred, torch.cat(regions))
        terms: dict[str, Tensor] = {
            task.task: loss for task, loss in zip(draw.tasks, per_item.split(sizes), strict=True)
        }
        if listening:
            terms["attention"] = self._attention(heard, face, positions)
        return terms

    def _attention(self, heard: list[Tensor], face: Tensor, positions: Tensor) -> Tensor:
        """Eq. 8 of every item: the mean over the tokens its prompt holds. (b,)

        [V1] is held to the face, [V2] to its complement. A style photo without a face says nothing
        about where [V1] belongs, so it counts for [V2] alone (whose region is then the whole picture).
        """
        regions = (face, 1 - face)
        present = (positions >= 0) & torch.cat([region.amax((2, 3)) > 0 for region in regions], dim=1)  # b 2
        heads = torch.cat(heard, dim=2)  # b 2 heads h w, of all layers
        per_token = torch.stack(
            [
                losses.attention_refocusing(heads[:, k], region, self.config.attention_scale)
                for k, region in enumerate(regions)
            ],
            dim=1,
        )  # b 2
        return (per_token * present).sum(1) / present.sum(1).clamp(min=1)

    def _decoded(self, step: Sent, leaf: Conditioning) -> dict[str, Tensor]:
        """What is asked of the decoded x̂0 of composed items: Eq. 7, colour and lightness of the face."""
        task = step.draw.identity
        assert task is not None
        original = self._original_sample(task, leaf[task.prompts])
        pictures = self._decode(self.windows.cut(original, task.items))
        comparable = self.comparable[task.items]
        face = self.windows.cut(self.style.face[task.items], task.items)
        terms: dict[str, Tensor] = {}
        if self.config.lambda_id > 0:
            terms["identity"] = self._identity(pictures, face, step) * comparable
        if self.config.lambda_lightness > 0 and self.lightness is not None:
            light = losses.face_lightness(pictures.float(), face)
            # As far as the noise leaves it open: the style photo's own face shows through little noise, and what were
            # asked of the model there would add up along the sampler's steps to more than was wanted.
            open_to_it = 1 - self.alphas_cumprod[task.timesteps]
            terms["lightness"] = losses.skin_lightness(light, self.lightness) * open_to_it * comparable
        if self.config.lambda_colour > 0 and self.face_colour is not None:
            chroma = losses.chroma_of(pictures.float(), self.models.vae_scale_factor)
            terms["colour"] = losses.face_colour(chroma, face, self.face_colour) * comparable
        return terms

    def _original_sample(self, task: TaskDraw, conditioning: Conditioning) -> Tensor:
        """ẑ0 by Tweedie from z_r^(t_id): its own noise level and its own UNet pass. (n,c,h,w)"""
        abar = self.alphas_cumprod[task.timesteps]
        noisy_latents = losses.add_noise(self.style.latents[task.items], task.noise, abar)
        self.store.positions = None
        model_pred = self.models.predict(noisy_latents, task.timesteps, conditioning)
        return losses.pred_original_sample(noisy_latents, model_pred, abar, self.models.prediction_type)

    def _identity(self, pictures: Tensor, face: Tensor, step: Sent) -> Tensor:
        """Eq. 7 of decoded pictures, through which the gradient goes. face: theirs, as cells. (n,)"""
        assert step.draw.compared_with is not None
        if self.config.subject_kind != "person":  # the subject's photos were cut out, too (likeness.py)
            pictures = pictures * F.interpolate(face.to(pictures), pictures.shape[-2:])
        warps = self.warps[step.places] if self.warps is not None else None
        generated = self.likeness(pictures, warps)
        return losses.identity(generated, self.subject_features[step.draw.compared_with])

    @property
    def decoder_network(self) -> nn.Module | None:
        """The decoder of Eq. 7; None for the tiny one, which is small in every way."""
        if self.tiny is not None:
            return None
        network: nn.Module = (self.decoder or self.models.vae).decoder
        return network

    def _data(self, task: TaskDraw) -> Encoded:
        if task.task == "prior":
            assert self.prior is not None
            return self.prior
        return self.subject if task.task == "source" else self.style

    def _region(self, task: Task, face: Tensor) -> Tensor:
        """Where a task's reconstruction counts, from the faces (b,1,h,w) of its items."""
        if task == "prior" or not self.config.masked:
            return torch.ones_like(face)
        return face if task == "source" else 1 - face

    def _decode(self, latents: Tensor) -> Tensor:
        """D: scaled latents → pictures (b, 3, h, w) in [-1,1]; the gradient goes through."""
        if self.tiny is not None:
            return self.tiny.decode(latents.to(self.models.dtype)).sample
        if self.decoder is not None:
            return self.decoder(latents)
        return self.models.decode(latents)
