"""What can be asked of a session's chosen training: descriptions of its look, words to add, and how they are read."""

from __future__ import annotations

from contextlib import suppress

from magicapture_core.config import GenerateConfig
from magicapture_core.languages import N_
from magicapture_core.problems import Problem
from magicapture_core.prompts import unknown_said, unknown_words
from magicapture_core.ui import prompt_chips
from magicapture_core.ui.prompt_words import from_page
from magicapture_core.ui.server_models import ModelFacts
from magicapture_core.ui.stored_session import Session
from magicapture_core.ui.studio import Studio

COMPOSED_PROMPT = GenerateConfig().prompt
EDITS = (
    N_("smiling"), N_("serious"), N_("wearing sunglasses"), N_("wearing glasses"), N_("wearing a hat"),
    N_("in a dark suit"), N_("in a blouse"), N_("in a dark jumper"), N_("black and white"), N_("outdoors"),
    N_("soft light"),
)  # fmt: skip
"""Words to add, where a model has no list of its own."""


class PortraitOffer:
    """Reads presets and the models' small files only."""

    def __init__(self, studio: Studio) -> None:
        self.studio = studio

    def facts(self, session: Session) -> ModelFacts:
        """Of the chosen run's model."""
        run = session.chosen_run()
        return self.studio.models.facts(run.model if run else self.studio.models.of(session))

    def prompts(self, session: Session) -> tuple[tuple[str, ...], str]:
        """What to ask for in the chosen run's style, the best first, and what to avoid."""
        run = session.chosen_run()
        if run and run.preset:
            from magicapture_core.presets import load_preset

            with suppress(Problem):  # a preset that is gone takes nothing from what was learned
                preset = load_preset(run.preset)
                return preset.prompts, preset.negative_prompt
        return (COMPOSED_PROMPT,), ""

    def chips(self, session: Session, text: str) -> str:
        """Buttons that change a description."""
        known = self.facts(session).edits
        ideas = prompt_chips.ideas_for(self.prompts(session)[0][1:], known)
        return prompt_chips.chips(ideas, known or EDITS, text)

    def reading(self, session: Session, text: str) -> str:
        """The description as it is read, and the words that the model does not know."""
        return prompt_chips.reading(text, self.unknown(session, text))

    def unknown(self, session: Session, text: str) -> str:
        """What is to be said of words that the model does not know; empty where it knows them all."""
        facts = self.facts(session)
        with suppress(Problem):  # half typed; the button says what is wrong
            return unknown_said(unknown_words(from_page(text), facts.vocabulary), facts.name)
        return ""
