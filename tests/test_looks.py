"""Several looks of one visitor: ticked, told apart, learned one after the other."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
import pytest
from test_limits import SHORT
from toy import save_toy

from magicapture_core.concepts import doubt, prepare_concept
from magicapture_core.faces import choose_analyser
from magicapture_core.masks import Masks
from magicapture_core.photos import read_photo
from magicapture_core.presets import load_preset
from magicapture_core.problems import Problem
from magicapture_core.ui.look_cards import LookCard, learning_order, look_cards
from magicapture_core.ui.ready_looks import OWN_TITLE, look_names, look_title
from magicapture_core.ui.sample_people import sample_people
from magicapture_core.ui.session_runs import not_ready
from magicapture_core.ui.step_portraits import PortraitsStep
from magicapture_core.ui.stored_session import OWN, UNSEEN, StoredRun, session_from
from magicapture_core.ui.studio import Studio

PEOPLE = {person.name: person.photos for person in sample_people()}
PATIENCE = 120.0


@pytest.fixture
def visit(tmp_path: Path) -> Iterator[tuple[Studio, str]]:
    """A server's inside on the toy model, and the key of a session with two photos of a person."""
    studio = Studio(tmp_path / "runs", model=str(save_toy(tmp_path / "toy")))
    key, _ = studio.sessions.create()
    studio.photos.consent(key, True)
    studio.photos.add(key, "subject", [(path, path.name) for path in PEOPLE["alma"][:2]])
    yield studio, key
    studio.close()


def runs_after_all(studio: Studio, key: str) -> list[Any]:
    """The session's trainings once none works or is to come."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        session = studio.sessions.find(key)
        if studio.jobs.active(session.id) is None and not studio.training_jobs.coming(session):
            return studio.sessions.find(key).runs
        time.sleep(0.02)
    raise AssertionError("the trainings never ended")


def test_looks_are_ticked_and_keep_their_photos(visit: tuple[Studio, str]) -> None:
    studio, key = visit
    for look in ("sunset", "neon"):
        session = studio.photos.toggle_look(key, look)
    assert session.looks == ["sunset", "neon"]
    assert session.preset == "sunset"
    sunset = [photo.id for photo in session.usable("style")]
    assert len(sunset) == len(session.usable("style", "neon")) == 6
    before = {look: session.fingerprint(look) for look in ("sunset", "neon")}
    assert before["sunset"] != before["neon"]
    assert session.fingerprint() == before["sunset"]
    session = studio.photos.toggle_look(key, "sunset")
    assert session.looks == ["neon"]
    session = studio.photos.toggle_look(key, "sunset")
    assert [photo.id for photo in session.usable("style", "sunset")] == sunset  # not stored twice
    painted = np.full((64, 64), 255, np.uint8)
    painted[:32] = 0
    session = studio.masks.paint(key, "style", sunset[0], painted)
    assert session.fingerprint("sunset") != before["sunset"]
    assert session.fingerprint("neon") == before["neon"]
    with pytest.raises(Problem, match="no preset 'nothing'"):
        studio.photos.toggle_look(key, "nothing")


def test_own_style_photos_stay_beside_ready_made_looks(visit: tuple[Studio, str]) -> None:
    studio, key = visit
    studio.photos.toggle_look(key, "sunset")
    session, _ = studio.photos.add(key, "style", [(PEOPLE["bruno"][0], "mine.jpg")])
    assert session.looks == ["sunset", OWN]
    assert [photo.name for photo in session.usable("style", OWN)] == ["mine.jpg"]
    assert look_names(session)[:2] == ["sunset", OWN]
    session = studio.photos.toggle_look(key, OWN)
    assert OWN not in session.looks
    assert look_names(session)[1] == OWN  # it is drafted all the same
    assert (look_title("sunset"), look_title(OWN)) == ("Sunset", OWN_TITLE)


@pytest.mark.long
def test_ticked_looks_are_learned_one_after_the_other_and_not_twice(visit: tuple[Studio, str]) -> None:
    studio, key = visit
    for look in ("sunset", "neon", "passport"):
        studio.photos.toggle_look(key, look)
    studio.training_jobs.start(key, None, "custom", SHORT)
    session = studio.sessions.find(key)
    assert studio.training_jobs.coming(session) == ["neon", "passport"]
    studio.photos.toggle_look(key, "neon")  # no longer wanted
    first, second = runs_after_all(studio, key)
    assert [(run.title, run.look, run.step) for run in (first, second)] == [
        ("Sunset", "sunset", first.total), ("Passport photo", "passport", second.total)
    ]  # fmt: skip
    assert second.settings == first.settings
    session = studio.sessions.find(key)
    assert session.run == second.id
    assert [studio.training_jobs.learned(session, look) for look in ("sunset", "neon")] == [True, False]

    studio.photos.toggle_look(key, "neon")
    studio.training_jobs.start(key, None, "custom", SHORT)
    assert [run.title for run in runs_after_all(studio, key)] == ["Sunset", "Passport photo", "Neon"]
    studio.training_jobs.start(key, None, "custom", SHORT)  # all are learned: all of them once more
    titles = [run.title for run in runs_after_all(studio, key)]
    assert titles[3:] == ["Sunset 2", "Passport photo 2", "Neon 2"]


def test_whoever_looks_at_portraits_is_not_thrown_to_the_next_look(visit: tuple[Studio, str]) -> None:
    studio, key = visit
    for look in ("sunset", "neon"):
        studio.photos.toggle_look(key, look)
    with gr.Blocks():
        step = PortraitsStep(studio)
    first = studio.training_jobs.start(key, None, "custom", {**SHORT, "lora_steps": 40})
    deadline = time.monotonic() + PATIENCE
    # A checkpoint is there a moment before adapter/ is, which portraits are made with.
    while not_ready(studio.sessions.find(key), first) and time.monotonic() < deadline:
        time.sleep(0.01)
    session = studio.runs.take_ready(key)  # at the step “Portraits”, while it still learns
    assert (session.run, session.looked_at) == (first.id, True)
    seen = step.watch(session, None, None, "")[1]
    _, second = runs_after_all(studio, key)
    session = studio.sessions.find(key)
    assert session.run == first.id
    updates, _ = step.watch(session, seen, None, "")
    assert updates[step.run].value == first.id
    assert [each for _, each in updates[step.run].choices] == [second.id, first.id]  # there to be chosen
    assert studio.training_jobs.job(session) is None
    session = studio.runs.leave_portraits(key)  # at the step “Learn” the newest training is shown
    assert session.run == second.id
    assert studio.training_jobs.job(session) is not None


def test_what_follows_a_stopped_training_is_not_begun(visit: tuple[Studio, str]) -> None:
    studio, key = visit
    for look in ("sunset", "neon"):
        studio.photos.toggle_look(key, look)
    studio.training_jobs.start(key, None, "custom", {**SHORT, "ti_steps": 5000})
    studio.training_jobs.stop(key)
    (run,) = runs_after_all(studio, key)
    assert run.look == "sunset"
    assert run.then == ["neon"]  # resumed, it goes on to the next
    assert studio.training_jobs.coming(studio.sessions.find(key)) == []


def test_a_session_of_release_0_2_is_read(visit: tuple[Studio, str]) -> None:
    studio, key = visit
    session = studio.photos.use_preset(key, "passport")
    values = json.loads((session.folder / "session.json").read_text(encoding="utf-8"))
    del values["looks"]
    values |= {
        "preset": "passport",
        "drafts_of": "abc",
        "drafts": [{"picture": "x", "seed": 0, "identity": None}],
    }
    for role in values["photos"]:
        for photo in values["photos"][role]:
            del photo["look"], photo["unticked"]
    read = session_from(session.folder, session.shown, values)
    assert dataclasses.replace(read, drafts=[]) == dataclasses.replace(session, drafts=[])
    assert read.drafts == []


def test_photos_are_stored_before_they_are_looked_at(visit: tuple[Studio, str]) -> None:
    studio, key = visit
    files = [(path, f"more-{path.name}") for path in PEOPLE["alma"][2:4]]
    levels = [
        [photo.level for photo in session.photos["subject"][2:]]
        for session, _ in studio.photos.adding(key, "subject", files)
    ]
    assert levels == [
        [UNSEEN], [UNSEEN, UNSEEN], ["accept", UNSEEN], ["accept", "accept"], ["accept", "accept"]
    ]  # fmt: skip


def test_whoever_looks_at_photos_tells_at_last_what_others_have_seen(visit: tuple[Studio, str]) -> None:
    studio, key = visit
    files = [(path, f"more-{path.name}") for path in PEOPLE["alma"][2:4]]
    upload = studio.photos.adding(key, "subject", files)
    for _ in range(3):
        session, refused = next(upload)
    assert [photo.level for photo in session.photos["subject"][2:]] == ["accept", UNSEEN]
    studio.photos.look_at_all(key)  # as another answer of the same page does, at the same time
    *_, (session, refused) = upload
    assert [photo.level for photo in session.photos["subject"][2:]] == ["accept", "accept"]
    assert refused == []


def test_nothing_is_made_of_photos_without_consent(visit: tuple[Studio, str]) -> None:
    studio, key = visit
    session = studio.photos.use_preset(key, "passport")
    assert studio.drafts.next_look(session) == "passport"
    session = studio.photos.consent(key, False)
    assert studio.drafts.next_look(session) is None
    with pytest.raises(Problem, match="Tick the box"):
        studio.training_jobs.start(key, None, "custom", SHORT)
    studio.photos.use_person(key, "alma")  # nobody: there is nobody to ask
    assert studio.drafts.next_look(studio.sessions.find(key)) == "passport"


def test_no_training_goes_on_with_photos_whose_consent_was_withdrawn(
    visit: tuple[Studio, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    studio, key = visit
    begun: list[str] = []
    monkeypatch.setattr(studio.training_jobs, "_begin", lambda _key, run_id, *_: begun.append(run_id))
    studio.photos.use_preset(key, "passport")
    with studio.sessions.changing(key) as session:
        session.runs.append(
            StoredRun("r", "r", "toy", session.fingerprint(), "quick", {}, 0.0, preset="passport")
        )
        session.run = "r"
    studio.photos.consent(key, False)
    with pytest.raises(Problem, match="Tick the box"):
        studio.training_jobs.resume(key)
    assert begun == []
    studio.photos.consent(key, True)
    studio.training_jobs.resume(key)
    assert begun == ["r"]


def test_the_strengths_of_every_look_can_be_compared(visit: tuple[Studio, str]) -> None:
    studio, key = visit
    for look in ("sunset", "neon"):
        studio.photos.toggle_look(key, look)
    with studio.sessions.changing(key) as session:
        kind = {"subject_kind": "person"}
        for look in session.looks:
            run = StoredRun(look, look, "toy", session.fingerprint(look), "quick", kind, 0.0, preset=look)
            session.runs.append(run)
            (session.run_folder(run) / "checkpoint-000001").mkdir(parents=True)
    compared = {}
    for run in session.runs:
        session = studio.runs.choose(key, run.id)
        assert studio.comparison_jobs.lacking(session) is None
        compared[run.look] = studio.comparison_jobs.photos_of(session, run)["style"]
    for look, photos in compared.items():
        own = read_photo(load_preset(look).photos[0]).pixels
        assert np.array_equal(photos[0].pixels, own), look


def test_cards_escape_and_say_what_a_picture_is() -> None:
    card = LookCard("a<b", "T<", "D&", "x.jpg", True, ("y.jpg",))
    shown = look_cards([card, dataclasses.replace(card, name="c", draft=False)], ["c"])
    assert "T<" not in shown
    assert shown.count("Draft: the look, not yet your face") == 1
    assert shown.count('aria-pressed="true"') == 1
    assert learning_order([("One", "now")]) == ""
    assert 'class="mc-is-now"' in learning_order([("One", "now"), ("Two", "")])


def test_a_wrong_mask_is_doubted_and_a_right_one_is_not() -> None:
    analyser = choose_analyser("bundled")[0]
    photo = read_photo(PEOPLE["dana"][0])
    (example,) = prepare_concept(
        [photo], "subject", resolution=256, analyser=analyser, framing="aligned"
    ).examples
    assert doubt(example) is None
    face = example.masks.face

    def with_mask(change: Any) -> Any:
        mask = face.clone()
        change(mask)
        return dataclasses.replace(example, masks=Masks(mask))

    def cut(mask: Any) -> None:
        mask[..., : mask.shape[-1] // 2] = 0

    def bay(mask: Any) -> None:
        rows, columns = np.argwhere(mask[0].numpy() > 0).T
        mask[0, rows.min() : rows.min() + 25, columns.min() : int(columns.mean())] = 0

    def spill(mask: Any) -> None:
        mask[...] = 1

    assert doubt(with_mask(cut)) == "Part of the face seems to be missing."
    assert doubt(with_mask(bay)) == "The edge of the face may be wrong."
    assert doubt(with_mask(spill)) == "More than the face seems to be in it."
    assert doubt(with_mask(lambda mask: mask.zero_())) == "No part of the face is found."
    assert doubt(dataclasses.replace(example, landmarks=None)) is None  # a style photo without a face
