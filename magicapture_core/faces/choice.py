"""Which variant of face analysis is used, and why."""

from __future__ import annotations

import os
import threading
from typing import Literal

import numpy as np
import torch

from magicapture_core.faces.align import align_in_photo
from magicapture_core.faces.protocol import Face, FaceAnalyser, check_pixels
from magicapture_core.languages import _
from magicapture_core.problems import Problem
from magicapture_core.weights import WEIGHTS, find_weight

Variant = Literal["auto", "bundled", "facexlib"]

# One file of each group makes facexlib complete: either parser will do.
FACEXLIB_WEIGHTS = (
    ("detection_Resnet50_Final",),
    ("parsing_bisenet", "parsing_parsenet"),
    ("recognition_arcface_ir_se50",),
)

_built: dict[str, FaceAnalyser] = {}
_building = threading.Lock()
_left_behind: list[FaceAnalyser] = []


def _build_anew() -> None:
    """In a forked process (ZeroGPU makes them): MediaPipe's threads did not come along, nor did whoever held the lock.

    The old analysers are kept: closing one would wait for its threads.
    """
    global _building
    _left_behind.extend(_built.values())
    _built.clear()
    _building = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_build_anew)


def choose_analyser(variant: Variant = "auto") -> tuple[FaceAnalyser, str]:
    """The analyser and one sentence for the user that says which one it is and why.

    "auto" takes facexlib, the paper's choice, where its three weight files are already here, and the bundled
    models otherwise; it never downloads. "facexlib" downloads what is missing (MissingFiles offline).
    Each variant is built once per process.
    """
    if variant == "bundled":
        return _build("bundled"), _(
            "Faces are analysed by the bundled models (MediaPipe and SFace), as asked."
        )
    if variant == "facexlib":
        return _build("facexlib"), _(
            "Faces are analysed by facexlib (RetinaFace, BiSeNet and ArcFace), as asked."
        )
    if variant != "auto":
        raise Problem(
            _("Unknown face analysis {variant}: expected auto, bundled or facexlib.", variant=repr(variant))
        )
    missing = [WEIGHTS[names[0]].filename for names in FACEXLIB_WEIGHTS if not any(map(find_weight, names))]
    if not missing:
        return _build("facexlib"), _(
            "Faces are analysed by facexlib (RetinaFace, BiSeNet and ArcFace, as in the paper), because its "
            "weight files are here."
        )
    return _build("bundled"), _(
        "Faces are analysed by the bundled models (MediaPipe and SFace), because facexlib's weight files are not here "
        "({files}).",
        files=", ".join(missing),
    )


def embed_face(analyser: FaceAnalyser, pixels: np.ndarray, face: Face) -> np.ndarray:
    """(dim,) float32 of unit norm: who the face in `pixels` ((h, w, 3) uint8 RGB) is, for `analyser`'s embedder."""
    check_pixels(pixels)
    with torch.no_grad():
        embedding = analyser.embedder()(align_in_photo(pixels, face.landmarks) / 255)
    result: np.ndarray = embedding[0].numpy()
    return result


def recognisability(analyser: FaceAnalyser, pixels: np.ndarray, face: Face) -> float:
    """Length of the embedding before its normalisation, larger than 0: how well the face can be recognised.

    pixels: (h, w, 3) uint8 RGB. Only values of the same embedder compare; one that normalises by itself always gives 1.
    """
    check_pixels(pixels)
    with torch.no_grad():
        features = analyser.embedder().features(align_in_photo(pixels, face.landmarks) / 255)
    return float(features.norm())


def _build(variant: Literal["bundled", "facexlib"]) -> FaceAnalyser:
    if variant == "facexlib" and variant not in _built:
        from magicapture_core.faces.facexlib_variant import fetch_weights

        fetch_weights()  # outside the lock: who wants the bundled models need not wait for a download
    with _building:
        if variant not in _built:
            if variant == "bundled":
                from magicapture_core.faces.bundled import BundledAnalyser

                _built[variant] = BundledAnalyser()
            else:
                from magicapture_core.faces.facexlib_variant import FacexlibAnalyser

                _built[variant] = FacexlibAnalyser()
        return _built[variant]
