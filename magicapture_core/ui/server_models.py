"""Which models can be chosen, what is known of them without loading them, and the one that is loaded."""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from magicapture_core.config import Framing, TrainConfig
from magicapture_core.languages import N_, _
from magicapture_core.problems import Problem
from magicapture_core.progress import Progress, StoppedError, share
from magicapture_core.schedules import Schedules, fitting_schedules, scheduled_config, usual_schedule
from magicapture_core.ui.hardware import gpu_gigabytes
from magicapture_core.ui.lent_gpu import Told, lending
from magicapture_core.weights import ASSETS

if TYPE_CHECKING:
    from magicapture_core.models import ModelBundle
    from magicapture_core.ui.stored_session import Session

SD15 = "stable-diffusion-v1-5/stable-diffusion-v1-5"
SDXL = "stabilityai/stable-diffusion-xl-base-1.0"
TITLES = {
    "mini": N_("Mini (built in)"),
    SD15: N_("Stable Diffusion 1.5 (as in the paper)"),
    SDXL: N_("Stable Diffusion XL"),
}
XL_FROM = 12.0
"""GB of a graphics card from which Stable Diffusion XL is offered: it trains there at 768 pixels (docs/sdxl.md)."""
CUSTOM = "custom"
"""Not a schedule: the form's values, as the visitor changed them."""
XL_KEY = b"conditioner.embedders.1.model."
MOST_HEADER = 10_000_000
"""Bytes of a .safetensors file's header that are read."""
PATIENCE = 3
"""Samples without a rise of likeness after which a training stops by itself."""
SMALL = 500e6
"""Bytes of weights up to which a model runs on any computer."""


@dataclass(frozen=True)
class ModelFacts:
    """A model, as far as its small files tell."""

    name: str
    title: str
    needs: str
    """What it needs, for people."""
    resolution: int
    schedules: Schedules = field(default_factory=dict)
    """Its own ones; empty: it has none."""
    generate: Mapping[str, Any] = field(default_factory=dict)
    edits: tuple[str, ...] = ()
    """What to offer for adding to a prompt, where the model knows few words; else empty."""
    framing: Framing = "photo"
    """How photos are cut for it."""
    measurable: bool = False
    """Whether a step of training takes seconds at most here, and nothing must be downloaded for it."""
    vocabulary: frozenset[str] = frozenset()
    """Every word that it knows, where these are few; else empty."""
    drafts: bool = False
    """Whether it makes drafts by itself; otherwise the mini model does."""

    def schedule_names(self) -> list[str]:
        """What to choose from, the best to begin with first."""
        return [*fitting_schedules(self.schedules), CUSTOM]

    def config(
        self, schedule: str, preset: str | None = None, own: Mapping[str, Any] | None = None
    ) -> TrainConfig:
        """Settings of a schedule: the model's, then the preset's, then the visitor's own."""
        if schedule not in self.schedule_names():
            raise Problem(
                _(
                    "The schedule must be one of {known}, got {got!r}.",
                    known=", ".join(self.schedule_names()),
                    got=schedule,
                )
            )
        style: Mapping[str, Any] = {}
        if preset:
            from magicapture_core.presets import load_preset  # imports torch: not before it is needed

            style = load_preset(preset).overrides
        start = usual_schedule(self.schedules) if schedule == CUSTOM else schedule
        plain = scheduled_config(start, self.schedules, self.resolution, style)
        return scheduled_config(start, self.schedules, self.resolution, style, _watched(plain), own or {})


class ServerModels:
    """The models of this server. At most one is in memory."""

    def __init__(self, default: str | None, *, any_model: bool) -> None:
        self.default = default or self._usual()
        self.any_model = any_model
        """Whether visitors may name folders and hub ids; only where they are the machine's own people."""
        self._lock = threading.Lock()
        self._loaded: tuple[str, ModelBundle] | None = None
        self._standing: tuple[str, ModelBundle] | None = None
        """On the GPU that a Space lends, whenever it does."""

    def choices(self) -> list[tuple[str, str]]:
        """(title, name) of the models to choose from."""
        return [(self.facts(name).title, name) for name in self._offered()]

    def _offered(self) -> list[str]:
        large = [SDXL] if gpu_gigabytes() >= XL_FROM or lending() else []
        names = list(dict.fromkeys([self.default, "mini", SD15, *large]))
        if not (ASSETS / "mini" / "model_index.json").is_file() and self.default != "mini":
            names.remove("mini")
        return names

    def checked(self, name: str | None) -> str:
        """The name, or the default for None. Raises Problem if visitors may not choose it."""
        name = (name or "").strip() or self.default
        offered = self._offered()
        if self.any_model or name in offered:
            return name
        raise Problem(_("This server offers only these models: {known}.", known=", ".join(offered)))

    def of(self, session: Session) -> str:
        """The model that a session chose; the default where it chose none, or one that is no longer offered."""
        chosen = session.model
        return chosen if chosen and (self.any_model or chosen in self._offered()) else self.default

    def facts(self, name: str) -> ModelFacts:
        """What is known without loading. Never raises: loading says what is wrong."""
        folder = ASSETS / "mini" if name == "mini" else Path(name).expanduser()
        large = name == SDXL or is_xl(folder)
        resolution = 1024 if large else 512
        settings: dict[str, Any] = {}
        try:
            unet = json.loads((folder / "unet" / "config.json").read_text(encoding="utf-8"))
            vae = json.loads((folder / "vae" / "config.json").read_text(encoding="utf-8"))
            resolution = int(unet["sample_size"]) * 2 ** (len(vae["block_out_channels"]) - 1)
            if (folder / "magicapture.json").is_file():
                settings = json.loads((folder / "magicapture.json").read_text(encoding="utf-8"))
        except (OSError, ValueError, KeyError, TypeError):
            pass
        needs = _xl_needs(folder, resolution) if large else _needs(name, folder, resolution)
        title = _(TITLES[name]) if name in TITLES else Path(name).name
        return ModelFacts(
            name, title, needs, resolution, settings.get("schedules", {}),
            settings.get("generate", {}), tuple(settings.get("edits", ())), settings.get("framing", "photo"),
            _measurable(folder), frozenset(settings.get("vocabulary", ())), (folder / "words.safetensors").is_file(),
        )  # fmt: skip

    def load(self, name: str, job: Told) -> ModelBundle:
        """The model, loaded (and downloaded) if another one was. Raises Problem if it cannot be.

        job: is told how it goes on; once it is to stop, a download ends with StoppedError.
        """
        from magicapture_core.models import load

        if self.stands(name) and self._standing is not None:
            return self._standing[1]
        with self._lock:
            job.say(_("Loading the model"))
            if self._loaded is None or self._loaded[0] != name:
                self._loaded = None  # let go of the old one first: two may not fit into memory
                self._loaded = (name, load(name, progress=_downloading(job)))
            return self._loaded[1]

    def stand(self) -> None:
        """Put the default model onto the GPU that a Space lends, before it lends any. Raises Problem as `load` does.

        Call it in the main thread, before the page is served: in that thread alone the package `spaces` emulates CUDA.
        When the page is served, it moves the weights to a file, from which every lent process gets them.
        """
        from magicapture_core.models import load

        self._standing = (self.default, load(self.default, device="cuda"))

    def stands(self, name: str) -> bool:
        """Whether a lent process has this model on its GPU from the beginning."""
        return self._standing is not None and self._standing[0] == name

    def begin_anew(self) -> None:
        """In a forked process, where whoever held the lock does not live on."""
        self._lock = threading.Lock()

    def fetch(self, name: str, job: Told) -> None:
        """Download the model if it is not here, for a lent GPU: its seconds are not for that."""
        if self.stands(name):  # and its files may be gone: `spaces` deletes what it has moved
            return
        import torch

        from magicapture_core.models import fetch

        fetch(name, dtype=torch.bfloat16, progress=_downloading(job))

    def _usual(self) -> str:
        """The mini model without a GPU, else SD 1.5; torch is not asked before it is needed."""
        import shutil

        return SD15 if shutil.which("nvidia-smi") or lending() else "mini"


def _downloading(job: Told) -> Progress:
    def progress(_what: str, here: float, total: float | None) -> None:
        if job.stopping:
            raise StoppedError
        job.say(
            _("Downloading the model, once: {here} of {total}", here=_bytes(here), total=_bytes(total))
            if total
            else _("Downloading the model, once: {here}", here=_bytes(here)),
            share(here, total),
        )

    return progress


def _needs(name: str, path: Path, resolution: int) -> str:
    """In words. Stable Diffusion 1.5's size at 512 pixels, as counted: 6 GB on a card of 8, 17 GB where nothing is
    computed again; as measured with version 0.2.0: 5.5 and 18 GB on an H100, 10.1 GB on a CPU (docs/gpu.md,
    CONTRIBUTING.md)."""
    weights = _weights(path)
    if 0 < weights < SMALL:
        return _small(name, weights, resolution)
    if not weights:
        return _(
            "Faces of {side}×{side} pixels. Downloads 2 to 4 GB once, which stay on the disk. Wants a graphics card "
            "with 8 GB of memory (as counted; none that small has been tried), better 20; without one it needs 11 GB "
            "of main memory, and days.",
            side=resolution,
        )
    return _(
        "Faces of {side}×{side} pixels. {size} on the disk. Wants a graphics card with 8 GB of memory (as counted; "
        "none that small has been tried), better 20; without one it needs 11 GB of main memory, and days.",
        side=resolution,
        size=_bytes(weights),
    )


def _xl_needs(path: Path, resolution: int) -> str:
    """In words, for Stable Diffusion XL. Counted for the published model, not measured yet (docs/sdxl.md)."""
    weights = _weights(path)
    if 0 < weights < SMALL:
        return _small("", weights, resolution)
    if not weights:
        return _(
            "Faces of {side}×{side} pixels. Downloads 7 to 14 GB once, which stay on the disk. Should have a graphics "
            "card with 16 GB of memory, better 24; with 12 GB set the resolution to 768 (Advanced). Without a card it "
            "needs 24 GB of main memory, and weeks.",
            side=resolution,
        )
    return _(
        "Faces of {side}×{side} pixels. {size} on the disk. Should have a graphics card with 16 GB of memory, better "
        "24; with 12 GB set the resolution to 768 (Advanced). Without a card it needs 24 GB of main memory, and weeks.",
        side=resolution,
        size=_bytes(weights),
    )


def _small(name: str, weights: int, resolution: int) -> str:
    if name == "mini":
        return _(
            "Faces of {side}×{side} pixels, to try everything out. Built in: nothing to download. Needs 2 GB of "
            "memory; runs on any computer.",
            side=resolution,
        )
    return _(
        "Faces of {side}×{side} pixels, {size} on the disk. Needs 2 GB of memory; runs on any computer.",
        side=resolution,
        size=_bytes(weights),
    )


def is_xl(path: Path) -> bool:
    """Whether a folder or file on this computer is a Stable Diffusion XL, by its index or the names in its header."""
    try:
        if path.is_file():
            with path.open("rb") as file:
                size = int.from_bytes(file.read(8), "little")
                return XL_KEY in file.read(min(size, MOST_HEADER))
        index = json.loads((path / "model_index.json").read_text(encoding="utf-8"))
        return str(index.get("_class_name")).startswith("StableDiffusionXL")
    except (OSError, ValueError, AttributeError):
        return False


def _watched(config: TrainConfig) -> dict[str, Any]:
    """What the page adds to a schedule: it shows a sample and the attention now and then, keeps the best, and stops by
    itself."""
    often = max(10, (config.lora_steps or config.ti_steps) // 10)
    return {
        "sample_every": min(config.sample_every, often), "attention_every": min(config.attention_every, often),
        "sample_pictures": 2, "keep_best": True, "stop_when_settled": PATIENCE,
    }  # fmt: skip


def _measurable(folder: Path) -> bool:
    import shutil

    weights = _weights(folder)
    return 0 < weights < SMALL or (weights > 0 and shutil.which("nvidia-smi") is not None)


def _weights(path: Path) -> int:
    """Bytes of a model's weights on this computer; 0 where it is not here."""
    try:
        if path.is_file():
            return path.stat().st_size
        return sum(file.stat().st_size for file in path.glob("*/*.safetensors"))
    except OSError:
        return 0


def _bytes(count: float) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{max(1, round(count / 1e6))} MB"
