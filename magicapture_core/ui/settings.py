"""A form with every training setting, built from TrainConfig and its docstrings (setting_texts.py)."""

from __future__ import annotations

import types
import typing
from typing import Any, Literal, get_args, get_origin

import gradio as gr
from gradio.components import Component

from magicapture_core.config import TrainConfig, to_dict
from magicapture_core.languages import N_, _
from magicapture_core.ui.setting_texts import FORM, help_texts, label

GROUPS = {
    N_("Length"): ("ti_steps", "lora_steps", "batch_size", "gradient_accumulation", "resolution", "seed", "flip"),
    N_("Speed of learning"): (
        "ti_learning_rate", "lora_learning_rate", "embedding_learning_rate", "learning_rate_decay",
        "lora_weight_decay", "max_grad_norm",
    ),
    N_("What is trained"): (
        "lora_rank", "lora_alpha", "lora_targets", "initial_words", "subject_init_word", "style_init_std",
        "embedding_norm",
    ),
    N_("Weights of the objectives"): (
        "lambda_id", "lambda_attn", "lambda_colour", "lambda_lightness", "composed_weight", "style_weight",
        "style_weight_until", "identity_time_limit", "identity_decode", "attention_scale", "attention_resolution",
    ),
}  # fmt: skip
"""Settings by subject; those not named here come last."""


def layout() -> dict[str, Component]:
    """Components by setting, in groups; call it where the form is to stand."""
    grouped = {name for group in GROUPS.values() for name in group}
    groups = {**GROUPS, N_("Looking and keeping"): tuple(name for name in FORM if name not in grouped)}
    components: dict[str, Component] = {}
    for title, group in groups.items():
        gr.HTML(f'<h3 class="mc-sub">{_(title)}</h3>')
        with gr.Row(equal_height=True, elem_classes="mc-settings"):
            for name in group:
                components[name] = _component(name)
    return {name: components[name] for name in FORM}


def _component(name: str) -> Component:
    hint = typing.get_type_hints(TrainConfig)[name]
    default = getattr(TrainConfig(), name)
    options: dict[str, Any] = {
        "label": label(name), "info": help_texts().get(name), "min_width": 230,
        "interactive": True,
    }  # fmt: skip
    if hint is bool:
        return gr.Checkbox(default, **options)
    if get_origin(hint) is Literal:
        return gr.Dropdown(list(get_args(hint)), value=default, **options)
    if get_origin(hint) is tuple:
        return gr.CheckboxGroup(list(get_args(get_args(hint)[0])), value=list(default), **options)
    if hint is str:
        return gr.Textbox(default, **options)
    return gr.Number(default, **options)


def values_of(config: TrainConfig) -> dict[str, Any]:
    """What the form shows for a config."""
    return {name: value for name, value in to_dict(config).items() if name in FORM}


def from_form(values: dict[str, Any]) -> dict[str, Any]:
    """What the form holds as plain settings: numbers come as floats, empty ones as None."""
    hints = typing.get_type_hints(TrainConfig)
    return {name: _typed(hints[name], value) for name, value in values.items()}


def _typed(hint: Any, value: Any) -> Any:
    options = get_args(hint) if get_origin(hint) is types.UnionType else (hint,)
    if type(None) in options and value == 0:
        # An empty gr.Number that was hidden holds 0 when it is seen again (gradio 6.31). No setting that may be empty
        # may be 0.
        return None
    if int in options and isinstance(value, float) and value.is_integer():
        return int(value)
    return value
