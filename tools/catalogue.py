"""Collects every sentence that people read into the catalogues of magicapture_core/languages.

python -m tools.catalogue            adds what is new to each XX.po, drops what is gone, keeps what is translated
python -m tools.catalogue --missing  says how many sentences each language lacks, and changes nothing
"""

from __future__ import annotations

import argparse
import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from babel.messages.catalog import Catalog, Message
from babel.messages.extract import extract_from_dir
from babel.messages.pofile import read_po, write_po

from magicapture_core.languages import CATALOGUES, ENGLISH, LANGUAGES
from magicapture_core.ui import setting_texts

ROOT = Path(__file__).parents[1]
KEYWORDS = {"_": None, "N_": None, "n_": (1, 2)}
TRANSLATORS = "# Translators:"
METHODS = [("magicapture_core/**.py", "tools.catalogue:of_python"), ("app.py", "tools.catalogue:of_python")]
OTHERS = [code for code in LANGUAGES if code != ENGLISH]


def of_python(source: BinaryIO, *_: Any, **__: Any) -> Iterator[tuple[int, str, Any, list[str]]]:
    """The sentences of a file of Python, for Babel, whose own method does not look into f-strings (Python 3.11).

    Raises ValueError for an f-string as a sentence: nobody could translate it.
    """
    text = source.read().decode("utf-8")
    lines = ["", *text.splitlines()]
    for call in ast.walk(ast.parse(text)):
        name = call.func.id if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) else ""
        if name not in KEYWORDS or not isinstance(call, ast.Call):
            continue
        said = call.args[: 2 if name == "n_" else 1]
        if any(isinstance(each, ast.JoinedStr) for each in said):
            raise ValueError(f"{source.name}, line {call.lineno}: an f-string is no sentence to translate")
        texts = tuple(each.value for each in said if isinstance(each, ast.Constant))
        if len(texts) == len(said):  # else it is a constant of the program, marked where it is made
            above = lines[call.lineno - 1].strip()
            comments = [above[2:]] if above.startswith(TRANSLATORS) else []
            yield call.lineno, name, texts if name == "n_" else texts[0], comments


def sentences() -> Catalog:
    """Every sentence in the source, without translations."""
    found = Catalog(project="MagiCapture", charset="utf-8")
    for file, _line, message, comments, context in extract_from_dir(
        ROOT, METHODS, keywords=KEYWORDS, comment_tags=("Translators:",), strip_comment_tags=True,
        directory_filter=lambda folder: Path(folder).name not in (".venv", ".git", ".training", "runs", "tests"),
    ):  # fmt: skip
        found.add(message, None, [(file, 1)], auto_comments=comments, context=context)
    for text in setting_texts.sentences():
        found.add(text, None, [("magicapture_core/config.py", 1)])
    return found


def translated(code: str) -> Catalog:
    """The catalogue of a language as it is on disk; an empty one where there is none."""
    path = CATALOGUES / f"{code}.po"
    if not path.is_file():
        return Catalog(locale=code, project="MagiCapture", charset="utf-8")
    with path.open("rb") as source:
        return read_po(source, locale=code)


def update(code: str) -> Catalog:
    """The catalogue of a language with today's sentences; a changed sentence is a new one."""
    catalogue = translated(code)
    catalogue.update(sentences(), no_fuzzy_matching=True)
    catalogue.obsolete.clear()
    catalogue.fuzzy = False
    catalogue.header_comment = f"# MagiCapture in {LANGUAGES[code]}. Apache-2.0."
    with (CATALOGUES / f"{code}.po").open("wb") as target:
        write_po(target, catalogue, width=100, include_lineno=False, sort_output=True, omit_header=False)
    return catalogue


def is_missing(message: Message) -> bool:
    """Whether any form of a sentence has no translation."""
    forms = message.string if isinstance(message.string, tuple | list) else [message.string]
    return bool(message.id) and not all(forms)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--missing", action="store_true", help="only say what is missing")
    only_say = parser.parse_args().missing
    for code in OTHERS:
        catalogue = translated(code) if only_say else update(code)
        there = {message.id for message in catalogue if not is_missing(message)}
        wanted = [message.id for message in sentences() if message.id]
        print(f"{code}: {sum(each not in there for each in wanted)} of {len(wanted)} sentences are missing")


if __name__ == "__main__":
    main()
