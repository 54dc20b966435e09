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


def help_texts(config: type = TrainConfig) -> dict[str, str]:
    """Each setting's attribute docstring, as one line."""
    return {name: _(text) for name, text in _english(config).items()}


def label(name: str) -> str:
    """What a setting is called in a form."""
    return _(_named(name))


def sentences() -> list[str]:
    """Everything that the functions here translate, in English, for tools/catalogue.py."""
    texts = [
        text
        for config in (TrainConfig, GenerateConfig, PostprocessConfig)
        for text in _english(config).values()
    ]
    return [*texts, *(_named(field.name) for field in dataclasses.fields(TrainConfig))]


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
            and isinstance(text, ast.Expr)
            and isinstance(text.value, ast.Constant)
        ):
            texts[field.target.id] = " ".join(str(text.value.value).split())
    return texts
