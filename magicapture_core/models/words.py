"""What a model knows of faces and looks: a word for a person or a style, from photos and without any training.

A model that brings `words.safetensors` was trained on captions in which a word stood for the face embedding of the
picture (a person) or for its colours (a look). Two linear maps make such words of new photos. The file also holds how
the embeddings of the training's faces are spread, because a linear map knows nothing of what lies far outside.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from magicapture_core.files import read_tensors
from magicapture_core.languages import _
from magicapture_core.problems import Problem

FILE = "words.safetensors"
OUTER_CELLS = (0, 1, 2, 3, 4, 7, 8, 11, 12, 13, 14, 15)
"""Of a 4×4 grid, row by row: where the surroundings are, not the face."""
LOOK_SIDE = 32
LOOK_SIZE = 3 * len(OUTER_CELLS) + 2
TYPICAL = 0.8
"""Root mean square deviation, in standard deviations per principal direction, up to which a face stays as it is. The
training's own have 1 as photographed and .8 once cleaned."""
LEAST_KEPT = 0.5
"""Share of a deviation that is always kept: people who do not exist lose no likeness by it (assets/mini/README.md)."""


@dataclass(frozen=True, eq=False)
class Words:
    """Maps from photos to words of one model. All tensors float32 on the CPU; f numbers in a face embedding."""

    recogniser: str
    """Name of the face recognition whose embeddings the words are made of."""
    person_weight: Tensor
    """(width, f)."""
    person_bias: Tensor
    style_weight: Tensor
    """(width, 38)."""
    style_bias: Tensor
    look_mean: Tensor
    """(38,) of the training's look features."""
    look_std: Tensor
    face_mean: Tensor
    """(f,) of the training's unit face embeddings."""
    face_directions: Tensor
    """(k, f) their principal directions, of unit length."""
    face_spread: Tensor
    """(k,) standard deviations along them."""
    clean_weight: Tensor
    """(f, f): from the embedding of a face as photos show it, blurred, tinted, turned, behind glasses, to that of
    the same face in the training's pictures (ridge regression, `tools/mini`)."""
    clean_bias: Tensor

    def person(self, embeddings: Tensor) -> Tensor:
        """[V1] of a person: (n, f) face embeddings of their photos, of unit length → (width,)."""
        mean = F.normalize(embeddings.float().cpu().mean(0), dim=0)
        clean = F.normalize(self.clean_weight @ mean + self.clean_bias, dim=0)
        return self.person_weight @ self.within(clean) + self.person_bias

    def style(self, looks: Tensor) -> Tensor:
        """[V2] of a style: (n, 38) look features of its photos → (width,)."""
        look = (looks.float().cpu().mean(0) - self.look_mean) / self.look_std / LOOK_SIZE**0.5
        return self.style_weight @ look + self.style_bias

    def deviation(self, embedding: Tensor) -> float:
        """How far a face (f,) lies from the training's faces: 1 is usual, photos of real people have about 1.6."""
        along = self.face_directions @ (embedding - self.face_mean) / self.face_spread
        return float(along.square().mean().sqrt())

    def within(self, embedding: Tensor) -> Tensor:
        """The embedding pulled toward the training's mean as far as it lies outside, at most by LEAST_KEPT."""
        keep = min(1.0, max(LEAST_KEPT, TYPICAL / max(self.deviation(embedding), 1e-6)))
        return self.face_mean + keep * (embedding - self.face_mean)


def look_features(pictures: Tensor) -> Tensor:
    """What a picture's look is, in numbers: (b, 3, h, w) in [-1, 1] → (b, 38), in grey levels 0 to 255.

    The mean colours of the 12 outer cells of a 4×4 grid (row by row, RGB); then, at 32×32 pixels, the mean of
    (largest − smallest of RGB), which is how colourful it is, and the standard deviation of all values, its contrast.
    """
    levels = (pictures.float().clamp(-1, 1) + 1) * 127.5
    cells = F.interpolate(levels, size=(4, 4), mode="area").flatten(2)[:, :, list(OUTER_CELLS)]  # b 3 12
    small = F.interpolate(levels, size=(LOOK_SIDE, LOOK_SIDE), mode="area")
    colour = (small.amax(1) - small.amin(1)).mean((1, 2))
    contrast = small.flatten(1).std(1, correction=0)
    return torch.cat([cells.transpose(1, 2).flatten(1), colour[:, None], contrast[:, None]], dim=1)


def face_statistics(embeddings: Tensor) -> dict[str, Tensor]:
    """What `Words` must know of the training's faces: (n, f) unit embeddings, n much larger than f."""
    mean = embeddings.double().mean(0)
    covariance = torch.cov((embeddings.double() - mean).T)
    variances, directions = torch.linalg.eigh(covariance)
    return {
        "face_mean": mean.float(),
        "face_directions": directions.T.flip(0).contiguous().float(),
        "face_spread": variances.flip(0).clamp(min=1e-12).sqrt().float(),
    }


def save_words(file: Path, tensors: dict[str, Tensor], recogniser: str) -> None:
    """Write the fields of `Words` by their names."""
    from safetensors.torch import save_file

    save_file({name: value.contiguous() for name, value in tensors.items()}, file, {"recogniser": recogniser})


def read_words(folder: Path) -> Words | None:
    """The words of a model folder; None where it has none. Raises Problem for a damaged file."""
    from safetensors import safe_open

    file = folder / FILE
    if not file.is_file():
        return None
    tensors = {name: value.float() for name, value in read_tensors(file).items()}
    with safe_open(file, "pt") as content:
        recogniser = (content.metadata() or {}).get("recogniser", "")
    expected = {field.name for field in dataclasses.fields(Words)} - {"recogniser"}
    if set(tensors) != expected or not recogniser or not _shapes_fit(tensors):
        raise Problem(_("{file} does not hold what makes words of photos. Copy the model again.", file=file))
    return Words(recogniser, **tensors)


def _shapes_fit(tensors: dict[str, Tensor]) -> bool:
    width, faces = len(tensors["person_bias"]), len(tensors["face_mean"])
    directions = tensors["face_directions"].shape[0]
    expected = {
        "person_weight": (width, faces), "style_weight": (width, LOOK_SIZE), "style_bias": (width,),
        "look_mean": (LOOK_SIZE,), "look_std": (LOOK_SIZE,), "face_directions": (directions, faces),
        "face_spread": (directions,), "clean_weight": (faces, faces), "clean_bias": (faces,),
    }  # fmt: skip
    return all(tuple(tensors[name].shape) == shape for name, shape in expected.items())
