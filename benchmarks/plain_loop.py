"""MagiCapture's losses in a plain loop, as the usual LoRA training scripts are built: what `step.py` compares with.

Batch 1 with accumulation; each item's photo is encoded anew; a text encoder and a UNet call per task; attention maps
formed in every listening layer of every call; the identity term always has a UNet pass of its own, decodes the whole
picture and looks at the subject's photo again. The terms, their weights and what is drawn are the trainer's.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from magicapture_core import losses
from magicapture_core.concepts import Concept
from magicapture_core.training.draws import Phase, StepDraw, TaskDraw
from magicapture_core.training.objective import Objective


class PlainLoop:
    """One optimizer step at a time over the same photos, networks and trained weights as an `Objective`."""

    def __init__(self, objective: Objective, subject: Concept, style: Concept, trained: list[nn.Parameter]):
        self.o = objective
        self.photos = {"subject": _views(subject), "style": _views(style)}
        self.trained = trained
        self.optimizer = torch.optim.AdamW(
            trained, lr=0.0
        )  # at rate 0, so that turns do not change each other

    def step(self, draw: StepDraw, phase: Phase) -> dict[str, float]:
        """Back-propagate and step. Returns the mean of each unweighted term."""
        totals: dict[str, float] = {}
        count = len(draw.tasks[0].items)
        for i in range(count):
            item = draw.part(slice(i, i + 1))
            for task in item.tasks:
                for name, value in self._task(task, phase, count).items():
                    totals[name] = totals.get(name, 0.0) + value / count
            if item.identity is not None:
                for name, value in self._decoded(item).items():
                    totals[name] = totals.get(name, 0.0) + value / count
        self.optimizer.step()
        self.optimizer.zero_grad()
        return totals

    def _task(self, task: TaskDraw, phase: Phase, count: int) -> dict[str, float]:
        o, device = self.o, self.o.models.device
        ids = o.prompts.ids[task.task][task.prompts]
        hidden = o.prompts.encode(ids)
        latents = self._encoded(task)
        face = o._data(task).face[task.items.to(device)]
        timesteps, noise = task.timesteps.to(device), task.noise.to(device)
        positions = o.prompts.positions(ids)
        o.store.positions = positions
        output = o.models.predict(
            losses.add_noise(latents, noise, o.alphas_cumprod[timesteps]), timesteps, hidden
        )
        heard = o.store.take()
        region = face if task.task == "source" else 1 - face
        loss = losses.masked_reconstruction(noise, output, region).mean()
        values = {task.task: loss.item()}
        weighted = loss if task.task == "source" else loss * o.config.style_weight
        if phase == "lora" and o.config.lambda_attn > 0:
            attention = o._attention(heard, face, positions).mean()
            values["attention"] = attention.item()
            weighted = weighted + o.config.lambda_attn * attention
        (weighted / count).backward()
        return values

    def _decoded(self, item: StepDraw) -> dict[str, float]:
        o, device = self.o, self.o.models.device
        task = item.identity
        assert task is not None
        assert item.compared_with is not None
        hidden = o.prompts.encode(o.prompts.ids[task.task][task.prompts])
        timesteps, noise = task.timesteps.to(device), task.noise.to(device)
        abar = o.alphas_cumprod[timesteps]
        noisy = losses.add_noise(self._encoded(task), noise, abar)
        o.store.positions = o.prompts.positions(o.prompts.ids[task.task][task.prompts])
        output = o.models.predict(noisy, timesteps, hidden)
        o.store.take()
        picture = o._decode(losses.pred_original_sample(noisy, output, abar, o.models.prediction_type))
        generated = o.likeness(picture, o.likeness.warps(o.landmarks[task.items], *picture.shape[-2:]))
        with torch.no_grad():
            image, landmarks = self.photos["subject"][2 * int(item.compared_with)]
            subject = o.likeness(image[None].to(device), o.likeness.warps(landmarks[None], *image.shape[-2:]))
        # As the trainer: a style photo without a face asks nothing of the decoded picture.
        comparable = o.comparable[task.items.to(device)]
        loss = (losses.identity(generated, subject) * comparable).mean()
        values, weighted = {"identity": loss.item()}, o.config.lambda_id * loss
        if o.config.lambda_colour > 0 and o.face_colour is not None:
            face = o.style.face[task.items.to(device)]
            chroma = losses.chroma_of(picture.float(), o.models.vae_scale_factor)
            off = (losses.face_colour(chroma, face, o.face_colour) * comparable).mean()
            values["colour"], weighted = off.item(), weighted + o.config.lambda_colour * off
        if o.config.lambda_lightness > 0 and o.lightness is not None:
            face = o.style.face[task.items.to(device)]
            light = losses.face_lightness(picture.float(), face)
            off = (losses.skin_lightness(light, o.lightness) * (1 - abar) * comparable).mean()
            values["lightness"], weighted = off.item(), weighted + o.config.lambda_lightness * off
        (weighted / len(item.tasks[0].items)).backward()
        return values

    @torch.no_grad()
    def _encoded(self, task: TaskDraw) -> Tensor:
        models = self.o.models
        role = "subject" if task.task == "source" else "style"
        pictures = torch.stack([self.photos[role][i][0] for i in task.items.tolist()])
        return models.encode_pictures(pictures)


def _views(concept: Concept) -> list[tuple[Tensor, Tensor]]:
    """Each photo and its mirror image, in the order of `encode_concept`, with landmarks for the former."""
    views = []
    for example in concept.examples:
        landmarks = example.landmarks if example.landmarks is not None else torch.zeros(5, 2)
        views += [(example.image, landmarks), (example.image.flip(-1), landmarks)]
    return views
