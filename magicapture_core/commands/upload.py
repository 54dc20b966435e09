"""python -m magicapture_core upload: a run's adapter to a private repository of the Hugging Face hub."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from rich.markup import escape

from magicapture_core.commands.console import DONE, console


@dataclass
class Upload:
    """Keep a trained adapter in a private repository of the Hugging Face hub; never photos or face embeddings.

    Log in first: hf auth login, or HF_TOKEN.
    """

    trained: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN")]
    """The run folder."""
    to: str
    """The repository, "user/name". It is made, as a private one, if necessary."""
    consent: bool = False
    """The person on the photos agreed that the adapter is stored on the hub. Without it nothing is uploaded."""
    portraits: tuple[Path, ...] = ()
    """Portraits made by MagiCapture, to show in the repository, with their prompts."""

    def run(self) -> int:
        """Prints the repository's address."""
        from magicapture_core.sharing import upload_run

        address = upload_run(self.trained, self.to, consent=self.consent, portraits=self.portraits)
        console.print(f"Uploaded to {escape(address)}", soft_wrap=True)
        console.print(
            f"Use it: python -m magicapture_core generate --adapter {escape(self.to)} --out portraits"
        )
        return DONE
