"""Settings are checked where they are made, whoever makes them."""

from __future__ import annotations

import ast
import inspect
import itertools
from dataclasses import fields
from typing import Any

import pytest

from magicapture_core import config
from magicapture_core.config import GenerateConfig, TrainConfig, from_dict, to_dict
from magicapture_core.problems import Problem


def test_defaults_are_the_papers() -> None:
    c = TrainConfig()
    assert (c.ti_steps, c.lora_steps, c.resolution) == (1200, 1500, 512)
    assert (c.ti_learning_rate, c.lora_learning_rate, c.embedding_learning_rate) == (5e-4, 1e-4, 1e-5)
    assert (c.batch_size, c.gradient_accumulation, c.items_per_step) == (1, 4, 4)
    assert (c.lambda_id, c.lambda_attn, c.identity_time_limit) == (0.25, 2.5, 0.8)
    assert (c.lora_rank, c.lora_targets, c.style_weight, c.style_init_std) == (4, ("cross",), 2.0, 0.017)


@pytest.mark.parametrize(
    "made",
    [
        TrainConfig(lora_targets=("cross", "self"), lora_alpha=8),
        TrainConfig(seed=2**63 - 1),
        GenerateConfig(seed=2**63 - 1, near=(2**63 - 1,)),
    ],
)
def test_round_trip(made: Any) -> None:
    assert from_dict(type(made), to_dict(made)) == made


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"step": 3}, "no setting 'step'"),
        ({"ti_steps": -1}, "ti_steps must be 0 or more, got -1"),
        ({"ti_steps": "many"}, "ti_steps must be of type int, got 'many'"),
        ({"ti_steps": True}, "ti_steps must be of type int"),
        ({"ti_learning_rate": float("nan")}, "ti_learning_rate must be a finite number"),
        ({"lora_targets": ["attention"]}, "lora_targets must be one of"),
        ({"lora_targets": ["self"]}, 'at least "cross"'),
        ({"lora_targets": "cross"}, "must be a list"),
        ({"resolution": 100}, "a multiple of 8"),
        ({"ti_steps": 0, "lora_steps": 0}, "1 or more"),
        ({"identity_time_limit": 0.0}, "above 0"),
        ({"lora_alpha": 0.0}, "None or more than 0"),
        ({"subject_init_word": " "}, "a word"),
    ],
)
def test_bad_training_settings(values: dict[str, Any], said: str) -> None:
    with pytest.raises(Problem, match=said):
        from_dict(TrainConfig, values)


@pytest.mark.parametrize(
    "values",
    [{"prompt": " "}, {"count": 0}, {"steps": 0}, {"seed": -1}, {"width": 100}, {"adapter_scale": 3.0}],
)
def test_bad_generation_settings(values: dict[str, Any]) -> None:
    with pytest.raises(Problem, match=next(iter(values))):
        from_dict(GenerateConfig, values)


@pytest.mark.parametrize("cls", [TrainConfig, GenerateConfig])
def test_every_setting_explains_itself(cls: type) -> None:
    """Command line, wizard and model card show these texts."""
    body = next(
        node for node in ast.parse(inspect.getsource(config)).body
        if isinstance(node, ast.ClassDef) and node.name == cls.__name__
    ).body  # fmt: skip
    explained = {
        first.target.id
        for first, second in itertools.pairwise(body)
        if isinstance(first, ast.AnnAssign) and isinstance(first.target, ast.Name)
        and isinstance(second, ast.Expr) and isinstance(second.value, ast.Constant)
    }  # fmt: skip
    assert explained == {field.name for field in fields(cls)}
