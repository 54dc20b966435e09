"""That every sentence of the package can be translated: what stands in the calls of `_`, `n_` and `N_`."""

from __future__ import annotations

import ast
import string
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from magicapture_core import languages

ROOT = Path(languages.__file__).parents[2]
SOURCES = [*sorted((ROOT / "magicapture_core").rglob("*.py")), ROOT / "app.py"]
SPEAKERS = ("_", "n_", "N_")
MARKED: dict[str, set[str]] = {
    "formats/checklist.py": {"spec.background_words", "words"},
    "formats/sheet.py": {"sheet.title"},
    "postprocess/finishing.py": {"note"},
    "postprocess/networks.py": {"purpose"},
    "sharing.py": {"sentence"},
    "ui/passport_sheets.py": {
        "check.advice",
        "check.title",
        "paper.title",
        "photo_spec(spec).background_words",
        "photo_spec(spec).title",
        "spec.title",
    },
    "faces/facexlib_variant.py": {"WEIGHTS[name].purpose"},
    "photos/__init__.py": {"kind"},
    "ui/cards.py": {"label", "name", "step", "title"},
    "ui/comparing.py": {"self.name"},
    "ui/jobs.py": {"busy.kind"},
    "ui/keeping.py": {"self.name"},
    "ui/look_cards.py": {"photo.doubt"},
    "ui/page.py": {"step.name"},
    "ui/portrait_cards.py": {"title"},
    "ui/prompt_chips.py": {"each"},
    "ui/prompt_words.py": {"each", "english", "title", "words"},
    "ui/ready_looks.py": {"load_preset(look).title"},
    "ui/setting_texts.py": {"_named(name)", "text"},
    "ui/settings.py": {"title"},
    "ui/step.py": {"step"},
    "ui/step_finish.py": {"self.name"},
    "ui/step_photos.py": {"caption", "line"},
    "ui/step_portraits.py": {"self.name", "title"},
    "ui/step_style.py": {"line", "preset.description", "preset.title"},
    "weights/downloads.py": {"entry.purpose"},
}
"""Variables that hold what N_ has marked, or what tools/catalogue.py finds in settings and presets, by file."""
LITERAL = {"subject", "style"}
"""Placeholders of prompts, which people read as they are."""


def calls(tree: ast.AST) -> Iterator[tuple[str, ast.Call]]:
    """Every call of a speaker, with its name."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in SPEAKERS:
            yield node.func.id, node


def trees() -> Iterator[tuple[str, ast.Module]]:
    """Every file that speaks, by its path in the package."""
    for path in SOURCES:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        if path.parent.name != "languages" and any(calls(tree)):
            yield path.relative_to(ROOT).as_posix().removeprefix("magicapture_core/"), tree


def texts(name: str, call: ast.Call) -> list[ast.expr]:
    """The sentences that a call is given."""
    return call.args[: 2 if name == "n_" else 1]


def is_constant(node: ast.expr) -> bool:
    """Whether it is a constant of the program, or a part of one."""
    if isinstance(node, ast.Name):
        return node.id.isupper()
    if isinstance(node, ast.Attribute):
        return node.attr.isupper() or is_constant(node.value)
    if isinstance(node, ast.IfExp):
        return is_constant(node.body) and is_constant(node.orelse)
    return isinstance(node, ast.Subscript) and is_constant(node.value)


def faults_of(name: str, call: ast.Call, marked: set[str]) -> list[str]:
    """What makes a call's sentence one that cannot be translated."""
    found = []
    for text in texts(name, call):
        written = isinstance(text, ast.Constant) and isinstance(text.value, str)
        held = name == "_" and (is_constant(text) or ast.unparse(text) in marked)
        if not written and not held:
            found.append(f"{ast.unparse(text)} is no sentence, and no constant that N_ has marked")
    if not call.args or any(isinstance(each, ast.Starred) for each in call.args):
        found.append("the sentence is not written there")
    if any(keyword.arg is None for keyword in call.keywords):
        found.append("**values cannot be checked")
    return found


def placeholders(sentence: str) -> set[str]:
    """The names in braces."""
    return {
        field.partition(".")[0] for _text, field, _spec, _how in string.Formatter().parse(sentence) if field
    }


def constants(tree: ast.Module) -> dict[str, str]:
    """Sentences that a module marks, by the constant's name."""
    return {
        target.id: each.value.args[0].value
        for each in tree.body if isinstance(each, ast.Assign) and isinstance(each.value, ast.Call)
        for target in each.targets if isinstance(target, ast.Name)
        if isinstance(each.value.func, ast.Name) and each.value.func.id == "N_"
        and isinstance(each.value.args[0], ast.Constant)
    }  # fmt: skip


def misfits(name: str, call: ast.Call, known: dict[str, str]) -> list[str]:
    """Where the values that a call gives are not the placeholders of its sentence."""
    said = [
        each.value if isinstance(each, ast.Constant) else known.get(ast.unparse(each))
        for each in texts(name, call)
    ]
    sentences = [each for each in said if isinstance(each, str)]
    if name == "N_" or not sentences:
        return []
    wanted = set().union(*map(placeholders, sentences)) - ({"n"} if name == "n_" else set())
    given = {str(keyword.arg) for keyword in call.keywords}
    literal = not given and wanted <= LITERAL
    return [] if given == wanted or literal else [f"{sentences[0]!r}: expected {wanted}, given {given}"]


def hidden(tree: ast.Module) -> list[int]:
    """Lines of calls of a speaker in functions that use the same name for something else."""
    lines = []
    for scope in ast.walk(tree):
        if isinstance(scope, ast.FunctionDef | ast.AsyncFunctionDef):
            own = {n.id for n in ast.walk(scope) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
            own |= {n.arg for n in ast.walk(scope) if isinstance(n, ast.arg)}
            lines += [call.lineno for name, call in calls(scope) if name in own]
    return lines


def test_no_sentence_is_put_together() -> None:
    found = [
        f"{file}:{call.lineno}: {fault}"
        for file, tree in trees()
        for name, call in calls(tree)
        for fault in faults_of(name, call, MARKED.get(file, set()))
    ]
    assert not found, "\n".join(found)


def test_every_placeholder_is_given_its_value_and_nothing_else() -> None:
    found = [
        f"{file}:{call.lineno}: {fault}"
        for file, tree in trees()
        for name, call in calls(tree)
        for fault in misfits(name, call, constants(tree))
    ]
    assert not found, "\n".join(found)


def test_no_other_variable_hides_a_speaker() -> None:
    found = [f"{file}:{line}" for file, tree in trees() for line in hidden(tree)]
    assert not found, found


@pytest.mark.parametrize(
    ("code", "faults"),
    [
        ('_("Photo {name}", name=1)', 0),
        ('_("Photo {name}")', 1),
        ('_("Photo", name=1)', 1),
        ('_("a photo of a {subject}")', 0),
        ('_(f"Photo {name}")', 1),
        ('_("Photo " + name)', 1),
        ('_("Photo " "one")', 0),
        ("_(title)", 1),
        ("_(TITLE)", 0),
        ("_(TITLES[name].title)", 0),
        ("_(page.TITLE)", 0),
        ("N_(TITLE)", 1),
        ("_(**values)", 2),
        ('n_("{n} cat", "{n} cats", 3)', 0),
        ('n_("the cat of {name}", "{n} cats of {name}", 3, name=1)', 0),
        ('n_("{n} cat", f"{n} cats", 3)', 1),
        ('n_("{n} cat", "{n} cats of {name}", 3)', 1),
        ('TITLE = N_("Photo {name}")\n_(TITLE, name=1)', 0),
        ('TITLE = N_("Photo {name}")\n_(TITLE)', 1),
        ('def f():\n    for _ in range(3):\n        _("Photo")', 1),
    ],
)
def test_the_checks_find_what_they_look_for(code: str, faults: int) -> None:
    tree = ast.parse(code)
    found: list[Any] = [fault for name, call in calls(tree) for fault in faults_of(name, call, set())]
    found += [fault for name, call in calls(tree) for fault in misfits(name, call, constants(tree))]
    assert len(found + hidden(tree)) == faults
