"""“Keep it on Hugging Face”: a training's adapter in a private repository of the visitor's own."""

from __future__ import annotations

from html import escape
from typing import Any

import gradio as gr

from magicapture_core.languages import N_, _
from magicapture_core.ui import cards
from magicapture_core.ui.step import Step, Updates, told

ABOUT = N_(
    "In a private repository of yours: what was learned, its settings, and your best portraits with their prompts. "
    "Never your photos. Whoever has access to it can make portraits of the person."
)
TOKENS = "https://huggingface.co/settings/tokens"


class Keeping(Step):
    """A repository's name, a token, the person's consent, and the button. The token is used once and not stored."""

    name = N_("Keep it on Hugging Face")

    def __init__(self, studio: Any) -> None:
        super().__init__(studio)
        gr.HTML(f'<h3 class="mc-sub">{_(self.name)}</h3><p class="mc-quiet">{_(ABOUT)}</p>')
        with gr.Row():
            self.repository = gr.Textbox(
                "",
                label=_("Repository"),
                placeholder=_("your-name/my-portraits"),
                min_width=220,
                elem_id="mc-repository",
            )
            self.token = gr.Textbox(
                "", label=_("Access token that may write"), type="password", min_width=220, elem_id="mc-token",
                info=_("From {address}. It is used once and not stored.", address=TOKENS),
            )  # fmt: skip
        self.agreed = gr.Checkbox(
            False, label=_("The person on the photos agrees that this is stored there"), elem_id="mc-agreed"
        )
        self.upload = gr.Button(_("Upload"), elem_id="mc-upload")
        self.uploaded = gr.HTML(elem_id="mc-uploaded")

    @told(name)
    def keep(self, key: str, repository: str, token: str, agreed: bool) -> Updates:
        """Upload the chosen training's adapter and its best portraits."""
        address = self.studio.runs.keep(key, repository.strip(), token.strip(), consent=agreed)
        where = escape(address)
        link = f'<a class="mc-link" href="{where}" target="_blank" rel="noopener">{where}</a>'
        return {
            self.uploaded: cards.note(_("Uploaded, as a private repository:"), "good") + link,
            self.token: "",
        }
