"""Step 5: the trainings that a session has, to be deleted, and what they learned, for other programs."""

from __future__ import annotations

from datetime import datetime
from html import escape
from typing import Any

import gradio as gr
from babel.dates import format_datetime

from magicapture_core.languages import N_, _, language, n_
from magicapture_core.ui import cards
from magicapture_core.ui.cards import button
from magicapture_core.ui.keeping import Keeping
from magicapture_core.ui.session_runs import not_ready
from magicapture_core.ui.step import Step, Updates, told
from magicapture_core.ui.stored_session import Session, StoredRun
from magicapture_core.ui.studio import Studio

PORTRAITS = N_("Portraits")


class Exporting(Step):
    """What was learned, as files for other programs."""

    name = PORTRAITS

    def __init__(self, studio: Studio) -> None:
        super().__init__(studio)
        with gr.Accordion(  # type: ignore[assignment]
            _("Use it elsewhere, or keep it"), open=False, visible=False
        ) as self.box:
            small = _("What was learned, as small files. They need the same model.")
            gr.HTML(f'<p class="mc-quiet">{small}</p>')
            self.format = gr.Radio(
                [("diffusers (Python)", "diffusers"), ("AUTOMATIC1111, Forge, ComfyUI", "kohya")], value="diffusers",
                label=_("Program"), elem_id="mc-format",
            )  # fmt: skip
            self.export = gr.Button(_("Prepare the files"), elem_id="mc-export")
            self.exported = gr.HTML(elem_id="mc-exported")
            self.keeping = Keeping(studio)

    def show(self, session: Session) -> Updates:
        """Nothing is exported yet."""
        ready = not_ready(session, session.chosen_run()) is None
        return {self.box: gr.Accordion(visible=ready), self.exported: ""}

    @told(name)
    def export_files(self, key: str, format: str) -> Updates:
        """Write the adapter for other programs."""
        return {self.exported: cards.downloads(self.studio.runs.export(key, format))}

    @told(name)
    def forget_files(self) -> Updates:
        """Hide the files: another program was chosen."""
        return {self.exported: ""}


class PastTrainings(Step):
    """Every training with a button to delete it."""

    name = PORTRAITS

    def __init__(self, studio: Studio) -> None:
        super().__init__(studio)
        with gr.Accordion(_("Past trainings"), open=False, visible=False) as self.box:  # type: ignore[assignment]
            self.list = gr.HTML(js_on_load=cards.CLICKS, elem_id="mc-past")
        self._asked: dict[str, str] = {}
        """Session -> the run that it was asked about: the list may be drawn anew before the answer."""

    def show(self, session: Session) -> Updates:
        """All of them."""
        found = past_runs(session, self._asked.get(session.id))
        return {self.box: gr.Accordion(visible=bool(session.runs)), self.list: found}

    def ask(self, session: Session, act: str, run: str) -> Updates:
        """Ask before a run is deleted; or keep it."""
        self._asked.pop(session.id, None)
        if act == "ask-run":
            self._asked[session.id] = run
        return {self.list: past_runs(session, self._asked.get(session.id))}

    def discard(self, key: str, run: str) -> Session:
        """Delete a past run."""
        session = self.studio.sessions.find(key)
        self._asked.pop(session.id, None)
        title = next((each.title for each in session.runs if each.id == run), _("The training"))
        session = self.studio.runs.discard(key, run)
        gr.Info(_("{training} and its portraits are deleted.", training=title), title=_(PORTRAITS))
        return session


def run_title(run: StoredRun) -> str:
    """A training's name, and when it began."""
    begun = datetime.fromtimestamp(run.started)
    # Translators: a date and a time in the pattern letters of Unicode CLDR, such as “27 Nov, 17:06”.
    written = format_datetime(begun, _("dd MMM, HH:mm"), locale=language())
    return _("{training} ({begun})", training=run.title, begun=written)


def past_runs(session: Session, asking: str | None = None) -> str:
    """Every training with a button to delete it. asking: the one to ask about."""
    items: list[Any] = []
    for run in reversed(session.runs):
        made = sum(portrait.run == run.id for portrait in session.portraits)
        title = escape(run_title(run))
        if run.id == asking:
            items.append(
                f'<li class="mc-asked"><p role="alert">{_question(title, made)}</p>'
                f"{button('keep-run', run.id, _('No, keep it'))}"
                f"{button('drop-run', run.id, _('Yes, delete it'), kind='mc-stop')}</li>"
            )
        else:
            items.append(
                f"<li><p><strong>{title}</strong> <small>{n_('{n} portrait', '{n} portraits', made)}</small></p>"
                f"{button('ask-run', run.id, _('Delete …'), _('Delete {training}', training=run_title(run)))}</li>"
            )
    return f'<ul class="mc-past">{"".join(items)}</ul>'


def _question(title: str, made: int) -> str:
    return n_(
        "Delete {training} and its {n} portrait? They cannot be brought back.",
        "Delete {training} and its {n} portraits? They cannot be brought back.",
        made, training=title,
    )  # fmt: skip
