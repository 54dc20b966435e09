"""Everything that a training needs before its first step."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from accelerate import PartialState
from torch import nn

from magicapture_core.adapters.trained import TrainedWeights
from magicapture_core.attention import listen
from magicapture_core.concepts import Concept
from magicapture_core.config import TrainConfig
from magicapture_core.faces import FaceAnalyser, choose_analyser
from magicapture_core.languages import _
from magicapture_core.models import ModelBundle
from magicapture_core.models.fingerprint import fingerprint
from magicapture_core.problems import Problem
from magicapture_core.run_facts import RunFacts
from magicapture_core.training.data import encode_concept, shared_face_colour, wanted_lightness
from magicapture_core.training.draws import Sizes
from magicapture_core.training.initial import starting_embeddings
from magicapture_core.training.likeness import FaceLikeness, FeatureLikeness, Likeness, features_of
from magicapture_core.training.memory import Planner
from magicapture_core.training.objective import Objective, TaskPrompts
from magicapture_core.training.optimisation import Optimisation


@dataclass(frozen=True, eq=False)
class Prepared:
    """A training that can begin."""

    optimisation: Optimisation
    facts: RunFacts
    analyser: FaceAnalyser | None
    """Who finds faces in sample pictures; None for an object."""
    note: str | None
    """What the user should know about how it starts."""


@contextmanager
def prepared(
    models: ModelBundle,
    subject: Concept,
    style: Concept,
    config: TrainConfig,
    processes: PartialState,
    analyser: FaceAnalyser | None,
) -> Iterator[Prepared]:
    """Encode the photos and build everything; leaves the models as they were."""
    person = config.subject_kind == "person"
    if person and analyser is None:
        analyser, _ = choose_analyser()
    generator = torch.Generator().manual_seed(config.seed)
    data = {concept.role: encode_concept(concept, models, flip=config.flip) for concept in (subject, style)}
    likeness: Likeness = FeatureLikeness(models)
    if person and analyser is not None:
        likeness = FaceLikeness(analyser, models.device)
    features = features_of(subject, likeness, models.device)
    start, note = starting_embeddings(models, config, features, likeness.name, style, generator)
    embeddings = nn.Parameter(start.to(models.device))
    latent_side = data["subject"].latents.shape[-1]
    with listen(models.unet, models.listened_side(latent_side, config), latent_side) as store:
        objective = Objective(
            models=models,
            config=config,
            prompts=TaskPrompts(models, embeddings, config.noun),
            subject=data["subject"],
            style=data["style"],
            likeness=likeness,
            subject_features=features,
            store=store,
            face_colour=shared_face_colour(style, models.vae_scale_factor) if person else None,
            lightness=wanted_lightness(subject, style) if person else None,
        )
        optimisation = Optimisation(
            objective=objective,
            config=config,
            embeddings=embeddings,
            weights=TrainedWeights(models, config),
            generator=generator,
            sizes=_sizes(objective),
            processes=processes,
            planner=Planner.of(models, config, objective.windows.side),
        )
        facts = RunFacts(
            config=config,
            model=models.name,
            family=models.family,
            model_fingerprint=fingerprint(models, objective.tiny),
            likeness=likeness.name,
            subject=data["subject"].digests,
            style=data["style"].digests,
        )
        try:
            yield Prepared(optimisation, facts, analyser if person else None, note)
        finally:
            optimisation.release()


def check_fit(models: ModelBundle, subject: Concept, style: Concept, config: TrainConfig) -> None:
    """Raise Problem for photos or settings that do not fit together or the model."""
    if subject.role != "subject" or style.role != "style":
        raise ValueError(f"expected a subject and a style, got a {subject.role} and a {style.role}")
    if subject.kind != config.subject_kind:
        raise Problem(
            _(
                "subject_kind is {wanted!r}, but the photos were prepared as {kind!r}. Prepare the photos again with "
                "the same kind.",
                wanted=config.subject_kind,
                kind=subject.kind,
            )
        )
    for concept in (subject, style):
        side = concept.examples[0].image.shape[-1]
        if side != config.resolution:
            raise Problem(
                _(
                    "resolution is {wanted}, but the {role} photos were prepared at {side}. Prepare the photos again "
                    "at the same resolution.",
                    wanted=config.resolution,
                    role=concept.role,
                    side=side,
                )
            )
    multiple = models.resolution_multiple
    if config.resolution % multiple:
        raise Problem(
            _(
                "resolution must be a multiple of {multiple} for this model, got {got}.",
                multiple=multiple, got=config.resolution,
            )
        )  # fmt: skip


def _sizes(objective: Objective) -> Sizes:
    _, channels, height, width = objective.subject.latents.shape
    return Sizes(
        subject=len(objective.subject),
        style=len(objective.style),
        prior=objective.config.prior_pictures,
        compared=len(objective.subject_features),
        latent=(channels, height, width),
        timesteps=len(objective.alphas_cumprod),
    )
