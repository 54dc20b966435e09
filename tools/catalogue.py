"""Collects every sentence that people read into the catalogues of magicapture_core/languages.

python -m tools.catalogue            adds what is new to each XX.po, drops what is gone, keeps what is translated
python -m tools.catalogue --missing  says how many sentences each language lacks, and changes nothing
"""

from __future__ import annotations

import argparse
import ast
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from babel.messages.catalog import Catalog, Message
from babel.messages.extract import extract_from_dir
from babel.messages.pofile import read_po, write_po

from magicapture_core.languages import CATALOGUES, ENGLISH, LANGUAGES
from magicapture_core.ui.prompt_words import to_page

ROOT = Path(__file__).parents[1]
KEYWORDS = {"_": None, "N_": None, "n_": (1, 2)}
METHODS = [
    ("magicapture_core/**.py", "tools.catalogue:of_python"),
    ("app.py", "tools.catalogue:of_python"),
    ("presets/*/preset.json", "tools.catalogue:of_settings"),
    ("assets/mini/magicapture.json", "tools.catalogue:of_settings"),
]
OTHERS = [code for code in LANGUAGES if code != ENGLISH]


def of_python(source: BinaryIO, *_: Any, **__: Any) -> Iterator[tuple[int, str, list[str], list[str]]]:
    """The sentences in a module, for Babel. Its own extractor finds none within an f-string before Python 3.12."""
    text = source.read().decode("utf-8")
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in KEYWORDS:
            values = [each.value for each in node.args if isinstance(each, ast.Constant)]
            sentences = [value for value in values if isinstance(value, str)]
            if sentences:
                yield 1, node.func.id, sentences, _comment_above(text.splitlines(), node.lineno - 1)


def _comment_above(lines: list[str], line: int) -> list[str]:
    """What is said to translators in the comment that ends above a line (the first one is 0)."""
    first = line
    while first > 0 and lines[first - 1].lstrip().startswith("#"):
        first -= 1
    said = " ".join(each.lstrip("# ") for each in lines[first:line])
    return [said.partition("Translators:")[2].strip()] if "Translators:" in said else []


def of_settings(source: BinaryIO, *_: Any, **__: Any) -> Iterator[tuple[int, None, str, list[str]]]:
    """What people read of a preset or of a model's settings, for Babel: titles, and what can be asked for."""
    settings = json.load(source)
    texts = [settings.get("title"), settings.get("description"), *settings.get("edits", ())]
    for text in [*filter(None, texts), *map(to_page, settings.get("prompts", ()))]:
        yield 1, None, text, []


def sentences() -> Catalog:
    """Every sentence in the source, without translations."""
    found = Catalog(project="MagiCapture", charset="utf-8")
    for file, _line, message, comments, context in extract_from_dir(
        ROOT, METHODS, keywords=KEYWORDS,
        directory_filter=lambda folder: Path(folder).name not in (".venv", ".git", ".training", "runs", "tests"),
    ):  # fmt: skip
        found.add(message, None, [(file, 1)], auto_comments=comments, context=context)
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
