"""What the page says about each setting, in the visitor's language: config.py's own words."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import itertools
from functools import cache

from magicapture_core import config as config_module
from magicapture_core.config import GenerateConfig, PostprocessConfig, TrainConfig
from magicapture_core.languages import _

ELSEWHERE = {
    "subject_kind", "subject_words", "trained", "masked", "prior_weight", "prior_pictures",
    "stop_when_settled",
}  # fmt: skip
"""Settings that another step asks for, or that only the evaluation's other methods change."""
FORM = tuple(field.name for field in dataclasses.fields(TrainConfig) if field.name not in ELSEWHERE)
"""Settings that the form of the step “Learn” has."""
SHOWN: dict[type, tuple[str, ...]] = {
    TrainConfig: FORM, GenerateConfig: ("steps", "guidance_scale"), PostprocessConfig: ("fidelity",),
}  # fmt: skip
"""What the page explains in config.py's words: no more is translated."""


def help_texts(config: type = TrainConfig) -> dict[str, str]:
    """The attribute docstring of each setting in SHOWN, as one line."""
    return {name: _(text) for name, text in _english(config).items()}


def label(name: str) -> str:
    """What a setting is called in a form."""
    return _(_named(name))


def sentences() -> list[str]:
    """Everything that the functions here translate, in English, for tools/catalogue.py."""
    return [*(text for config in SHOWN for text in _english(config).values()), *map(_named, FORM)]


def _named(name: str) -> str:
    return name.replace("_", " ").capitalize()


@cache
def _english(config: type) -> dict[str, str]:
    tree = ast.parse(inspect.getsource(config_module))
    body = next(
        node.body for node in tree.body if isinstance(node, ast.ClassDef) and node.name == config.__name__
    )
    texts = {}
    for field, text in itertools.pairwise(body):
        if (
            isinstance(field, ast.AnnAssign)
            and isinstance(field.target, ast.Name)
            and field.target.id in SHOWN[config]
            and isinstance(text, ast.Expr)
            and isinstance(text.value, ast.Constant)
        ):
            texts[field.target.id] = " ".join(str(text.value.value).split())
    return texts
