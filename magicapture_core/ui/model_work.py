"""Which models can be chosen, what is known of them without loading them, and the one that is loaded."""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from magicapture_core.config import TrainConfig, from_dict
from magicapture_core.problems import Problem
from magicapture_core.weights import ASSETS

if TYPE_CHECKING:
    from magicapture_core.models import ModelBundle

SD15 = "stable-diffusion-v1-5/stable-diffusion-v1-5"
SCHEDULE_TITLES = {"quick": "Quick", "paper": "Paper", "custom": "Custom"}


@dataclass(frozen=True)
class ModelFacts:
    """A model, as far as its small files tell."""

    name: str
    title: str
    needs: str
    """What it needs, for people."""
    resolution: int
    schedules: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    generate: Mapping[str, Any] = field(default_factory=dict)

    def schedule_names(self) -> list[str]:
        """What to choose from, the best to begin with first."""
        return [*(name for name in self.schedules if name != "paper"), "paper", "custom"]

    def config(
        self, schedule: str, preset: str | None = None, own: Mapping[str, Any] | None = None
    ) -> TrainConfig:
        """Settings of a schedule: the model's, then the preset's, then the visitor's own."""
        if schedule not in self.schedule_names():
            raise Problem(
                f"The schedule must be one of {', '.join(self.schedule_names())}, got {schedule!r}."
            )
        values = {"resolution": self.resolution, **self.schedules.get(schedule, {})}
        if preset:
            from magicapture_core.presets import load_preset  # imports torch: not before it is needed

            values |= load_preset(preset).overrides
        return from_dict(TrainConfig, {**values, **(own or {})})


class ModelWork:
    """The models of this server. At most one is in memory."""

    def __init__(self, default: str | None, *, any_model: bool) -> None:
        self.default = default or self._usual()
        self.any_model = any_model
        """Whether visitors may name folders and hub ids; only where they are the machine's own people."""
        self._lock = threading.Lock()
        self._loaded: tuple[str, ModelBundle] | None = None

    def choices(self) -> list[tuple[str, str]]:
        """(title, name) of the models to choose from."""
        names = list(dict.fromkeys([self.default, "mini", SD15]))
        if not (ASSETS / "mini" / "model_index.json").is_file() and self.default != "mini":
            names.remove("mini")
        return [(self.facts(name).title, name) for name in names]

    def checked(self, name: str | None) -> str:
        """The name, or the default for None. Raises Problem if visitors may not choose it."""
        name = (name or "").strip() or self.default
        if self.any_model or name in [known for _, known in self.choices()]:
            return name
        raise Problem(
            f"This server offers only these models: {', '.join(known for _, known in self.choices())}."
        )

    def facts(self, name: str) -> ModelFacts:
        """What is known without loading. Never raises: loading says what is wrong."""
        folder = ASSETS / "mini" if name == "mini" else Path(name).expanduser()
        resolution = 512
        settings: dict[str, Any] = {}
        try:
            unet = json.loads((folder / "unet" / "config.json").read_text(encoding="utf-8"))
            vae = json.loads((folder / "vae" / "config.json").read_text(encoding="utf-8"))
            resolution = int(unet["sample_size"]) * 2 ** (len(vae["block_out_channels"]) - 1)
            if (folder / "magicapture.json").is_file():
                settings = json.loads((folder / "magicapture.json").read_text(encoding="utf-8"))
        except (OSError, ValueError, KeyError, TypeError):
            pass
        title = {
            "mini": "Mini (comes with MagiCapture, works everywhere)",
            SD15: "Stable Diffusion 1.5 (the paper's)",
        }.get(name, Path(name).name)
        needs = {
            "mini": f"Small faces of {resolution}×{resolution} pixels, to try everything out. Nothing to download; "
            "runs on any computer.",
            SD15: "512×512 pixels. Downloads 2 to 4 GB once. Wants a GPU with 8 GB of memory; without one a "
            "training takes days.",
        }.get(name, f"{resolution}×{resolution} pixels.")
        return ModelFacts(
            name, title, needs, resolution, settings.get("schedules", {}), settings.get("generate", {})
        )

    def load(self, name: str) -> ModelBundle:
        """The model, loaded if another one was. Raises Problem if it cannot be."""
        from magicapture_core.models import load

        with self._lock:
            if self._loaded is None or self._loaded[0] != name:
                self._loaded = None  # let go of the old one first: two may not fit into memory
                self._loaded = (name, load(name))
            return self._loaded[1]

    def _usual(self) -> str:
        """The mini model without a GPU, else SD 1.5; torch is not asked before it is needed."""
        import shutil

        return SD15 if shutil.which("nvidia-smi") else "mini"
