"""python -m magicapture_core export: a run's adapter for other programs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro
from rich.markup import escape

from magicapture_core.commands.console import DONE, console


@dataclass
class Export:
    """Write the adapter for other programs."""

    trained: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN")]
    """The run folder."""
    out: Path
    """Folder for the files."""
    format: Literal["diffusers", "kohya"] = "diffusers"
    """diffusers, or kohya: as A1111 and ComfyUI expect it."""
    adapter_scale: float | None = None
    """Strength of the LoRA weights that README.md tells to use, 0 to 2. Default: the one that suits the model."""

    def run(self) -> int:
        """Prints each file written."""
        from magicapture_core.export import export_run

        for path in export_run(self.trained, self.format, self.out, adapter_scale=self.adapter_scale):
            console.print(escape(str(path)))
        return DONE
