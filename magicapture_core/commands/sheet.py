"""python -m magicapture_core sheet: a passport-style photo, checked, on a sheet to print."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro
from rich.markup import escape

from magicapture_core.commands.console import BAD_INPUT, DONE, console
from magicapture_core.commands.signing import Signing
from magicapture_core.formats import REFUSED, background_colour, paper, photo_spec
from magicapture_core.problems import Problem

if TYPE_CHECKING:
    from magicapture_core.formats.passport import PassportPhoto


@dataclass
class Sheet:
    """Make a sheet of passport-style photos. Many authorities refuse generated photos: ask yours first."""

    picture: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="PICTURE")]
    """The portrait."""
    out: Path
    """File to write: .pdf, .png or .jpg."""
    spec: str = "icao"
    """icao, us, schengen, uk, india, india-passport, china, japan, canada, australia or korea."""
    paper: Literal["10x15cm", "4x6in", "a4"] = "10x15cm"
    """Paper to print on."""
    keep_background: bool = False
    """Keep the background, instead of replacing it with the required colour."""
    background: str | None = None
    """Colour of the background, for example "#dde3ea" or white. Default: what the specification asks for."""
    json: bool = False
    """Print the checklist as JSON instead of a table."""
    force: bool = False
    """Write the sheet even if a required check fails; it then says so, and the exit code stays 1."""
    private: bool = False
    """Leave the prompt out of the file. It is marked as generated in any case."""
    signing: tyro.conf.OmitArgPrefixes[Signing] = field(default_factory=Signing)

    def run(self) -> int:
        """Exits 1 if a required check fails."""
        from magicapture_core.formats.passport import make_passport_photo
        from magicapture_core.formats.sheet import SUFFIXES, write_sheet
        from magicapture_core.photos import read_photo
        from magicapture_core.provenance import read_provenance

        if self.out.suffix.lower() not in SUFFIXES:  # before the work, not after it
            raise Problem(f"--out must end in {', '.join(SUFFIXES)}; got {self.out.name!r}.")
        signer = self.signing.signer()
        if signer is not None and self.out.suffix.lower() == ".pdf":
            raise Problem(
                "PDF sheets cannot be signed by C2PA here: choose --out with .png or .jpg, or do not sign."
            )
        spec = photo_spec(self.spec)
        colour = None if self.background is None else background_colour(self.background)
        if colour is not None and self.keep_background:
            raise Problem("Give --background or --keep-background, one of the two.")
        photo = make_passport_photo(
            read_photo(self.picture).pixels, spec, replace=not self.keep_background, background=colour
        )
        write = photo.passed or self.force
        if write:
            said = read_provenance(self.picture)
            write_sheet(
                photo, paper(self.paper), self.out, prompt=said.prompt, seed=said.seed, settings=said.settings,
                private=self.private,
            )  # fmt: skip
            if signer is not None:
                signer.sign(self.out)
        if self.json:
            print(json.dumps(self._facts(photo, write), indent=2, ensure_ascii=False))
        else:
            self._show(photo, write)
        return DONE if photo.passed else BAD_INPUT

    def _facts(self, photo: PassportPhoto, written: bool) -> dict[str, object]:
        return {
            "picture": str(self.picture),
            "spec": photo.spec.name,
            "source": photo.spec.source,
            "paper": self.paper,
            "passed": photo.passed,
            "written": str(self.out) if written else None,
            "notice": REFUSED,
            "checks": [check.to_dict() for check in photo.checks],
        }

    def _show(self, photo: PassportPhoto, written: bool) -> None:
        from rich.table import Table

        table = Table("", "Check", "Measured", "Asked for", title=f"{photo.spec.title} ({photo.spec.source})")
        for check in photo.checks:
            mark = {True: "[green]pass[/]", False: "[red]FAIL[/]", None: "?"}[check.passed]
            if check.passed is False and not check.required:
                mark = "[yellow]note[/]"
            table.add_row(mark, check.title, escape(check.value), escape(check.wanted))
        console.print(table)
        for check in photo.failed:
            console.print(f"[red]{check.title}[/]: {check.value}. {check.advice}", soft_wrap=True)
        console.print(f"[yellow]Note[/] {REFUSED}", soft_wrap=True)
        if written:
            console.print(escape(str(self.out)), soft_wrap=True)
        else:
            console.print("The sheet was not written. Use another portrait, or --force.")
