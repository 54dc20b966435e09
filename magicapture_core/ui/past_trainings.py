"""Step 5: the trainings that a session has, to be deleted, and what they learned, for other programs."""

from __future__ import annotations

import time
from html import escape
from typing import Any

import gradio as gr

from magicapture_core.ui import cards
from magicapture_core.ui.cards import button, count
from magicapture_core.ui.keeping import Keeping
from magicapture_core.ui.session_runs import not_ready
from magicapture_core.ui.step import Step, Updates, told
from magicapture_core.ui.stored_session import Session, StoredRun
from magicapture_core.ui.studio import Studio


class Exporting(Step):
    """What was learned, as files for other programs."""

    name = "Portraits"

    def __init__(self, studio: Studio) -> None:
        super().__init__(studio)
        with gr.Accordion("Use it elsewhere, or keep it", open=False, visible=False) as self.box:  # type: ignore[assignment]
            gr.HTML('<p class="mc-quiet">What was learned, as small files. They need the same model.</p>')
            self.format = gr.Radio(
                [("diffusers (Python)", "diffusers"), ("AUTOMATIC1111, Forge, ComfyUI", "kohya")], value="diffusers",
                label="Program", elem_id="mc-format",
            )  # fmt: skip
            self.export = gr.Button("Prepare the files", elem_id="mc-export")
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

    name = "Portraits"

    def __init__(self, studio: Studio) -> None:
        super().__init__(studio)
        with gr.Accordion("Past trainings", open=False, visible=False) as self.box:  # type: ignore[assignment]
            self.list = gr.HTML(js_on_load=cards.CLICKS, elem_id="mc-past")

    def show(self, session: Session) -> Updates:
        """All of them."""
        return {self.box: gr.Accordion(visible=bool(session.runs)), self.list: past_runs(session)}

    def ask(self, session: Session, act: str, run: str) -> Updates:
        """Ask before a run is deleted; or keep it."""
        return {self.list: past_runs(session, run if act == "ask-run" else None)}

    def discard(self, key: str, run: str) -> Session:
        """Delete a past run."""
        session = self.studio.sessions.find(key)
        title = next((each.title for each in session.runs if each.id == run), "The training")
        session = self.studio.runs.discard(key, run)
        gr.Info(f"{title} and its portraits are deleted.", title=self.name)
        return session


def run_title(run: StoredRun) -> str:
    """A training's name, and when it began."""
    begun = time.strftime("%d %b, %H:%M", time.localtime(run.started))
    return f"{run.title} ({begun})"


def past_runs(session: Session, asking: str | None = None) -> str:
    """Every training with a button to delete it. asking: the one to ask about."""
    items: list[Any] = []
    for run in reversed(session.runs):
        made = count(sum(portrait.run == run.id for portrait in session.portraits), "portrait")
        title = escape(run_title(run))
        if run.id == asking:
            items.append(
                f'<li class="mc-asked"><p role="alert">Delete {title} and its {made}? '
                "They cannot be brought back.</p>"
                f"{button('keep-run', run.id, 'No, keep it')}"
                f"{button('drop-run', run.id, 'Yes, delete it', kind='mc-stop')}</li>"
            )
        else:
            items.append(
                f"<li><p><strong>{title}</strong> <small>{made}</small></p>"
                f"{button('ask-run', run.id, 'Delete …', f'Delete {run_title(run)}')}</li>"
            )
    return f'<ul class="mc-past">{"".join(items)}</ul>'
