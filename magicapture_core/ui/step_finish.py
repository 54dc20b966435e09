"""Step 6: make a portrait sharp and large, and print it."""

from __future__ import annotations

from html import escape
from typing import Any

import gradio as gr

from magicapture_core.config import PostprocessConfig
from magicapture_core.languages import N_, _, n_
from magicapture_core.problems import Problem
from magicapture_core.ui import cards, likeness
from magicapture_core.ui.finishing_jobs import UPSCALES
from magicapture_core.ui.jobs import Snapshot
from magicapture_core.ui.passport_sheets import PassportSheets
from magicapture_core.ui.portrait_cards import FILM, large, portrait_cards
from magicapture_core.ui.session_portraits import in_order
from magicapture_core.ui.settings import help_texts
from magicapture_core.ui.step import HALTS, Step, Updates, told
from magicapture_core.ui.stored_session import Session
from magicapture_core.ui.studio import Studio

RESTORERS = {"gfpgan": "GFPGAN", "codeformer": N_("CodeFormer (non-commercial use only)")}
NO_RESTORERS = N_("Faces are not restored here: this server has none of the programs for it.")


class FinishStep(Step):
    """Before and after, restoration controls, formats with their checklist, sheets."""

    name = N_("Finish")

    def __init__(self, studio: Studio) -> None:
        super().__init__(studio)
        default, texts = PostprocessConfig(), help_texts(PostprocessConfig)
        gr.HTML(
            cards.heading(
                _("Finish and print"),
                _("Make a portrait larger and sharper, then print it in a passport format."),
            )
        )
        self.timer = gr.Timer(1.0, active=False)
        self.chosen = gr.State(None)
        self.gallery = gr.HTML(js_on_load=cards.CLICKS + FILM, elem_id="mc-finish-gallery")
        self.large = gr.HTML(js_on_load=cards.INTO_VIEW, elem_id="mc-finish-large")
        with gr.Row():
            self.upscale = gr.Radio(
                [(f"×{factor}", factor) for factor in UPSCALES], value=int(default.upscale), label=_("Size"),
                min_width=180, elem_id="mc-upscale",
            )  # fmt: skip
            self.restore = gr.Radio(
                [(_("None"), "none")], value="none", label=_("Restore the face with"), min_width=320,
                elem_id="mc-restore",
            )  # fmt: skip
        with gr.Row():
            self.strength = gr.Slider(
                0, 1, value=default.restore_strength, step=0.05, label=_("Strength of restoration"), min_width=200,
                info=_("Upper limit; gentler where it would change the face."), elem_id="mc-restore-strength",
            )  # fmt: skip
            self.fidelity = gr.Slider(
                0, 1, value=default.fidelity, step=0.05, label=_("Fidelity"), min_width=200, visible=False,
                info=texts["fidelity"], elem_id="mc-fidelity",
            )  # fmt: skip
        with gr.Row(elem_classes="mc-buttons"):
            self.start = gr.Button(
                _("Finish this portrait"), variant="primary", size="lg", elem_id="mc-finish"
            )
            self.all = gr.Button(_("Finish all"), visible=False, size="lg", elem_id="mc-finish-all")
            self.stop = gr.Button(
                _("Stop"), visible=False, min_width=120, elem_id="mc-finish-stop", elem_classes=HALTS
            )
        self.progress = gr.HTML(js_on_load=cards.live("#mc-finish-report a"), elem_id="mc-finish-progress")
        self.compare = gr.ImageSlider(
            type="filepath", label=_("Before and after"), visible=False, interactive=False, max_height=640,
            buttons=["fullscreen"], elem_id="mc-compare",
        )  # fmt: skip
        self.report = gr.HTML(elem_id="mc-finish-report")
        with gr.Row(elem_classes="mc-buttons"):
            self.archive = gr.DownloadButton(
                _("Download all finished (zip)"), visible=False, elem_id="mc-finish-archive"
            )
        self.passport = PassportSheets(studio)
        self.sheet = self.passport.sheet

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
            (
                _("{restorer} (downloads {size} first)", restorer=_(RESTORERS[name]), size=size)
                if size
                else _(RESTORERS[name]),
                name,
            )
            for name, size in found.items()
        ]
        here = next((name for name, size in found.items() if not size), "none")
        chosen = gr.Radio(
            [(_("None"), "none"), *choices], value=here, interactive=bool(found),
            info=None if found else _(NO_RESTORERS),
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
        empty = cards.note(_("There are no portraits yet. Go back to the step “Portraits”."), "warn")
        archive = self.studio.portraits.finished_archive(session)
        return {
            self.gallery: portrait_cards(
                found, portrait_id, _("Choose the one to finish; your favourites come first."),
                marked=session.finished, film=True,
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
            said = cards.failure(_(self.name), snapshot)
        elif snapshot is not None and snapshot.state == "waiting":
            said = cards.progress(
                0, _("Waiting in the queue"), [n_("{n} before you.", "{n} before you.", snapshot.ahead)]
            )
        elif snapshot is not None and busy:
            said = cards.progress(snapshot.share, snapshot.stage or _("Preparing"), [])
        if said and snapshot is not None:
            said = _for_the_window(said, snapshot)
        together = _together(session)
        return {
            self.timer: gr.Timer(active=busy),
            self.progress: said,
            self.start: gr.Button(interactive=not busy),
            self.all: gr.Button(
                _all_of(session, len(together)), visible=len(together) > 1, interactive=not busy
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
        portrait = self.studio.portraits.of(session, str(event.id))
        return {**self._choose(session, portrait.id), **self._watched(session)}

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
            self.sheet: "",  # it was of the portrait as it was
            self.progress: updates[self.progress] or (_done(job.snapshot()) if job is not None else ""),
        }

    @told(name)
    def halt(self, key: str, chosen: str | None) -> Updates:
        """Stop finishing; the portrait stays as it was."""
        job = self.studio.finishing_jobs.newest(self.studio.sessions.find(key))
        if job is not None:
            job.stop()
        return self._followed(key, chosen)


def _for_the_window(said: str, snapshot: Snapshot) -> str:
    """With what page.js reads: the window's title says how far it is, and its end is read aloud."""
    percent, state = round(100 * snapshot.share), snapshot.state if snapshot.ended else "running"
    about = escape(_("Finishing"), quote=True)
    return f'<div data-progress="{percent}" data-state="{state}" data-about="{about}">{said}</div>'


def _done(snapshot: Snapshot) -> str:
    """That it ended well; nothing where it was stopped, or where every portrait was deleted meanwhile."""
    if snapshot.state != "done" or not snapshot.reports:
        return ""
    number = len(snapshot.reports)
    title = n_("{n} portrait is finished", "{n} portraits are finished", number)
    return _for_the_window(cards.progress(1, title, [], "good"), snapshot)


def _together(session: Session) -> list[str]:
    """Ids of what is finished at once: the favourites, or all where there are none."""
    found = in_order(session.portraits, "favourites")
    return [each.id for each in found if each.favourite] or [each.id for each in found]


def _all_of(session: Session, count: int) -> str:
    """What the button for all of them says."""
    if any(portrait.favourite for portrait in session.portraits):
        return n_("Finish my favourites: {n}", "Finish my favourites: {n}", count)
    return n_("Finish all {n}", "Finish all {n}", count)


BEFORE_AFTER = N_("Before restoration: {before}. After: {after}.")
BLENDED = N_(
    "Before restoration: {before}. After: {after}; blended in by {strength:.0%} to keep the likeness."
)


def _report(finished: dict[str, Any]) -> str:
    width, height = finished["size"]
    lines = [_("{width}×{height} pixels", width=width, height=height)]
    lines += [
        _(
            BLENDED if face["strength"] < face["wanted"] else BEFORE_AFTER,
            before=likeness.in_words(face["score_before"]),
            after=likeness.in_words(face["score_after"]),
            strength=face["strength"],
        )
        for face in finished["faces"]
    ]
    facts = "".join(f"<span>{escape(line)}</span>" for line in lines)
    link = (
        f'<a class="mc-link" href="{cards.address(finished["file"])}" download="portrait-finished.png">'
        f"{_('Download the finished portrait')}</a>"
    )
    return f'<div class="mc-facts">{facts}</div>{link}{cards.note(chr(10).join(finished["notes"]))}'
