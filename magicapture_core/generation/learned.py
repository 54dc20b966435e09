"""What portraits are generated from: a trained run, or, for drafts, embeddings that the model computes from photos."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from magicapture_core.adapters.embeddings import read_embeddings
from magicapture_core.adapters.files import has_weights
from magicapture_core.checkpoints import Run
from magicapture_core.concepts import Concept
from magicapture_core.faces import FaceAnalyser, align, choose_analyser
from magicapture_core.languages import _
from magicapture_core.models import ModelBundle
from magicapture_core.models.fingerprint import is_of
from magicapture_core.models.words import look_features
from magicapture_core.problems import Problem


@dataclass(frozen=True, eq=False)
class Learned:
    """The two embeddings, the adapter's folder, and the subject's face embedding for scores."""

    embeddings: Tensor
    """(2, width) of [V1] and [V2]."""
    noun: str
    """What the subject is called in prompts: "person", "old woman", "object"."""
    resolution: int
    """Side of the pictures, where nobody asks for another."""
    attention_per_pixel: float
    """Side of the attention maps that are listened to, for each pixel of the pictures' side."""
    adapter: Path | None = None
    """Folder of the trained weights; None where there are none."""
    analyser: FaceAnalyser | None = None
    identity: Tensor | None = None
    """(dim,) the subject's mean embedding, by `analyser`'s network; None: no scores."""
    warnings: tuple[str, ...] = ()

    @classmethod
    def from_run(cls, run: Run, models: ModelBundle, analyser: FaceAnalyser | None) -> Learned:
        """Raises RunProblem for a run that has saved nothing or does not fit the model."""
        facts = run.facts()
        warnings = []
        if facts.model != models.name and not is_of(facts.model_fingerprint, models):
            warnings.append(
                _(
                    "The run was trained on {trained_on} and is used with {used}: a likeness is only to be expected "
                    "between closely related models.",
                    trained_on=facts.model, used=models.name,
                )
            )  # fmt: skip
        identity, analyser, said = _identity(run, analyser)
        config = facts.config
        return cls(
            embeddings=read_embeddings(models, run.adapter),
            noun=config.noun,
            resolution=models.drawn_side(config.resolution),
            attention_per_pixel=config.attention_side / config.resolution,
            adapter=run.adapter if has_weights(run.adapter) else None,
            analyser=analyser,
            identity=identity,
            warnings=(*warnings, *said),
        )

    @classmethod
    def from_photos(
        cls,
        models: ModelBundle,
        subject: Concept,
        style: Concept,
        analyser: FaceAnalyser,
        noun: str = "person",
    ) -> Learned:
        """For drafts: embeddings that `models` computes from photos. Raises Problem if it cannot."""
        words = models.words
        if words is None:
            raise Problem(
                _(
                    "{model} cannot make drafts: it brings no words.safetensors, with which words are made of photos. "
                    "The built-in model does: --model mini.",
                    model=models.name,
                )
            )
        embedder = analyser.embedder()
        if embedder.name != words.recogniser:
            raise Problem(
                _(
                    "Drafts need the face recognition {needed}, but faces are compared by {ours} here. Choose the "
                    "bundled face networks.",
                    needed=words.recogniser, ours=embedder.name,
                )
            )  # fmt: skip
        if subject.kind != "person":
            raise Problem(_("Drafts are made of people only. An object has to be trained."))
        vectors = [
            embedder(align(example.image[None] / 2 + 0.5, example.landmarks[None]))
            for example in subject.examples
            if example.landmarks is not None
        ]
        if not vectors:
            raise Problem(
                _("No face was found in the photos, so there is no draft. Add a photo with a clear face.")
            )
        faces = torch.cat(vectors)
        looks = look_features(torch.stack([example.image for example in style.examples]))
        resolution = subject.examples[0].image.shape[-1]
        return cls(
            embeddings=torch.stack([words.person(faces), words.style(looks)]),
            noun=noun,
            resolution=resolution,
            attention_per_pixel=1 / 32,
            analyser=analyser,
            identity=F.normalize(faces.mean(0), dim=0),
        )


def _identity(
    run: Run, analyser: FaceAnalyser | None
) -> tuple[Tensor | None, FaceAnalyser | None, list[str]]:
    """The subject's embedding and the analyser for scores; both None, with the reason, if scores are not possible."""
    stored = run.identity()
    if stored is None:
        return None, None, []
    mean, name = stored
    analyser = analyser or choose_analyser("auto")[0]
    ours = analyser.embedder().name
    if ours != name:
        return None, None, [
            _(
                "Portraits are not scored: the run knows the subject by {trained}, and faces are compared by {ours} "
                "here. Choose the face variant that the run was trained with.",
                trained=name, ours=ours,
            )
        ]  # fmt: skip
    return mean, analyser, []
