"""Finishing of a picture: super-resolution and face restoration, with the time and the notes of each stage."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from magicapture_core.config import PostprocessConfig, to_dict
from magicapture_core.faces import FaceAnalyser, choose_analyser
from magicapture_core.faces.protocol import check_pixels
from magicapture_core.gpu import has_gpu
from magicapture_core.languages import N_, _, n_
from magicapture_core.postprocess.networks import (
    RESTORER_WEIGHTS,
    RestorerNetwork,
    UpscalerNetwork,
    best_upscaler,
    restorer,
    upscaler,
)
from magicapture_core.postprocess.restoration import RestoredFace, restore_faces
from magicapture_core.postprocess.tiling import enlarge, resize
from magicapture_core.problems import Problem, ran_out_of_memory
from magicapture_core.progress import Progress
from magicapture_core.weights import WEIGHTS, find_weight


@dataclass(eq=False)
class Finished:
    """A finished portrait and what was done to it. All pictures are (h, w, 3) uint8 RGB."""

    pixels: np.ndarray
    stages: dict[str, np.ndarray]
    """Stage ("upscale", "restore") -> the picture after it, in order; stages that did nothing are left out."""
    seconds: dict[str, float]
    """Stage -> seconds, without loading; "load" is the time for loading networks."""
    faces: list[RestoredFace]
    notes: list[str]
    """For the user: what was not done and why; what the limit on the identity score (`identity_budget`) changed."""
    settings: dict[str, Any] = field(default_factory=dict)
    """The settings, for the file's metadata; plain JSON values."""


def finish(
    pixels: np.ndarray,
    config: PostprocessConfig,
    *,
    analyser: FaceAnalyser | None = None,
    identity: np.ndarray | None = None,
    device: torch.device | str | None = None,
    progress: Progress | None = None,
) -> Finished:
    """Super-resolve and restore `pixels` ((h, w, 3) uint8 RGB).

    analyser: finds and compares faces; None chooses one when it is needed. identity: the subject's (dim,) embedding, if
    known. device: None uses the GPU if there is one. progress: called with bytes of a download and with tiles; this
    function does not catch a StoppedError that it raises.
    Raises MissingFiles if weights that the config names cannot be downloaded, Problem if a file has other content.
    """
    check_pixels(pixels)
    work = _Work(pixels, config, torch.device(device or ("cuda" if has_gpu() else "cpu")), progress)
    begun = time.perf_counter()
    enlarger, restoring = work.upscaler(), work.restorer()
    work.done.seconds["load"] = time.perf_counter() - begun
    steps: list[Callable[[], None]] = [
        lambda: work.upscale(enlarger),
        lambda: work.restore(restoring, analyser, identity),
    ]
    try:
        for step in steps if config.order == "upscale_first" else reversed(steps):
            step()
    except (MemoryError, RuntimeError) as error:
        if not ran_out_of_memory(error):
            raise
        raise Problem(
            n_(
                "Memory does not hold a tile of {n} pixel. Set a smaller one (tile), or use the CPU.",
                "Memory does not hold a tile of {n} pixels. Set a smaller one (tile), or use the CPU.",
                config.tile,
            )
        ) from error
    work.done.settings = {"finish": {**to_dict(config), **work.used}}
    return work.done


NOT_ENLARGED = N_("The picture has {width}×{height} pixels and is not enlarged: max_side is {most}.")
LESS_ENLARGED = N_(
    "The picture has {width}×{height} pixels and is enlarged ×{factor:.2g} only: max_side is {most}."
)
CHANGED_THE_FACE = N_(
    "Restoration at full strength would have changed the face (identity {before:.2f} → {full:.2f}); it was blended in "
    "by {strength:.0%} (identity {after:.2f})."
)
CHANGED_A_FACE = N_(
    "Restoration at full strength would have changed face {number} of {count} (identity {before:.2f} → {full:.2f}); it "
    "was blended in by {strength:.0%} (identity {after:.2f})."
)


class _Work:
    """The state of one picture between the stages."""

    def __init__(
        self, pixels: np.ndarray, config: PostprocessConfig, device: torch.device, progress: Progress | None
    ) -> None:
        self.config, self.device = config, device
        self.done = Finished(pixels, {}, {}, [], [])
        self.used: dict[str, str] = {}
        self._progress = progress
        sides = pixels.shape[1], pixels.shape[0]
        factor = min(config.upscale, max(1.0, config.max_side / max(sides)))
        self.size = tuple(max(1, round(side * factor)) for side in sides)
        self.factor = factor
        if factor < config.upscale:
            note = NOT_ENLARGED if factor == 1 else LESS_ENLARGED
            width, height = sides
            self.done.notes.append(_(note, width=width, height=height, factor=factor, most=config.max_side))

    def say(self, what: str, done: float, total: float | None) -> None:
        if self._progress is not None:
            self._progress(what, done, total)

    def upscaler(self) -> UpscalerNetwork | None:
        """The network for super-resolution; None: plain interpolation, or no enlargement."""
        kind: str = self.config.upscaler
        if self.factor == 1 or self.config.upscale_strength == 0:
            return None
        if kind == "auto":
            kind = best_upscaler(self.factor, self.device)
            if kind == "lanczos":
                self.done.notes.append(
                    _(
                        "Enlarged plainly: no super-resolution weights are here. Get them with: {command}",
                        command="python -m magicapture_core weights get RealESRGAN_x2plus",
                    )
                )
        if kind == "lanczos":
            return None
        self.say(_("Loading super-resolution"), 0, None)
        return upscaler(kind, self.factor, self.device, self._download(_("Downloading super-resolution")))

    def restorer(self) -> RestorerNetwork | None:
        """The network for face restoration; None: no restoration."""
        kind: str = self.config.restore
        if kind == "auto":
            kind = "gfpgan" if find_weight(RESTORER_WEIGHTS["gfpgan"]) else "none"
            if kind == "none":
                entry = WEIGHTS[RESTORER_WEIGHTS["gfpgan"]]
                self.done.notes.append(
                    _(
                        "Faces were not restored: {file} ({size}) is not here. Get it with: {command}",
                        file=entry.filename,
                        size=entry.readable_size,
                        command=f"python -m magicapture_core weights get {entry.name}",
                    )
                )
        if kind == "none" or self.config.restore_strength == 0:
            return None
        self.say(_("Loading face restoration"), 0, None)
        return restorer(kind, self.device, self._download(_("Downloading face restoration")))

    def upscale(self, network: UpscalerNetwork | None) -> None:
        if self.factor == 1:
            return
        begun = time.perf_counter()
        before = self.done.pixels
        result = plain = resize(before, self.size)
        if network is not None:
            large = enlarge(
                before,
                network,
                tile=self.config.tile,
                margin=self.config.tile_margin,
                progress=self.say,
            )
            result = _mixed(plain, resize(large, self.size), self.config.upscale_strength)
        self.used["upscaled_with"] = network.name if network else "Lanczos"
        self._keep("upscale", result, begun)

    def restore(
        self, network: RestorerNetwork | None, analyser: FaceAnalyser | None, identity: np.ndarray | None
    ) -> None:
        if network is None:
            return
        begun = time.perf_counter()
        self.say(_("Face restoration"), 0, 1)
        result, faces = restore_faces(
            self.done.pixels,
            network,
            analyser or choose_analyser("auto")[0],
            fidelity=self.config.fidelity,
            strength=self.config.restore_strength,
            identity_budget=self.config.identity_budget,
            identity=identity,
        )
        self.done.faces = faces
        if not faces:
            self.done.notes.append(_("No face was found in the picture, so no face was restored."))
            return
        self.done.notes += [
            _guard_note(number, face, len(faces)) for number, face in enumerate(faces) if face.guarded
        ]
        self.used["restored_with"] = network.name
        self._keep("restore", result, begun)

    def _keep(self, stage: str, pixels: np.ndarray, begun: float) -> None:
        self.done.pixels = self.done.stages[stage] = pixels
        self.done.seconds[stage] = time.perf_counter() - begun
        self.say(_("Super-resolution") if stage == "upscale" else _("Face restoration"), 1, 1)

    def _download(self, what: str) -> Progress:
        """Reports a download with the purpose of the file: users do not know its name."""
        return lambda _file, done, total: self.say(what, done, total)


def _mixed(plain: np.ndarray, sharp: np.ndarray, strength: float) -> np.ndarray:
    if strength == 1:
        return sharp
    mixed: np.ndarray = np.clip(plain * (1 - strength) + sharp * strength + 0.5, 0, 255).astype(np.uint8)
    return mixed


def _guard_note(number: int, face: RestoredFace, count: int) -> str:
    return _(
        CHANGED_THE_FACE if count == 1 else CHANGED_A_FACE,
        number=number + 1,
        count=count,
        before=face.score_before,
        full=face.score_full,
        strength=face.strength,
        after=face.score_after,
    )
