"""The denoising loop, a generator of portraits."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from magicapture_core.adapters.attach import ExtraLora, Switch, attached
from magicapture_core.attention import AttentionStore, listen, mean_map
from magicapture_core.checkpoints import Run
from magicapture_core.concepts import Concept
from magicapture_core.config import GenerateConfig
from magicapture_core.faces import FaceAnalyser, embed_face
from magicapture_core.generation.job import Job
from magicapture_core.generation.learned import Learned
from magicapture_core.generation.noise import go_on_as, next_seeds, noise_near
from magicapture_core.generation.portrait import Portrait
from magicapture_core.languages import _
from magicapture_core.losses import scale_to_unit
from magicapture_core.models import ModelBundle
from magicapture_core.models.conditioning import Conditioning
from magicapture_core.problems import Problem, ran_out_of_memory
from magicapture_core.progress import Progress, StoppedError
from magicapture_core.prompts import apply_weights


def generate(
    models: ModelBundle,
    run: Path | str | None,
    config: GenerateConfig,
    *,
    analyser: FaceAnalyser | None = None,
    extra: ExtraLora | None = None,
    progress: Progress | None = None,
) -> Generator[Portrait, None, None]:
    """Make `config.count` portraits with a run's adapter. Yields each when it is ready, in order of their seeds.

    run: a run folder; None uses the model without an adapter. analyser: its face recognition network scores the
    portraits; None chooses one. The same seed gives the same picture for any number of pictures in a batch.
    extra: another LoRA file that is used beside the run's.
    progress: called after each denoising step; if it raises StoppedError, the generator ends without an error.
    When the generator has ended, was closed or has failed, the models are as they were before.
    Raises Problem for a prompt or a run that cannot be used, immediately and not at the first portrait.
    """
    if extra is not None:
        extra.check()
    learned = None if run is None else Learned.from_run(Run.open(run), models, analyser)
    return _portraits(Job.prepared(models, learned, config, extra), progress)


def draft(
    models: ModelBundle,
    subject: Concept,
    style: Concept,
    config: GenerateConfig,
    *,
    analyser: FaceAnalyser,
    noun: str = "person",
    progress: Progress | None = None,
) -> Generator[Portrait, None, None]:
    """Portraits before any training: they show the style, and the person approximately.

    Unlike the paper: [V1] and [V2] are embeddings that a model with `words.safetensors` computes from the photos. noun:
    the noun for the person in the prompt, for example "woman" or "old man". Otherwise as `generate`.
    Raises Problem immediately if the model has no `words.safetensors`, or if no photo shows a face.
    """
    learned = Learned.from_photos(models, subject, style, analyser, noun)
    return _portraits(Job.prepared(models, learned, config), progress)


def _portraits(job: Job, progress: Progress | None) -> Generator[Portrait, None, None]:
    batches = deque(job.batches())
    done = 0
    total = len(batches) * job.config.steps

    def step_done() -> None:
        nonlocal done
        done = min(done + 1, total)
        if progress is not None:
            progress("Denoising", done, total)

    with ExitStack() as stack:
        pipeline = job.models.pipeline(job.config.scheduler)
        folder = job.learned.adapter if job.learned else None
        switch = stack.enter_context(attached(pipeline, folder, job.adapter_scale, job.extra))
        store = stack.enter_context(_listening(job))
        prompts = _encode(job)
        while batches:
            seeds = batches.popleft()
            left = list(seeds)
            try:
                for portrait in _denoise(job, pipeline, switch, prompts, seeds, store, step_done):
                    yield portrait
                    left.remove(portrait.seed)
            except StoppedError:
                return
            except (MemoryError, RuntimeError) as error:
                if not ran_out_of_memory(error):
                    raise
                if len(seeds) == 1:
                    raise Problem(
                        _(
                            "Memory does not hold one picture of {width}×{height}. Make smaller ones, or close other "
                            "programs.",
                            width=job.size[0], height=job.size[1],
                        )
                    ) from error  # fmt: skip
                # One at a time gives the same pictures.
                batches.extendleft([seed] for seed in reversed(left))


def _denoise(
    job: Job,
    pipeline: Any,
    switch: Switch,
    prompts: Conditioning,
    seeds: Sequence[int],
    store: AttentionStore | None,
    step_done: Callable[[], None],
) -> Iterator[Portrait]:
    """Denoise the pictures of `seeds` in one UNet call a step. switch: of the run's LoRA weights; prompts: the prompt
    and the negative prompt."""
    count = len(seeds)
    guided = job.config.guidance_scale > 1  # as the pipeline decides; then it puts the negative half first
    heat = _Heat(job, count, guided, store)

    noise, generators = _noise(job, seeds)
    config = job.config
    changes = [next_seeds(seed, config.near, config.variation, config.steps) for seed in seeds]

    def change_noise(done: int) -> None:
        for generator, change in zip(generators, changes, strict=True):
            if done in change:
                go_on_as(generator, change[done], _latent_shape(job), job.models.drawing_dtype)

    without = round(config.adapter_start * config.steps)

    def after_step(_pipeline: Any, step: int, _t: Any, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        change_noise(step + 1)
        if step + 1 == without:
            switch(True)
        heat.add()
        step_done()
        return tensors

    change_noise(0)
    if without:
        switch(False)
    drawn = job.models.draw(
        pipeline,
        prompts[:1].expand(count),
        prompts[1:].expand(count) if guided else None,
        num_inference_steps=job.config.steps,
        guidance_scale=job.config.guidance_scale,
        width=job.size[0],
        height=job.size[1],
        latents=noise,
        generator=generators,
        callback_on_step_end=after_step,
    )
    for number, (image, seed, nsfw) in enumerate(zip(drawn.images, seeds, drawn.unsafe, strict=True)):
        yield _portrait(job, image.convert("RGB"), seed, bool(nsfw), heat.of(number))


def _portrait(
    job: Job, image: Image.Image, seed: int, nsfw: bool, attention: dict[str, np.ndarray]
) -> Portrait:
    """A picture as it leaves the decoder, enlarged and scored. attention: its heat maps."""
    picture = _enlarged(job, image)
    warnings = job.warnings
    if nsfw:
        warnings += (_("The model's safety checker blacked this picture out. Try another seed or prompt."),)
    return Portrait(
        image=picture,
        prompt=job.config.prompt,
        seed=seed,
        identity=None if nsfw else _score(job, picture),
        settings=job.settings,
        attention=attention,
        warnings=warnings,
        nsfw=nsfw,
    )


def _noise(job: Job, seeds: Sequence[int]) -> tuple[Tensor | None, list[torch.Generator]]:
    """What the pictures of `seeds` begin with, (n, c, h, w), and a generator for each; None: it draws the noise itself.

    On the CPU and one for each picture: neither the device nor the batch decides what is drawn.
    """
    if not job.config.near:
        return None, [torch.Generator().manual_seed(seed) for seed in seeds]
    shape, dtype = _latent_shape(job), job.models.drawing_dtype
    drawn = [noise_near(seed, job.config.near, job.config.variation, shape, dtype) for seed in seeds]
    return torch.cat([noise for noise, _ in drawn]), [generator for _, generator in drawn]


def _latent_shape(job: Job) -> tuple[int, ...]:
    """(channels, h, w) of a picture's latents."""
    width, height = job.size
    factor = job.models.vae_scale_factor
    return (job.models.unet.config.in_channels, height // factor, width // factor)


def _enlarged(job: Job, picture: Image.Image) -> Image.Image:
    """The picture after super-resolution, where the model or the user wants it."""
    if job.enlarge == 1:
        return picture
    from magicapture_core.config import PostprocessConfig
    from magicapture_core.postprocess import finish

    config = PostprocessConfig(upscale=job.enlarge, restore="none")
    return Image.fromarray(finish(np.asarray(picture), config, device=job.models.device).pixels)


class _Heat:
    """Sums up where the asked words look, over the steps of one batch; the negative half is not listened to."""

    def __init__(self, job: Job, count: int, guided: bool, store: AttentionStore | None) -> None:
        self.store, self.words = store, job.words
        self.count = count
        self.total: Tensor | int = 0
        if store is not None:
            flat = [position for positions in job.words.values() for position in positions]
            wanted = torch.tensor(flat, device=job.models.device).expand(count, -1)
            store.positions = torch.cat([torch.full_like(wanted, -1), wanted]) if guided else wanted
            store.take()  # a call that ran out of memory may have left maps of another batch

    def add(self) -> None:
        """Take in one step's maps."""
        if self.store is not None:
            self.total = self.total + mean_map(self.store.take())[-self.count :]  # b k h w

    def of(self, number: int) -> dict[str, np.ndarray]:
        """The maps of one picture, averaged over a word's tokens and scaled to [0, 1]."""
        if not isinstance(self.total, Tensor):
            return {}
        lengths = [len(positions) for positions in self.words.values()]
        parts = self.total[number].split(lengths)
        return {
            word: scale_to_unit(part.mean(0)).cpu().numpy()
            for word, part in zip(self.words, parts, strict=True)
        }


@contextmanager
def _listening(job: Job) -> Iterator[AttentionStore | None]:
    if job.attention_side is None:
        yield None
        return
    with listen(job.models.unet, job.attention_side, job.size[0] // job.models.vae_scale_factor) as store:
        yield store


@torch.no_grad()
def _encode(job: Job) -> Conditioning:
    """The prompt and the negative prompt, two items, as the network reads them."""
    embeddings = job.learned.embeddings if job.learned is not None else None
    encoded = job.models.encode(job.input_ids, job.token_ids, embeddings)
    if job.token_weights is not None:
        weighted = apply_weights(encoded.encoder_hidden_states, job.token_weights)
        encoded = replace(encoded, encoder_hidden_states=weighted)
    return encoded.to(job.models.dtype)


def _score(job: Job, picture: Image.Image) -> float | None:
    """Cosine between the largest face in the picture and the subject; None without a face."""
    learned = job.learned
    if learned is None or learned.analyser is None or learned.identity is None:
        return None
    pixels = np.asarray(picture)
    faces = learned.analyser.detect(pixels)
    if not faces:
        return None
    return float(embed_face(learned.analyser, pixels, faces[0]) @ learned.identity.numpy())
