"""What every step of the wizard shares: handlers that turn problems into words."""

from __future__ import annotations

import functools
import logging
import secrets
from collections.abc import Callable, Iterator, Sequence
from typing import Any, ParamSpec

import gradio as gr
from gradio.blocks import BlockContext
from gradio.components import Component

from magicapture_core.problems import as_problem
from magicapture_core.ui import cards
from magicapture_core.ui.jobs import UNEXPECTED, Snapshot
from magicapture_core.ui.stored_session import Session
from magicapture_core.ui.studio import Studio

log = logging.getLogger(__name__)

P = ParamSpec("P")
Updates = dict[Any, Any]
"""Component -> its new value or properties; what is not in it stays."""


class Step:
    """One step: its components, how they show a session, and its handlers. Make it where its components should be."""

    name: str
    said: Any
    """Why one cannot go on, at its foot; the page makes it. Whatever changes the step empties it."""

    def __init__(self, studio: Studio) -> None:
        self.studio = studio

    def show(self, session: Session) -> Updates:
        """Everything of the step as the session stands."""
        raise NotImplementedError

    def enter(self, session: Session, filled: Any) -> Updates:  # noqa: ARG002 - for steps with a form
        """As `show`, where somebody comes to the step by “Next” or “Back”. filled: what its form was filled for."""
        return self.show(session)

    @property
    def outputs(self) -> list[Any]:
        """Every component that `show` may update."""
        return [value for value in vars(self).values() if isinstance(value, Component | BlockContext)]


def waits_until_filled() -> None:
    """Put this at the end of a step, or of an accordion of class mc-waits, that opens later; see cards.WAITS."""
    gr.HTML("", label="", html_template="", js_on_load=cards.WAITS)


def in_words(error: Exception, where: str) -> str:
    """What to tell the visitor about an error. A fault of the program is logged, with a reference."""
    problem = as_problem(error)
    if problem is not None:
        return str(problem)
    reference = secrets.token_hex(4)
    log.error("%s failed (reference %s)", where, reference, exc_info=error)
    return UNEXPECTED.format(reference=reference)


def told(step: str) -> Callable[[Callable[P, Updates]], Callable[P, Any]]:
    """Makes a handler whose errors become a message that names the step, and never a traceback."""

    def decorate(handler: Callable[P, Updates]) -> Callable[P, Any]:
        @functools.wraps(handler)
        def safe(*values: P.args, **named: P.kwargs) -> Any:
            try:
                return handler(*values, **named) or gr.skip()
            except Exception as error:  # noqa: BLE001 - a fault of the program is logged by in_words
                gr.Warning(in_words(error, f"step {step}"), title=step, duration=15)
            return gr.skip()

        return safe

    return decorate


def told_as_it_goes(step: str) -> Callable[[Callable[P, Iterator[Updates]]], Callable[P, Any]]:
    """As `told`, for a handler that yields what is new as it comes."""

    def decorate(handler: Callable[P, Iterator[Updates]]) -> Callable[P, Any]:
        @functools.wraps(handler)
        def safe(*values: P.args, **named: P.kwargs) -> Any:
            try:
                yield from handler(*values, **named)
            except Exception as error:  # noqa: BLE001 - a fault of the program is logged by in_words
                gr.Warning(in_words(error, f"step {step}"), title=step, duration=15)
                yield gr.skip()

        return safe

    return decorate


def under_way(step: str, snapshot: Snapshot, details: Sequence[str]) -> str:
    """A job as HTML: in the queue, at work or failed; nothing once it has ended well."""
    if snapshot.state == "failed":
        return cards.failure(step, snapshot)
    if snapshot.ended:
        return ""
    if snapshot.state == "waiting" and snapshot.ahead:
        return cards.progress(
            0, "Waiting in the queue", [f"{snapshot.ahead} before you; it starts by itself."]
        )
    title = "Stopping" if snapshot.state == "stopping" else snapshot.stage or "Preparing"
    return cards.progress(snapshot.share, title, details)
