"""Step 6: make a portrait sharp and large, and print it."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr

from magicapture_core.config import PostprocessConfig
from magicapture_core.formats.specs import PAPERS, REFUSED, SPECS
from magicapture_core.problems import Problem
from magicapture_core.ui import cards, likeness
from magicapture_core.ui.finishing_jobs import UPSCALES
from magicapture_core.ui.portrait_cards import large, portrait_cards
from magicapture_core.ui.session_portraits import in_order
from magicapture_core.ui.settings import help_texts
from magicapture_core.ui.step import Step, Updates, told
from magicapture_core.ui.stored_session import Session
from magicapture_core.ui.studio import Studio

RESTORERS = {"gfpgan": "GFPGAN", "codeformer": "CodeFormer (non-commercial use only)"}
NO_RESTORERS = "Faces are not restored here: this server has none of the programs for it."


class FinishStep(Step):
    """Before and after, restoration controls, formats with their checklist, sheets."""

    name = "Finish"

    def __init__(self, studio: Studio) -> None:
        super().__init__(studio)
        default, texts = PostprocessConfig(), help_texts(PostprocessConfig)
        gr.HTML(
            cards.heading(
                "Finish and print", "Make a portrait larger and sharper, then print it in a passport format."
            )
        )
        self.timer = gr.Timer(1.0, active=False)
        self.chosen = gr.State(None)
        self.gallery = gr.HTML(js_on_load=cards.CLICKS, elem_id="mc-finish-gallery")
        self.large = gr.HTML(js_on_load=cards.INTO_VIEW, elem_id="mc-finish-large")
        with gr.Row():
            self.upscale = gr.Radio(
                [(f"×{factor}", factor) for factor in UPSCALES], value=int(default.upscale), label="Size",
                min_width=180, elem_id="mc-upscale",
            )  # fmt: skip
            self.restore = gr.Radio(
                [("None", "none")], value="none", label="Restore the face with", min_width=320, elem_id="mc-restore",
            )  # fmt: skip
        with gr.Row():
            self.strength = gr.Slider(
                0, 1, value=default.restore_strength, step=0.05, label="Strength of restoration", min_width=200,
                info="Upper limit; gentler where it would change the face.", elem_id="mc-restore-strength",
            )  # fmt: skip
            self.fidelity = gr.Slider(
                0, 1, value=default.fidelity, step=0.05, label="Fidelity", min_width=200, visible=False,
                info=texts["fidelity"], elem_id="mc-fidelity",
            )  # fmt: skip
        with gr.Row(elem_classes="mc-buttons"):
            self.start = gr.Button("Finish this portrait", variant="primary", size="lg", elem_id="mc-finish")
            self.all = gr.Button("Finish all", visible=False, size="lg", elem_id="mc-finish-all")
            self.stop = gr.Button("Stop", visible=False, min_width=120, elem_id="mc-finish-stop")
        self.progress = gr.HTML(elem_id="mc-finish-progress")
        self.compare = gr.ImageSlider(
            type="filepath", label="Before and after", visible=False, interactive=False, max_height=640,
            buttons=["fullscreen"], elem_id="mc-compare",
        )  # fmt: skip
        self.report = gr.HTML(elem_id="mc-finish-report")
        with gr.Row(elem_classes="mc-buttons"):
            self.archive = gr.DownloadButton(
                "Download all finished (zip)", visible=False, elem_id="mc-finish-archive"
            )
        self._formats()

    def _formats(self) -> None:
        gr.HTML(f'<h3 class="mc-sub">Passport-style photo</h3><p class="mc-quiet">{REFUSED}</p>')
        with gr.Row():
            self.spec = gr.Dropdown(
                [(spec.title, name) for name, spec in SPECS.items()], value="icao", label="Format", min_width=220,
                elem_id="mc-spec",
            )  # fmt: skip
            self.paper = gr.Radio(
                [(paper.title, name) for name, paper in PAPERS.items()], value="10x15cm", label="Paper",
                min_width=220, elem_id="mc-paper",
            )  # fmt: skip
        with gr.Row():
            self.replace = gr.Checkbox(
                True, label="Replace the background by the required colour", min_width=260
            )
            self.force = gr.Checkbox(
                False,
                label="Make the sheet even if a check fails; it will say so",
                min_width=260,
                elem_id="mc-force",
            )
        self.make = gr.Button("Check and make the sheet", elem_id="mc-sheet")
        self.sheet = gr.HTML(elem_id="mc-sheet-result")

    @property
    def live(self) -> list[Any]:
        """What changes while a portrait is finished."""
        return [
            self.timer, self.progress, self.start, self.all, self.stop, self.compare, self.report, self.large,
            self.sheet, self.gallery, self.archive,
        ]  # fmt: skip

    def show(self, session: Session) -> Updates:
        """The portraits, best first; the first one chosen."""
        found = in_order(session.portraits, "favourites")
        return {
            **self._choose(session, found[0].id if found else None),
            **self._restorers(),
            **self._watched(session),
        }

    def _restorers(self) -> Updates:
        """What can restore a face here, as it is now."""
        found = self.studio.finishing_jobs.restorers()
        choices = [
            (RESTORERS[name] + (f" (downloads {size} first)" if size else ""), name)
            for name, size in found.items()
        ]
        here = next((name for name, size in found.items() if not size), "none")
        chosen = gr.Radio(
            [("None", "none"), *choices], value=here, interactive=bool(found),
            info=None if found else NO_RESTORERS,
        )  # fmt: skip
        return {self.restore: chosen, **self._sliders(here)}

    def _sliders(self, restore: str) -> Updates:
        """Only CodeFormer has a fidelity."""
        return {
            self.strength: gr.Slider(visible=restore != "none"),
            self.fidelity: gr.Slider(visible=restore == "codeformer"),
        }

    def _choose(self, session: Session, portrait_id: str | None) -> Updates:
        return {
            self.chosen: portrait_id,
            self.sheet: "",
            **self._gallery(session, portrait_id),
            **self._result(session, portrait_id),
        }

    def _gallery(self, session: Session, portrait_id: str | None) -> Updates:
        """Favourites first; those that are finished are marked, and can be had all at once."""
        found = in_order(session.portraits, "favourites")
        empty = cards.note("There are no portraits yet. Go back to the step “Portraits”.", "warn")
        archive = self.studio.portraits.finished_archive(session)
        return {
            self.gallery: portrait_cards(
                found, portrait_id, "Choose the one to finish; your favourites come first.", marked=session.finished,
            ) or empty,
            self.archive: gr.DownloadButton(
                value=str(archive) if archive else None, visible=archive is not None
            ),
        }  # fmt: skip

    def _result(self, session: Session, portrait_id: str | None) -> Updates:
        """What finishing made of a portrait."""
        finished = session.finished.get(portrait_id or "")
        if finished is None:
            portrait = next((each for each in session.portraits if each.id == portrait_id), None)
            return {
                self.compare: gr.ImageSlider(value=None, visible=False),
                self.report: "",
                self.large: large(portrait) if portrait else "",
            }
        return {
            self.large: "",
            self.compare: gr.ImageSlider(value=(finished["before"], finished["after"]), visible=True),
            self.report: _report(finished),
        }

    def _watched(self, session: Session) -> Updates:
        job = self.studio.finishing_jobs.newest(session)
        snapshot = job.snapshot() if job else None
        busy = snapshot is not None and not snapshot.ended
        said = ""
        if snapshot is not None and snapshot.state == "failed":
            said = cards.failure("Finish", snapshot)
        elif snapshot is not None and snapshot.state == "waiting":
            said = cards.progress(0, "Waiting in the queue", [f"{snapshot.ahead} before you."])
        elif snapshot is not None and busy:
            said = cards.progress(snapshot.share, snapshot.stage or "Preparing", [])
        together = _together(session)
        return {
            self.timer: gr.Timer(active=busy),
            self.progress: said,
            self.start: gr.Button(interactive=not busy),
            self.all: gr.Button(
                f"Finish {_called(session)} {len(together)}", visible=len(together) > 1, interactive=not busy
            ),
            self.stop: gr.Button(visible=busy),
        }

    @told(name)
    def press(self, key: str, chosen: str | None, event: gr.EventData) -> Updates:
        """Choose another portrait, or make one a favourite."""
        if event.act == "favourite":
            session = self.studio.portraits.like(key, str(event.id))
            return {**self._gallery(session, chosen), **self._watched(session)}
        session = self.studio.sessions.find(key)
        return self._choose(session, self.studio.portraits.of(session, str(event.id)).id)

    @told(name)
    def choose_restorer(self, restore: str) -> Updates:
        """Show what can be set for it."""
        return self._sliders(restore)

    @told(name)
    def finish(
        self, key: str, chosen: str | None, upscale: float, restore: str, strength: float, fidelity: float
    ) -> Updates:
        """Begin to finish the chosen portrait."""
        values = {"upscale": upscale, "restore": restore, "restore_strength": strength, "fidelity": fidelity}
        self.studio.finishing_jobs.start(key, chosen, values)
        return self._watched(self.studio.sessions.find(key))

    @told(name)
    def finish_all(
        self, key: str, _chosen: str | None, upscale: float, restore: str, strength: float, fidelity: float
    ) -> Updates:
        """Begin to finish the favourites, or all where there are none."""
        values = {"upscale": upscale, "restore": restore, "restore_strength": strength, "fidelity": fidelity}
        together = _together(self.studio.sessions.find(key))
        self.studio.finishing_jobs.start(key, together[0] if together else None, values, together[1:])
        return self._watched(self.studio.sessions.find(key))

    @told(name)
    def follow(self, key: str, chosen: str | None) -> Updates:
        """How far it is; the result when it is there."""
        try:
            return self._followed(key, chosen)
        except Problem:  # deleted in another tab
            return {self.timer: gr.Timer(active=False)}

    def _followed(self, key: str, chosen: str | None) -> Updates:
        updates = self._watched(self.studio.sessions.find(key))
        # Read again, after the job was looked at: it stores its result, and then it ends.
        session = self.studio.sessions.find(key)
        job = self.studio.finishing_jobs.newest(session)
        if job is not None and job.active:
            return {**updates, **self._gallery(session, chosen)} if job.snapshot().reports else updates
        return {
            **updates,
            **self._gallery(session, chosen),
            **self._result(session, chosen),
            self.sheet: "",
        }  # it was of the portrait as it was

    @told(name)
    def halt(self, key: str, chosen: str | None) -> Updates:
        """Stop finishing; the portrait stays as it was."""
        job = self.studio.finishing_jobs.newest(self.studio.sessions.find(key))
        if job is not None:
            job.stop()
        return self._followed(key, chosen)

    @told(name)
    def make_sheet(
        self, key: str, chosen: str | None, spec: str, paper: str, replace: bool, force: bool
    ) -> Updates:
        """Crop, check, and lay out the chosen portrait."""
        made = self.studio.sheets.make(key, chosen, spec, paper, replace=bool(replace), force=bool(force))
        return {self.sheet: _sheet(made, SPECS[spec].title)}

    @told(name)
    def forget_sheet(self) -> Updates:
        """Hide the sheet: something else was chosen."""
        return {self.sheet: ""}


def _together(session: Session) -> list[str]:
    """Ids of what is finished at once: the favourites, or all where there are none."""
    found = in_order(session.portraits, "favourites")
    return [each.id for each in found if each.favourite] or [each.id for each in found]


def _called(session: Session) -> str:
    """What those are called on the button."""
    return "my favourites:" if any(portrait.favourite for portrait in session.portraits) else "all"


def _report(finished: dict[str, Any]) -> str:
    width, height = finished["size"]
    lines = [f"{width}×{height} pixels"]
    lines += [
        f"{likeness.in_words(face['score_before'])} before restoration, "
        f"{likeness.in_words(face['score_after']).lower()} after"
        + (f"; blended in by {face['strength']:.0%} to keep it" if face["strength"] < face["wanted"] else "")
        for face in finished["faces"]
    ]
    facts = "".join(f"<span>{escape(line)}</span>" for line in lines)
    link = (
        f'<a class="mc-link" href="{cards.address(finished["file"])}" download="portrait-finished.png">'
        "Download the finished portrait</a>"
    )
    return f'<div class="mc-facts">{facts}</div>{link}{cards.note(chr(10).join(finished["notes"]))}'


def _sheet(made: dict[str, Any], title: str) -> str:
    """The photo, and beside it what was checked."""
    rows = "".join(
        f"<tr><td>{_mark(check)}</td><th>{escape(check.title)}</th><td>{escape(check.value)}</td>"
        f"<td>{escape(check.wanted)}</td></tr>"
        for check in made["checks"]
    )
    failed = [check for check in made["checks"] if check.required and check.passed is False]
    said = cards.note(f"All checks for {title} passed.", "good")
    if failed:
        advice = "\n".join(f"{check.title}: {check.value}. {check.advice}" for check in failed)
        said = cards.note(advice, "bad")
    return (
        f'{said}<div class="mc-detail"><div><img src="{cards.address(made["photo"])}" alt="The photo, cut to '
        f'{escape(title)}">{_downloads(made["files"])}</div><div><table class="mc-checks"><thead><tr><th></th>'
        "<th>Check</th><th>Measured</th><th>Asked for</th></tr></thead><tbody>"
        f"{rows}</tbody></table></div></div>"
    )


def _mark(check: Any) -> str:
    if check.passed is None:
        return '<span title="Cannot be measured">?</span>'
    if check.passed:
        return '<span class="mc-badge mc-good">Pass</span>'
    kind, word = ("bad", "Fail") if check.required else ("fair", "Note")
    return f'<span class="mc-badge mc-{kind}">{word}</span>'


def _downloads(files: Sequence[Path]) -> str:
    if not files:
        return '<p class="mc-quiet">No sheet was made: a required check failed.</p>'
    return "".join(
        f'<a class="mc-link" href="{cards.address(path)}" download="passport-style-sheet{path.suffix}">'
        f"Download the sheet ({path.suffix[1:].upper()})</a>"
        for path in files
    )
