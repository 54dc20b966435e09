"""Passport-style output: specifications as data, crop and background, checklist, sheets to print."""

from magicapture_core.formats.checklist import Check
from magicapture_core.formats.passport import PassportPhoto, make_passport_photo
from magicapture_core.formats.sheet import write_sheet
from magicapture_core.formats.specs import PAPERS, REFUSED, SPECS, Paper, PhotoSpec, paper, photo_spec

__all__ = [
    "PAPERS",
    "REFUSED",
    "SPECS",
    "Check",
    "Paper",
    "PassportPhoto",
    "PhotoSpec",
    "make_passport_photo",
    "paper",
    "photo_spec",
    "write_sheet",
]
