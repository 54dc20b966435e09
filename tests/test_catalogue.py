"""The command that collects sentences for translation finds all of them."""

from __future__ import annotations

import io

from magicapture_core.presets import load_preset, preset_names
from magicapture_core.ui.prompt_words import to_page
from tools.catalogue import KEYWORDS, of_json, of_python, sentences

SOURCE = """
# Translators: a button
button = _("Save")
html = f"<b>{escape(_('Use {name}', name=name))}</b> {n_('{n} photo', '{n} photos', len(photos))}"
made = _(f"{name} is late")
other = gettext("Not ours")
"""


def test_sentences_within_f_strings_are_found() -> None:
    found = list(of_python(io.BytesIO(SOURCE.encode()), KEYWORDS, ["Translators:"]))
    assert [(name, texts) for _line, name, texts, _comments in found] == [
        ("_", ("Save",)),
        ("_", (None,)),
        ("n_", ("{n} photo", "{n} photos", None)),
        ("_", ("Use {name}",)),
    ]
    assert found[0][3] == ["Translators: a button"]


def test_titles_and_descriptions_are_found_at_any_depth() -> None:
    source = (
        b'{"title": "One", "prompts": ["a {subject}, smiling"], "more": [{"description": "Two", "id": "x"}]}'
    )
    assert [texts for _line, _name, texts, _comments in of_json(io.BytesIO(source), (), ())] == [
        ("One",),
        ("me, smiling",),
        ("Two",),
    ]


def test_every_preset_is_in_the_catalogue() -> None:
    there = {message.id for message in sentences()}
    for name in preset_names():
        preset = load_preset(name)
        assert {preset.title, preset.description, *map(to_page, preset.prompts)} <= there
