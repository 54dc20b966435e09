"""The looks that can be ticked: the presets and the visitor's own style photos."""

from __future__ import annotations

from magicapture_core.languages import N_, _
from magicapture_core.ui.stored_session import OWN, Session

OWN_TITLE = N_("My own style")


def look_title(look: str) -> str:
    """What a look is called, in the visitor's language. Raises Problem for a preset that is no longer here."""
    if look == OWN:
        return _(OWN_TITLE)
    from magicapture_core.presets import load_preset  # imports torch

    return _(load_preset(look).title)


def look_names(session: Session) -> list[str]:
    """Every look that there is something of, in the order of their drafts: what is ticked first."""
    from magicapture_core.presets import preset_names

    own = [OWN] if session.usable("style", OWN) else []
    ticked = [look for look in session.looks if look in own or look != OWN]
    return list(dict.fromkeys([*ticked, *own, *preset_names()]))
