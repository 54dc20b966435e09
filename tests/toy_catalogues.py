"""Catalogues of tests, in the place of the real ones."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from babel.messages.catalog import Catalog
from babel.messages.pofile import write_po

from magicapture_core import languages


def catalogue_of(code: str, translations: Mapping[Any, Any]) -> Catalog:
    """A catalogue with these translations: sentence, or (one, many) → sentence, or the form for each number."""
    made = Catalog(locale=code, charset="utf-8")
    for sentence, translation in translations.items():
        made.add(sentence, translation)
    return made


@contextmanager
def spoken_instead(folder: Path, catalogues: Mapping[str, Catalog]) -> Iterator[None]:
    """Within, these are the only catalogues, by language; they lie in `folder`."""
    for code, catalogue in catalogues.items():
        with (folder / f"{code}.po").open("wb") as file:
            write_po(file, catalogue)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(languages, "CATALOGUES", folder)
        languages._catalogue.cache_clear()
        yield
    languages._catalogue.cache_clear()
