"""“Keep it on Hugging Face”: a training's adapter in a private repository of the visitor's own."""

from __future__ import annotations

import os
from html import escape
from typing import Any

import gradio as gr
from gradio.utils import get_space

from magicapture_core.languages import N_, _
from magicapture_core.problems import Problem
from magicapture_core.ui import cards
from magicapture_core.ui.step import Step, Updates, told

ABOUT = N_(
    "In a private repository of yours: what was learned, its settings, and your best portraits with their prompts. "
    "Never your photos. Whoever has access to it can make portraits of the person."
)
TOKENS = "https://huggingface.co/settings/tokens"


def by_login() -> bool:
    """Whether this is a Space in which visitors can log in (`hf_oauth` in the head of README.md)."""
    return get_space() is not None and "OAUTH_CLIENT_ID" in os.environ


class Keeping(Step):
    """A repository's name, the person's consent, and the button; in a Space a login, elsewhere a token.

    Neither the token nor what a login gives is stored with the session: both are used once.
    """

    name = N_("Keep it on Hugging Face")

    def __init__(self, studio: Any) -> None:
        super().__init__(studio)
        gr.HTML(f'<h3 class="mc-sub">{_(self.name)}</h3><p class="mc-quiet">{_(ABOUT)}</p>')
        logged_in = by_login()
        if logged_in:
            gr.LoginButton(
                _("Log in to Hugging Face"),
                _("Log out ({})"),
                size="md",
                elem_id="mc-login",
                elem_classes="mc-narrow",
            )
        with gr.Row():
            self.repository = gr.Textbox(
                "",
                label=_("Repository"),
                placeholder=_("my-portraits") if logged_in else _("your-name/my-portraits"),
                min_width=220,
                elem_id="mc-repository",
            )
            self.token = gr.Textbox(
                "", label=_("Access token that may write"), type="password", min_width=220, elem_id="mc-token",
                info=_("From {address}. It is used once and not stored.", address=TOKENS), visible=not logged_in,
            )  # fmt: skip
        self.agreed = gr.Checkbox(
            False, label=_("The person on the photos agrees that this is stored there"), elem_id="mc-agreed"
        )
        self.upload = gr.Button(_("Upload"), elem_id="mc-upload")
        self.uploaded = gr.HTML(elem_id="mc-uploaded")

    @told(name)
    def keep(
        self,
        key: str,
        repository: str,
        token: str,
        agreed: bool,
        login: gr.OAuthToken | None,
        profile: gr.OAuthProfile | None,
    ) -> Updates:
        """Upload the chosen training's adapter and its best portraits. gradio adds login and profile."""
        if by_login():
            if login is None or profile is None:
                raise Problem(_("Log in to Hugging Face first, with the button above."))
            token = login.token
            repository = whole_name(repository, profile.username)
        address = self.studio.runs.keep(key, repository.strip(), token.strip(), consent=agreed)
        where = escape(address)
        link = f'<a class="mc-link" href="{where}" target="_blank" rel="noopener">{where}</a>'
        return {
            self.uploaded: cards.note(_("Uploaded, as a private repository:"), "good") + link,
            self.token: "",
        }


def whole_name(repository: str, user: str) -> str:
    """ "name" of a user's own repository as "user/name"; a whole name as it is."""
    name = repository.strip()
    return name if "/" in name or not name else f"{user}/{name}"
