"""Step 5: which strength suits these photos."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any

import gradio as gr

from magicapture_core.languages import N_, _, again
from magicapture_core.ui.cards import address, live
from magicapture_core.ui.comparison_jobs import COMPARISON, strength_in_words
from magicapture_core.ui.step import HALTS, Step, Updates, told, under_way
from magicapture_core.ui.stored_session import Session
from magicapture_core.ui.studio import Studio


class Comparing(Step):
    """The same portraits at several strengths, and a recommendation."""

    name = N_("Portraits")

    def __init__(self, studio: Studio) -> None:
        super().__init__(studio)
        with gr.Accordion(_("Which strength suits these photos?"), open=False, visible=False) as self.box:  # type: ignore[assignment]
            about = _(
                "Draws the same portraits at several strengths, measures likeness and look, and recommends one. It "
                "takes about a minute."
            )
            gr.HTML(f'<p class="mc-quiet">{about}</p>')
            with gr.Row(elem_classes="mc-buttons"):
                self.compare = gr.Button(_("Compare strengths"), elem_id="mc-compare-strengths")
                self.stop = gr.Button(
                    _("Stop comparing"), visible=False, elem_id="mc-compare-stop", elem_classes=HALTS
                )
            self.compared = gr.HTML(js_on_load=live(), elem_id="mc-compared")
            with gr.Row(elem_classes="mc-buttons"):
                self.adopt = gr.Button(
                    _("Use the recommended one"), variant="primary", visible=False, elem_id="mc-adopt"
                )

    def standing(self, session: Session) -> str:
        """How a comparison stands, as HTML."""
        job = self.studio.comparison_jobs.job(session)
        if job is None:
            return ""
        snapshot = job.snapshot()
        return under_way(self.name, snapshot, list(map(again, snapshot.reports[-1:])))

    def moment(self, session: Session) -> list[Any]:
        """What `show` depends on."""
        run, active = session.chosen_run(), self.studio.jobs.active(session.id)
        return [self.standing(session), run.choice if run else None, active.kind if active else None]

    def show(self, session: Session) -> Updates:
        """Under way, or its result."""
        run, active = session.chosen_run(), self.studio.jobs.active(session.id)
        busy, choice = active is not None, run.choice if run else None
        return {
            self.box: gr.Accordion(visible=self.studio.comparison_jobs.lacking(session) is None),
            self.compare: gr.Button(interactive=not busy),
            self.stop: gr.Button(visible=active is not None and active.kind == COMPARISON),
            self.adopt: gr.Button(visible=choice is not None and not busy),
            self.compared: self.standing(session) or (evidence(choice) if choice else ""),
        }

    @told(name)
    def begin(self, key: str) -> Updates:
        """Compare."""
        self.studio.comparison_jobs.start(key)
        return self.show(self.studio.sessions.find(key))

    @told(name)
    def halt(self, key: str) -> Updates:
        """Stop comparing."""
        self.studio.training_jobs.stop(key)
        return self.show(self.studio.sessions.find(key))

    def adopted(self, key: str) -> float:
        """Use what was recommended from now on. Returns the strength."""
        run = self.studio.comparison_jobs.adopt(key).chosen_run()
        assert run is not None
        assert run.adapter_scale is not None
        said = _("From now on portraits are made at strength {scale}.", scale=f"{run.adapter_scale:g}")
        gr.Info(said, title=_(self.name))
        return run.adapter_scale


def evidence(choice: Mapping[str, Any]) -> str:
    """What a comparison of strengths found: its recommendation, and below it all the pictures that were compared."""

    def row(each: Mapping[str, Any]) -> str:
        words = strength_in_words(each["scale"], each["likeness"], each["style"])
        best = each["picture"] == choice["picture"]
        title = (
            f"<strong>{escape(_('{choice} (recommended)', choice=words))}</strong>" if best else escape(words)
        )
        shown = escape(_("Pictures at strength {scale}", scale=f"{each['scale']:g}"), quote=True)
        return (
            f'<figure class="mc-evidence{" mc-best" if best else ""}"><figcaption>{title}</figcaption>'
            f'<img src="{address(each["picture"])}" alt="{shown}"></figure>'
        )

    why = _(
        "Of choices that are about as good the lowest strength is recommended: it leaves your descriptions the most "
        "freedom. Pictures below each other have the same noise."
    )
    recommended = _("Recommended: strength {scale}", scale=f"{choice['scale']:g}")
    return (
        f"<p><strong>{escape(recommended)}</strong></p>"
        + f'<div class="mc-evidences">{"".join(map(row, choice["rows"]))}</div>'
        + f'<p class="mc-quiet">{escape(choice["judges"])} {escape(why)}</p>'
    )
