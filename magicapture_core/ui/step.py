"""What every step of the wizard shares: handlers that speak the page's language and turn problems into words."""

from __future__ import annotations

import functools
import inspect
import logging
import secrets
from collections.abc import Callable, Iterator, Sequence
from typing import Any, ParamSpec

import gradio as gr
from gradio.blocks import BlockContext
from gradio.components import Component

from magicapture_core.languages import _, language, n_, speaking
from magicapture_core.problems import as_problem
from magicapture_core.ui import cards
from magicapture_core.ui.jobs import UNEXPECTED, Snapshot
from magicapture_core.ui.stored_session import Session
from magicapture_core.ui.studio import Studio

log = logging.getLogger(__name__)

P = ParamSpec("P")
Updates = dict[Any, Any]
"""Component -> its new value or properties; what is not in it stays."""
HALTS = "mc-halts"
"""Class of a button that ends what another began: the keyboard is never put onto it (page.js)."""


class Step:
    """One step: its components, how they show a session, and its handlers. Make it where its components should be."""

    name: str
    """In English, marked by N_: shown by `_(name)`."""
    said: Any
    """Why one cannot go on, at its foot; the page makes it. Whatever changes the step empties it."""

    def __init__(self, studio: Studio) -> None:
        self.studio, self.language = studio, language()

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
    return _(UNEXPECTED, reference=reference)


def _speaks(handler: Callable[P, Any], built: str, values: tuple[Any, ...]) -> str:
    """The language of a handler's page: that of the step or wizard whose method it is, or that of its making."""
    method = next(iter(inspect.signature(handler).parameters), "") == "self"
    return str(getattr(values[0], "language", built)) if method and values else built


def told(step: str) -> Callable[[Callable[P, Updates]], Callable[P, Any]]:
    """Makes a handler that speaks its page's language, and whose errors become a message that names the step (an
    N_ constant), and never a traceback.
    """

    def decorate(handler: Callable[P, Updates]) -> Callable[P, Any]:
        built = language()

        @functools.wraps(handler)
        def safe(*values: P.args, **named: P.kwargs) -> Any:
            with speaking(_speaks(handler, built, values)):
                try:
                    return handler(*values, **named) or gr.skip()
                except Exception as error:  # noqa: BLE001 - a fault of the program is logged by in_words
                    gr.Warning(in_words(error, f"step {step}"), title=_(step), duration=15)
            return gr.skip()

        return safe

    return decorate


def told_as_it_goes(step: str) -> Callable[[Callable[P, Iterator[Updates]]], Callable[P, Any]]:
    """As `told`, for a handler that yields what is new as it comes."""

    def decorate(handler: Callable[P, Iterator[Updates]]) -> Callable[P, Any]:
        built = language()

        @functools.wraps(handler)
        def safe(*values: P.args, **named: P.kwargs) -> Any:
            code = _speaks(handler, built, values)
            with speaking(code):
                stream = iter(handler(*values, **named))
            # Each part may be asked for in another thread, with another context: the language is set for each.
            while True:
                with speaking(code):
                    try:
                        updates = next(stream)
                    except StopIteration:
                        return
                    except Exception as error:  # noqa: BLE001 - a fault of the program is logged by in_words
                        gr.Warning(in_words(error, f"step {step}"), title=_(step), duration=15)
                        updates = gr.skip()
                yield updates

        return safe

    return decorate


def under_way(step: str, snapshot: Snapshot, details: Sequence[str]) -> str:
    """A job as HTML: in the queue, at work or failed; nothing once it has ended well."""
    if snapshot.state == "failed":
        return cards.failure(_(step), snapshot)
    if snapshot.ended:
        return ""
    if snapshot.state == "waiting" and snapshot.ahead:
        return cards.progress(
            0,
            _("Waiting in the queue"),
            [
                n_(
                    "{n} before you; it starts by itself.",
                    "{n} before you; it starts by itself.",
                    snapshot.ahead,
                )
            ],
        )
    title = _("Stopping") if snapshot.state == "stopping" else snapshot.stage or _("Preparing")
    return cards.progress(snapshot.share, title, details)
