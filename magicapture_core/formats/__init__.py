"""Passport-style output. What is named here is data, light to import; the work is in `passport` and `sheet`."""

from magicapture_core.formats.specs import (
    PAPERS,
    REFUSED,
    SPECS,
    Paper,
    PhotoSpec,
    as_hex,
    background_colour,
    paper,
    photo_spec,
)

__all__ = [
    "PAPERS",
    "REFUSED",
    "SPECS",
    "Paper",
    "PhotoSpec",
    "as_hex",
    "background_colour",
    "paper",
    "photo_spec",
]
