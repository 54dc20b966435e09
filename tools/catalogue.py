"""Collects every sentence that people read into the catalogues of magicapture_core/languages.

python -m tools.catalogue            adds what is new to each XX.po, drops what is gone, keeps what is translated
python -m tools.catalogue --missing  says how many sentences each language lacks, and changes nothing
"""

from __future__ import annotations

import argparse
import ast
import io
import json
import tokenize
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import IO, Any

from babel.messages.catalog import Catalog, Message
from babel.messages.extract import extract_from_dir
from babel.messages.pofile import read_po, write_po

from magicapture_core.languages import CATALOGUES, ENGLISH, LANGUAGES
from magicapture_core.ui import setting_texts
from magicapture_core.ui.prompt_words import to_page

ROOT = Path(__file__).parents[1]
KEYWORDS = {"_": None, "N_": None, "n_": (1, 2)}
SHOWN = ("title", "description")
"""Names of what people read in a JSON file."""
ASKED = ("edits", "prompts")
"""Names of its lists of what can be asked for; models read English, people a translation of it."""
OTHERS = [code for code in LANGUAGES if code != ENGLISH]
Found = Iterator[tuple[int, str, tuple[str | None, ...], list[str]]]
"""Line, name of the call, its arguments (None where one is no constant text), comments: what Babel wants."""


def of_python(source: IO[bytes], keywords: Collection[str], tags: Collection[str], **_more: Any) -> Found:
    """As Babel's own, which before Python 3.12 sees nothing of what stands within an f-string."""
    text = source.read().decode("utf-8")
    notes = {
        token.start[0]: token.string.lstrip("# ")
        for token in tokenize.generate_tokens(io.StringIO(text).readline)
        if token.type == tokenize.COMMENT and token.string.lstrip("# ").startswith(tuple(tags))
    }
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in keywords:
            given = [each.value if isinstance(each, ast.Constant) else None for each in node.args]
            texts = tuple(each if isinstance(each, str) else None for each in given)
            above = [notes[line] for line in (node.lineno - 1, node.lineno) if line in notes]
            yield node.lineno, node.func.id, texts, above


def of_json(source: IO[bytes], _keywords: Collection[str], _tags: Collection[str], **_more: Any) -> Found:
    """Every text of a JSON file that has one of the SHOWN names or is listed as ASKED, at any depth.

    The page shows it by `_( … )`.
    """

    def texts(value: Any) -> Iterator[str]:
        for name, each in value.items() if isinstance(value, dict) else ():
            if name in SHOWN and isinstance(each, str):
                yield each
            if name in ASKED and isinstance(each, list):
                yield from map(to_page, each)
        for each in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
            yield from texts(each)

    for text in texts(json.load(source)):
        yield 1, "N_", (text,), []


METHODS = [
    ("magicapture_core/**.py", of_python), ("app.py", of_python), ("presets/**.json", of_json),
    ("assets/mini/magicapture.json", of_json),
]  # fmt: skip


def sentences() -> Catalog:
    """Every sentence in the source, without translations."""
    found = Catalog(project="MagiCapture", charset="utf-8")
    for file, _line, message, comments, context in extract_from_dir(
        ROOT, METHODS,  # type: ignore[arg-type]
        keywords=KEYWORDS, comment_tags=("Translators:",), strip_comment_tags=True,
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
    created = catalogue.creation_date
    catalogue.update(sentences(), no_fuzzy_matching=True)
    catalogue.creation_date = created  # else every file changes each time
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
