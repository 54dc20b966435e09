"""What people look at while training runs: attention maps and sample pictures. Draws nothing random
from the run's own generator, so that looking changes nothing."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from magicapture_core import losses
from magicapture_core.concepts import Concept
from magicapture_core.config import GenerateConfig
from magicapture_core.faces import FaceAnalyser, embed_face
from magicapture_core.files import atomic_file
from magicapture_core.heat import heat_overlay
from magicapture_core.prompts import TOKENS, Task, templates
from magicapture_core.provenance import save_picture
from magicapture_core.training.objective import Objective

PREVIEW_NOISE = 0.4
"""Share of the noise schedule at which attention is shown: the picture is there, details are not."""


@dataclass(frozen=True, eq=False)
class AttentionView:
    """Where one token looks in one item."""

    task: Task
    token: str
    picture: np.ndarray
    """(h, w, 3) uint8 training photo."""
    heat: np.ndarray
    """(side, side) float32 in [0,1]: each head scaled as in Eq. 8, the mean over heads and layers."""
    region: np.ndarray
    """(h, w) float32 in {0,1} on the latent grid: where the token should look."""
    outside: float
    """Share of the token's attention outside its region; 0 is best."""
    mean: float
    """Attention probability of the token, the mean over places, heads and layers: how much it is looked at at all."""


@dataclass(frozen=True, eq=False)
class Sample:
    """A picture of the composed prompt, made in the middle of training."""

    image: Image.Image
    prompt: str
    seed: int
    identity: float | None
    """Cosine to the subject by the loss's own network; None where no face was found."""
    likeness: float | None
    """The mean cosine over all pictures of the sample, 0 for one without a face; None where no face is looked for."""


@torch.no_grad()
def attention_views(objective: Objective, pictures: dict[Task, np.ndarray]) -> list[AttentionView]:
    """Listen once to the first photo of each task, with a fixed template, noise level and noise."""
    models, prompts = objective.models, objective.prompts
    tasks: tuple[Task, ...] = ("source", "reference", "composed")
    ids = torch.cat([prompts.ids[task][:1] for task in tasks])
    data = [objective.subject, objective.style, objective.style]
    latents = torch.cat([encoded.latents[:1] for encoded in data])
    face = torch.cat([encoded.face[:1] for encoded in data])
    noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(0)).to(latents)
    t = int(PREVIEW_NOISE * len(objective.alphas_cumprod))
    timesteps = torch.full((len(tasks),), t, device=models.device)
    noisy_latents = losses.add_noise(latents, noise, objective.alphas_cumprod[timesteps])
    positions = prompts.positions(ids)
    objective.store.positions = positions
    cuts = torch.cat([encoded.cuts[:1] for encoded in data])
    models.predict(noisy_latents, timesteps, models.framed(prompts.encode(ids), cuts))
    heard = objective.store.take()
    heat = _seen_by_eq_8(heard).cpu().numpy()  # b 2 h w
    views = []
    for i, task in enumerate(tasks):
        for k, token in enumerate(TOKENS):
            if positions[i, k] < 0:
                continue
            region = face[i : i + 1] if k == 0 else 1 - face[i : i + 1]
            shares = [losses.attention_outside(maps[i : i + 1, k], region) for maps in heard]
            views.append(
                AttentionView(
                    task,
                    token,
                    pictures[task],
                    heat[i, k],
                    region[0, 0].cpu().numpy(),
                    float(torch.stack(shares).mean()),
                    float(torch.stack([maps[i, k].float().mean() for maps in heard]).mean()),
                )
            )
    return views


def _seen_by_eq_8(heard: list[Tensor]) -> Tensor:
    """[(b, k, heads, h, w)] → (b, k, h, w) in [0,1]: scaled per head, as the loss does, then averaged.

    The plain mean would show whichever head speaks loudest, and not what training acts on.
    """
    layers = torch.stack([losses.scale_to_unit(maps).mean(2) for maps in heard])
    return losses.scale_to_unit(layers.mean(0))


@torch.no_grad()
def sample_picture(
    objective: Objective,
    analyser: FaceAnalyser | None,
    *,
    seed: int,
    steps: int,
    count: int = 1,
) -> Sample:
    """Pictures of the composed prompt with the weights as they stand, of seeds from `seed` on; the first is shown.

    Drawn with the guidance that suits the model, as portraits are: likeness depends on it.
    """
    models, prompts = objective.models, objective.prompts
    guidance_scale = float(models.generate_defaults.get("guidance_scale", GenerateConfig().guidance_scale))
    objective.store.positions = None
    prompt = templates("composed", prompts.noun)[0]
    encoded = prompts.encode(prompts.tokenize([prompt, ""]))
    drawn = models.draw(
        models.pipeline(),
        encoded[:1].expand(count),
        encoded[1:].expand(count),
        num_inference_steps=steps,
        guidance_scale=guidance_scale,
        width=objective.config.resolution,
        height=objective.config.resolution,
        generator=[torch.Generator().manual_seed(seed + number) for number in range(count)],
    )
    pictures = [image.convert("RGB") for image in drawn.images]
    if analyser is None or not len(objective.subject_features):
        return Sample(pictures[0], prompt, seed, None, None)
    person = objective.subject_features.mean(0).cpu().numpy()
    found = [_cosine(analyser, np.asarray(picture), person) for picture in pictures]
    return Sample(pictures[0], prompt, seed, found[0], sum(each or 0.0 for each in found) / count)


def _cosine(analyser: FaceAnalyser, pixels: np.ndarray, person: np.ndarray) -> float | None:
    """The largest face's cosine to the person (f,); None without a face. pixels: (h, w, 3) uint8."""
    faces = analyser.detect(pixels)
    if not faces:
        return None
    with torch.autocast("cpu", enabled=False):  # embeddings are compared in fp32, and made on the CPU
        vector = embed_face(analyser, pixels, faces[0])
    return float(vector @ person / np.linalg.norm(person))


def write_sample(sample: Sample, path: Path) -> None:
    """Save the picture, marked as generated."""
    settings = {"identity": sample.identity, "likeness": sample.likeness}
    save_picture(sample.image, path, prompt=sample.prompt, seed=sample.seed, settings=settings)


STRIP_SIDE = 256


def write_strips(views: list[AttentionView], folder: Path, step: int) -> None:
    """A PNG per token: for each item the photo, where the token looks, and where it should."""
    for token in TOKENS:
        cells = [cell for view in views if view.token == token for cell in strip_cells(view)]
        with atomic_file(folder / f"step-{step:06d}-{token.strip('<>')}.png") as path:
            Image.fromarray(np.concatenate(cells, axis=1)).save(path, format="PNG")


def strip_cells(view: AttentionView) -> list[np.ndarray]:
    """The photo, the photo under the heat map, the photo dimmed outside the region; (side, side, 3) uint8."""
    import cv2

    size = (STRIP_SIDE, STRIP_SIDE)
    photo = cv2.resize(view.picture, size, interpolation=cv2.INTER_AREA)
    region = cv2.resize(view.region, size, interpolation=cv2.INTER_NEAREST)[..., None]
    wanted = (photo * (0.25 + 0.75 * region)).astype(np.uint8)
    return [photo, heat_overlay(photo, view.heat), wanted]


def _to_picture(image: Tensor) -> np.ndarray:
    """(3, h, w) in [-1,1] → (h, w, 3) uint8."""
    return ((image / 2 + 0.5).clamp(0, 1) * 255).round().byte().permute(1, 2, 0).cpu().numpy()


def shown_pictures(subject: Concept, style: Concept) -> dict[Task, np.ndarray]:
    """The photo that each task's attention is shown over; the composed prompt is learned on the style's."""
    shown: dict[Task, Concept] = {"source": subject, "reference": style, "composed": style}
    return {task: _to_picture(concept.examples[0].image) for task, concept in shown.items()}
