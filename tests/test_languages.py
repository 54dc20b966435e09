"""What is said in which language, with toy catalogues in a temporary folder; and the real catalogues themselves."""

from __future__ import annotations

import copy
import dataclasses
import json
import pickle
import re
import string
import threading
from collections.abc import Iterator
from contextvars import copy_context
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from babel.messages.catalog import Message
from toy_catalogues import catalogue_of, spoken_instead

from magicapture_core import languages
from magicapture_core.languages import (
    ENGLISH,
    LANGUAGES,
    N_,
    Said,
    _,
    again,
    dumps,
    language,
    loads,
    n_,
    speaking,
)
from magicapture_core.problems import Problem, RunProblem
from magicapture_core.ui.jobs import Job, Jobs, Stream
from magicapture_core.ui.sessions import Sessions
from magicapture_core.ui.stored_session import StoredPhoto
from tools import catalogue

DARK = "The face of {name} is too dark."
PHOTO, PHOTOS = "{n} photo of {name}", "{n} photos of {name}"
TITLE = N_("Choose photos")
TOY: dict[str, dict[str | tuple[str, str], str | tuple[str, ...]]] = {
    "de": {
        DARK: "{name}: Das Gesicht ist zu dunkel.",
        (PHOTO, PHOTOS): ("{n} Foto von {name}", "{n} Fotos von {name}"),
        TITLE: "Fotos wählen",
        "Broken: {why}": "Kaputt: {why}",
    },
    "zh": {DARK: "{name} 的脸太暗。", (PHOTO, PHOTOS): ("{name} 的 {n} 张照片",), TITLE: "选择照片"},
}


@pytest.fixture
def toy(tmp_path: Path) -> Iterator[None]:
    """Catalogues of two languages, one of which has one form for every number."""
    with spoken_instead(tmp_path, {code: catalogue_of(code, each) for code, each in TOY.items()}):
        yield


@pytest.mark.usefixtures("toy")
class TestSaying:
    def test_english_is_the_sentence_itself(self) -> None:
        assert language() == ENGLISH
        assert _(DARK, name="a.jpg") == "The face of a.jpg is too dark."
        assert [n_(PHOTO, PHOTOS, n, name="Ada") for n in (0, 1, 2)] == [
            "0 photos of Ada", "1 photo of Ada", "2 photos of Ada",
        ]  # fmt: skip
        assert _("") == ""
        assert _("a photo of a {subject}") == "a photo of a {subject}"  # no values: braces stay

    def test_other_languages_have_their_own_order_and_numbers(self) -> None:
        with speaking("de"):
            assert _(DARK, name="a.jpg") == "a.jpg: Das Gesicht ist zu dunkel."
            assert [n_(PHOTO, PHOTOS, n, name="Ada") for n in (1, 5)] == ["1 Foto von Ada", "5 Fotos von Ada"]
            assert _(TITLE) == "Fotos wählen"
        with speaking("zh"):
            assert [n_(PHOTO, PHOTOS, n, name="Ada") for n in (1, 5)] == [
                "Ada 的 1 张照片",
                "Ada 的 5 张照片",
            ]
            assert _("") == ""  # gettext keeps the catalogue's head under it

    def test_what_has_no_translation_is_said_in_english(self) -> None:
        with speaking("zh"):
            assert _("Broken: {why}", why="no disk") == "Broken: no disk"
            assert n_("{n} cat", "{n} cats", 2) == "2 cats"

    def test_speaking_is_nested_and_ends(self) -> None:
        with speaking("de"):
            with speaking("zh"):
                assert language() == "zh"
            assert language() == "de"
            with speaking("tlh"):
                assert (language(), _(TITLE)) == (ENGLISH, TITLE)
            with pytest.raises(ZeroDivisionError), speaking("zh"):
                raise ZeroDivisionError
            assert language() == "de"
        assert language() == ENGLISH

    def test_each_thread_speaks_its_own_language(self) -> None:
        said: dict[str, str] = {}
        together = threading.Barrier(2)

        def speak(code: str) -> None:
            with speaking(code):
                together.wait(timeout=10)
                said[code] = languages._(TITLE)
                together.wait(timeout=10)

        threads = [threading.Thread(target=speak, args=(code,)) for code in TOY]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(timeout=20)
        assert said == {"de": "Fotos wählen", "zh": "选择照片"}
        assert language() == ENGLISH

    def test_a_job_speaks_the_language_of_who_started_it(self) -> None:
        with speaking("de"):
            context = copy_context()
        said: list[str] = []
        thread = threading.Thread(target=context.run, args=(lambda: said.append(languages._(TITLE)),))
        thread.start()
        thread.join(timeout=20)
        assert said == ["Fotos wählen"]


@pytest.mark.usefixtures("toy")
class TestSaidAgain:
    def test_it_is_text_wherever_text_is_wanted(self) -> None:
        said = _(DARK, name="a.jpg")
        assert isinstance(said, Said)
        assert (said, hash(said)) == (str(said), hash(str(said)))
        assert json.loads(json.dumps([said])) == ["The face of a.jpg is too dark."]
        sent = pickle.loads(pickle.dumps(said))  # noqa: S301 - as a Space sends what was done on its GPU
        for same in (copy.copy(said), copy.deepcopy(said), sent):
            with speaking("de"):
                assert again(same) == "a.jpg: Das Gesicht ist zu dunkel."

    def test_texts_without_a_sentence_stay(self) -> None:
        with speaking("de"):
            assert again("Choose photos") == "Choose photos"
            assert again(_(TITLE) + "!") == "Fotos wählen!"

    def test_sentences_within_sentences(self) -> None:
        why = n_(PHOTO, PHOTOS, 3, name="Ada")
        said = _("Broken: {why}", why=why)
        stored = dumps({"said": said})
        for text in (said, loads(stored)["said"]):
            assert text == "Broken: 3 photos of Ada"
            with speaking("de"):
                assert again(text) == "Kaputt: 3 Fotos von Ada"
                assert _(text) == again(text)
        with speaking("de"):
            assert loads(stored) == {"said": "Kaputt: 3 Fotos von Ada"}

    def test_values_are_kept_as_text_or_numbers(self) -> None:
        error = OSError("full")
        said = _(
            "{path}: {share:.1f} of {n}, {error}", path=Path("a"), share=np.float32(0.25), n=3, error=error
        )
        assert said == "a: 0.2 of 3, full"
        assert loads(dumps([said])) == [said]
        assert error not in vars(said)["values"].values()  # or all that its frames hold would live as long

    def test_a_problem_is_told_in_the_language_of_who_reads_it(self) -> None:
        problem = RunProblem(_("Broken: {why}", why="x"))
        with speaking("de"):
            assert str(problem) == "Kaputt: x"
        assert str(problem) == "Broken: x"
        assert str(Problem("as it is")) == "as it is"
        assert (str(Problem()), str(Problem("a", "b"))) == ("", "('a', 'b')")

    def test_a_job_is_told_in_the_language_of_who_looks_at_it(self) -> None:
        def stream(_job: Job) -> Stream:
            yield 1
            raise Problem(_("Broken: {why}", why="x"))

        jobs = Jobs()
        with speaking("de"):
            job = jobs.start("ann", "training", stream)
            assert job.wait(30)
            assert (job.snapshot().state, job.snapshot().problem) == ("failed", "Kaputt: x")
        assert job.snapshot().problem == "Broken: x"
        with speaking("de"):
            job.say(_(TITLE))
        assert job.snapshot().stage == TITLE
        assert jobs.close(30)

    def test_verdicts_of_a_session_are_read_in_two_languages(self, tmp_path: Path) -> None:
        sessions = Sessions(tmp_path / "runs")
        key, _session = sessions.create()
        with sessions.changing(key) as session:
            reasons = [_(DARK, name="a.jpg"), n_(PHOTO, PHOTOS, 2, name="Ada"), "Stored by an older version."]
            session.photos["subject"] = [StoredPhoto("1", "a.jpg", "1", "1.webp", 8, 8, "warn", reasons)]
        with speaking("de"), sessions.changing(key) as session:  # written again by a German page
            assert session.photos["subject"][0].reasons == [
                "a.jpg: Das Gesicht ist zu dunkel.", "2 Fotos von Ada", "Stored by an older version.",
            ]  # fmt: skip
        assert sessions.find(key).photos["subject"][0].reasons == reasons
        assert session.photos["subject"][0] != sessions.find(key).photos["subject"][0]

    def test_a_session_of_an_older_version_is_read(self, tmp_path: Path) -> None:
        sessions = Sessions(tmp_path / "runs")
        key, session = sessions.create()
        session.photos["subject"] = [StoredPhoto("1", "a.jpg", "1", "1.webp", 8, 8, "warn", ["Too dark."])]
        values = dataclasses.asdict(session)
        del values["folder"], values["shown"]
        (session.folder / "session.json").write_text(json.dumps(values), encoding="utf-8")
        with speaking("de"):
            assert sessions.find(key).photos["subject"][0].reasons == ["Too dark."]


OTHERS = [code for code in LANGUAGES if code != ENGLISH]
TAG = re.compile(r"<[^<>]+>")


def messages(code: str) -> list[Message]:
    """The translations of a language; none where it has no catalogue."""
    return [message for message in catalogue.translated(code) if message.id]


def pairs(message: Message) -> list[tuple[str, str]]:
    """Each translated form with the English one that it stands for."""
    if isinstance(message.id, str):
        return [(message.id, str(message.string))]
    *_first, many = message.id
    forms = list(message.string)
    english = [message.id[0], *[many] * (len(forms) - 1)] if len(forms) > 1 else [many]
    return list(zip(english, map(str, forms), strict=True))


def fields(sentence: str) -> set[tuple[str, str, str]]:
    """Placeholders with how they are written: name, format, conversion."""
    return {
        (name, spec or "", how or "") for _text, name, spec, how in string.Formatter().parse(sentence) if name
    }


def disagreements(message: Message) -> list[str]:
    """What differs between a sentence and its translation that must not."""
    found = []
    for english, said in pairs(message):
        try:
            # A form for one thing alone may say "one", or no number, where English says {n}, and the other way round.
            number = (
                {("n", "", "")} if not isinstance(message.id, str) and english == message.id[0] else set()
            )
            if fields(english) - number != fields(said) - number:
                found.append(f"placeholders: {english!r} → {said!r}")
        except ValueError as error:
            found.append(f"{said!r}: {error}")
        if sorted(TAG.findall(english)) != sorted(TAG.findall(said)):
            found.append(f"tags: {english!r} → {said!r}")
        edges = [(len(text) - len(text.lstrip()), len(text) - len(text.rstrip())) for text in (english, said)]
        if said and edges[0] != edges[1]:
            found.append(f"spaces at the ends: {english!r} → {said!r}")
    return found


@pytest.mark.parametrize("code", OTHERS)
def test_every_language_has_a_catalogue(code: str) -> None:
    assert (languages.CATALOGUES / f"{code}.po").is_file()


@pytest.mark.parametrize("code", OTHERS)
def test_no_sentence_is_missing_left_over_or_doubtful(code: str) -> None:
    if not (languages.CATALOGUES / f"{code}.po").is_file():
        return
    there = {message.id: message for message in messages(code)}
    wanted = {message.id for message in catalogue.sentences() if message.id}
    assert not wanted - there.keys(), "run python -m tools.catalogue, then translate what is new"
    assert not there.keys() - wanted, "run python -m tools.catalogue"
    assert not [each.id for each in there.values() if catalogue.is_missing(each)]
    assert not [each.id for each in there.values() if each.fuzzy]
    assert not catalogue.translated(code).obsolete


@pytest.mark.parametrize("code", OTHERS)
def test_translations_agree_with_their_sentences(code: str) -> None:
    found = [fault for message in messages(code) for fault in disagreements(message)]
    assert not found, "\n".join(found)


@pytest.mark.parametrize("code", OTHERS)
def test_every_number_has_its_form(code: str) -> None:
    forms = catalogue.translated(code).num_plurals
    assert (forms > 1) == (code in ("de", "es"))  # Babel's Spanish has a third, for millions
    assert all(len(each.string) == forms for each in messages(code) if not isinstance(each.id, str))


@pytest.mark.parametrize(
    ("english", "said", "faults"),
    [
        ("Photo {name}", "Foto {name}", 0),
        ("Photo {name}", "Foto {nom}", 1),
        ("Photo {name}", "Foto {name", 1),
        ("{share:.0f} %", "{share} %", 1),
        ("<b>Two</b> photos", "<b>Zwei</b> Fotos", 0),
        ("<b>Two</b> photos", "<b>Zwei<b> Fotos", 1),
        ("Two ", "Zwei", 1),
        (("{n} cat", "{n} cats"), ("eine Katze", "{n} Katzen"), 0),
        (("{n} cat", "{n} cats"), ("eine Katze", "Katzen"), 1),
        (("{n} cat", "{n} cats"), ("{n}只猫",), 0),
        (("{n} cat", "{n} cats"), ("猫",), 1),
        (("the cat of {name}", "{n} cats of {name}"), ("die Katze", "{n} Katzen von {name}"), 1),
    ],
)
def test_the_comparison_finds_what_differs(english: Any, said: Any, faults: int) -> None:
    assert len(disagreements(Message(english, said))) == faults
