"""What a visitor who reads another language asks for, and what they are told about it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from toy_catalogues import catalogue_of, spoken_instead

from magicapture_core.languages import again, dumps, loads, speaking
from magicapture_core.prompts import expand, unknown_said
from magicapture_core.ui import prompt_chips
from magicapture_core.ui.comparison_jobs import strength_in_words
from magicapture_core.ui.portrait_offer import EDITS
from magicapture_core.ui.prompt_words import from_page, in_plain_words, to_page, with_tokens

PROMPT = "a photo of a {subject} in the {style}, smiling"
MISSING = "The prompt does not mention {name}, so the learned style will hardly show."
TOY = {
    "de": {
        "me": "mir", "this look": "diesem Look", "smiling": "lächelnd",
        "a photo of me in this look, smiling": "ein Foto von mir in diesem Look, lächelnd",
        MISSING: "{name} steht nicht in der Beschreibung.",
        "The model does not know: {words}.": "Das Modell kennt nicht: {words}.",
        "Strength {scale}: fair likeness ({likeness}), look {look}": "Stärke {scale}: {look}, ähnlich ({likeness})",
        "The model reads English, so describe the picture in English.": "Bitte auf Englisch.",
    },
    "zh": {"me": "我", "this look": "这个风格"},
}  # fmt: skip


@pytest.fixture(autouse=True)
def toy(tmp_path: Path) -> Iterator[None]:
    """Catalogues of two languages; the others have none."""
    with spoken_instead(tmp_path, {code: catalogue_of(code, each) for code, each in TOY.items()}):
        yield


@pytest.mark.parametrize(
    ("code", "shown"),
    [
        ("en", "a photo of me in this look, smiling"),
        ("de", "a photo of mir in diesem Look, smiling"),
        ("zh", "a photo of 我 in 这个风格, smiling"),
    ],
)
def test_a_description_is_understood_in_every_language(code: str, shown: str) -> None:
    with speaking(code):
        assert to_page(PROMPT) == shown
    for other in ("en", "de", "zh"):
        with speaking(other):
            assert from_page(shown) == PROMPT
            assert with_tokens(shown).count("mc-token") == 2


def test_no_word_is_mistaken_for_what_was_learned() -> None:
    with speaking("de"):
        assert from_page("mirror, camera, men, some 我们") == "mirror, camera, men, some 我们"


def test_what_was_learned_is_found_where_no_spaces_stand() -> None:
    with speaking("zh"):
        assert with_tokens("一张我在这个风格中的照片") == (
            '一张<b class="mc-token">我</b>在<b class="mc-token">这个风格</b>中的照片'
        )


def test_chips_show_the_visitors_language_and_insert_english() -> None:
    with speaking("de"):
        html = prompt_chips.chips([PROMPT], EDITS, "a photo")
        assert '<button type="button" class="mc-chip" data-act="edit" data-id="smiling"' in html
        assert ">lächelnd</button>" in html
        assert "ein Foto von" in html  # another description for this look
        assert prompt_chips.changed("a photo", "edit", "me") == "a photo of mir"
        assert prompt_chips.changed("a photo of mir", "edit", "smiling") == "a photo of mir, smiling"
        assert prompt_chips.changed("x", "prompt", PROMPT) == "a photo of mir in diesem Look, smiling"


def test_only_what_is_missing_is_offered() -> None:
    assert 'data-id="me"' in prompt_chips.chips([], EDITS, "a photo at the camera in this look")
    assert 'data-id="me"' not in prompt_chips.chips([], EDITS, "Me in this look")


def test_whoever_reads_another_language_is_told_to_write_english() -> None:
    assert "English" not in prompt_chips.reading("a photo of me", "")
    with speaking("de"):
        assert "Bitte auf Englisch." in prompt_chips.reading("", "")


def test_warnings_are_stored_for_every_language() -> None:
    warning = expand("a photo of a {subject}").warnings[0]
    with speaking("de"):
        assert in_plain_words(again(warning)) == "“diesem Look” steht nicht in der Beschreibung."
        assert loads(dumps([unknown_said(["Hut"], "large")])) == ["Das Modell kennt nicht: Hut."]
    assert in_plain_words(warning).startswith("The description does not mention “this look”")


def test_strengths_are_told_in_whole_sentences() -> None:
    said = strength_in_words(0.7, 0.45, 0.341)
    assert said == "Strength 0.7: fair likeness (45), look 34%"
    assert strength_in_words(0.3, 0.7, 0.2).startswith("Strength 0.3: strong likeness (70)")
    assert strength_in_words(1.1, -0.1, 0.2).startswith("Strength 1.1: weak likeness (0)")
    for style in (-0.3, -0.004, 0.0):
        assert strength_in_words(1.1, 0.4, style).endswith("look 0%")
    with speaking("de"):
        assert again(said) == "Stärke 0.7: 34%, ähnlich (45)"
