"""Passport-style photos in the step “Finish”: the format, the paper, the background, the checks, the sheet."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr

from magicapture_core.formats import PAPERS, REFUSED, SPECS, as_hex, background_colour, photo_spec
from magicapture_core.languages import N_, _
from magicapture_core.problems import Problem
from magicapture_core.ui import cards
from magicapture_core.ui.step import Step, Updates, told
from magicapture_core.ui.studio import Studio

FIRST = "icao"
"""The format that is chosen at first."""


class PassportSheets(Step):
    """What to print, and the photo with its checklist. The portrait is the one that the step finishes."""

    name = N_("Finish")

    def __init__(self, studio: Studio) -> None:
        super().__init__(studio)
        title = _("Passport-style photo")
        gr.HTML(f'<h3 class="mc-sub">{title}</h3><p class="mc-quiet">{_(REFUSED)}</p>')
        with gr.Row():
            self.spec = gr.Dropdown(
                [(_(spec.title), name) for name, spec in SPECS.items()], value=FIRST, label=_("Format"),
                min_width=220, elem_id="mc-spec",
            )  # fmt: skip
            self.paper = gr.Radio(
                [(_(paper.title), name) for name, paper in PAPERS.items()], value="10x15cm", label=_("Paper"),
                min_width=220, elem_id="mc-paper",
            )  # fmt: skip
        with gr.Row():
            self.replace = gr.Checkbox(
                True, label=_("Replace the background"), min_width=260, elem_id="mc-replace"
            )
            self.colour = gr.ColorPicker(
                as_hex(photo_spec(FIRST).background), label=_("Colour of the background"), min_width=220,
                info=_asked(FIRST), elem_id="mc-colour",
            )  # fmt: skip
        self.rule = gr.HTML(elem_id="mc-colour-rule")
        self.force = gr.Checkbox(
            False, label=_("Make the sheet even if a check fails; it will say so"), elem_id="mc-force"
        )
        self.make = gr.Button(_("Check and make the sheet"), elem_id="mc-sheet")
        self.sheet = gr.HTML(elem_id="mc-sheet-result")

    @told(name)
    def choose_format(self, spec: str) -> Updates:
        """Another format: its own colour, until somebody chooses another."""
        colour = as_hex(photo_spec(spec).background)
        return {self.colour: gr.ColorPicker(colour, info=_asked(spec)), self.rule: "", self.sheet: ""}

    @told(name)
    def choose_background(self, spec: str, replace: bool, colour: str) -> Updates:
        """Another colour, or the portrait's own background: say so where the format does not permit it."""
        said = ""
        if replace and not photo_spec(spec).permits(_colour(colour)):
            said = cards.note(
                _(
                    "{format} asks for a background that is {asked}. A photo with this colour fails its check.",
                    format=_(photo_spec(spec).title),
                    asked=_(photo_spec(spec).background_words),
                ),
                "warn",
            )
        return {self.rule: said, self.sheet: ""}

    @told(name)
    def make_sheet(
        self, key: str, chosen: str | None, spec: str, paper: str, replace: bool, colour: str, force: bool
    ) -> Updates:
        """Crop, check, and lay out the chosen portrait."""
        background = as_hex(_colour(colour)) if replace else None
        made = self.studio.sheets.make(key, chosen, spec, paper, background=background, force=bool(force))
        return {self.sheet: _sheet(made, _(SPECS[spec].title))}

    @told(name)
    def forget_sheet(self) -> Updates:
        """Hide the sheet: something else was chosen."""
        return {self.sheet: ""}


def _asked(spec: str) -> str:
    """What a format says of the background."""
    return _("Asked for: {background}.", background=_(photo_spec(spec).background_words))


def _colour(chosen: str) -> tuple[int, int, int]:
    if not isinstance(chosen, str):
        raise Problem(_("Choose a colour for the background."))
    return background_colour(chosen)


def _sheet(made: dict[str, Any], title: str) -> str:
    """The photo, and beside it what was checked."""
    rows = "".join(
        f"<tr><td>{_mark(check)}</td><th>{escape(_(check.title))}</th><td>{escape(check.value)}</td>"
        f"<td>{escape(check.wanted)}</td></tr>"
        for check in made["checks"]
    )
    failed = [check for check in made["checks"] if check.required and check.passed is False]
    said = cards.note(_("All checks for {format} passed.", format=title), "good")
    if failed:
        advice = "\n".join(
            _("{check}: {value}. {advice}", check=_(check.title), value=check.value, advice=_(check.advice))
            for check in failed
        )
        said = cards.note(advice, "bad")
    alt = escape(_("The photo, cut to {format}", format=title), quote=True)
    return (
        f'{said}<div class="mc-detail"><div><img src="{cards.address(made["photo"])}" alt="{alt}">'
        f'{_downloads(made["files"])}</div><div><table class="mc-checks"><thead><tr><th></th><th>{_("Check")}</th>'
        f"<th>{_('Measured')}</th><th>{_('Asked for')}</th></tr></thead><tbody>{rows}</tbody></table></div></div>"
    )


def _mark(check: Any) -> str:
    if check.passed is None:
        return f'<span title="{escape(_("Cannot be measured"), quote=True)}">?</span>'
    if check.passed:
        return f'<span class="mc-badge mc-good">{_("Pass")}</span>'
    kind, word = ("bad", _("Fail")) if check.required else ("fair", _("Note"))
    return f'<span class="mc-badge mc-{kind}">{word}</span>'


def _downloads(files: Sequence[Path]) -> str:
    if not files:
        return f'<p class="mc-quiet">{_("No sheet was made: a required check failed.")}</p>'
    return "".join(
        f'<a class="mc-link" href="{cards.address(path)}" download="passport-style-sheet{path.suffix}">'
        f"{_('Download the sheet ({kind})', kind=path.suffix[1:].upper())}</a>"
        for path in files
    )
