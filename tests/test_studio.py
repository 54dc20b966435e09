"""A visitor's session without a browser: what is removed with what, and which training portraits are made with."""

from __future__ import annotations

import dataclasses
import json
import os
import secrets
import threading
import time
import zipfile
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gradio as gr
import numpy as np
import pytest
from PIL import Image
from test_limits import with_photos
from toy import save_toy

from magicapture_core.checkpoints import Run
from magicapture_core.concepts import verdicts
from magicapture_core.config import GenerateConfig, TrainConfig, from_dict
from magicapture_core.generation import Portrait
from magicapture_core.languages import speaking
from magicapture_core.problems import Problem
from magicapture_core.provenance import save_picture
from magicapture_core.run_facts import FIRST_FAMILY, RunFacts
from magicapture_core.ui import cards, page, settings
from magicapture_core.ui.comparison_jobs import COMPARISON, _judges_in_words
from magicapture_core.ui.jobs import Job
from magicapture_core.ui.past_trainings import PastTrainings
from magicapture_core.ui.portrait_jobs import PORTRAITS
from magicapture_core.ui.sample_people import sample_people
from magicapture_core.ui.session_portraits import _maps, drop_portrait
from magicapture_core.ui.session_runs import not_ready
from magicapture_core.ui.setting_texts import FORM
from magicapture_core.ui.step_finish import _report
from magicapture_core.ui.step_photo_list import unusable
from magicapture_core.ui.stored_session import Session, StoredPortrait, StoredRun
from magicapture_core.ui.studio import Studio
from magicapture_core.ui.training_jobs import TRAINING
from magicapture_core.ui.training_probe import PROBE


@pytest.fixture
def visit(tmp_path: Path) -> Iterator[tuple[Studio, str]]:
    """A server's inside on the toy model and the key of a session that may add photos."""
    studio = Studio(tmp_path / "runs", model=str(save_toy(tmp_path / "toy")), any_model=False)
    key, _ = studio.sessions.create()
    studio.photos.consent(key, True)
    yield studio, key
    studio.close()


def add_run(studio: Studio, key: str, name: str, *, saved: bool) -> StoredRun:
    run = StoredRun(name, name, "toy", "", "quick", {}, 0.0)
    with studio.sessions.changing(key) as session:
        session.runs.append(run)
        session.run = name
        adapter = session.run_folder(run) / "adapter"
        adapter.mkdir(parents=True)
        if saved:
            for name in ("subject", "style"):
                (adapter / f"{name}.safetensors").write_bytes(b"x")
    return run


def add_portrait(session: Session, run: str) -> StoredPortrait:
    def shown(suffix: str) -> str:
        path = session.new_shown(suffix)
        path.write_bytes(b"picture")
        return str(path)

    portrait = StoredPortrait(secrets.token_hex(8), run, shown(".png"), "a photo", 1, None, {}, [])
    session.portraits.append(portrait)
    session.finished[portrait.id] = {name: shown(".webp") for name in ("file", "after", "before")}
    return portrait


def test_a_discarded_training_takes_all_that_was_made_with_it(visit: tuple[Studio, str]) -> None:
    studio, key = visit
    for name in ("first", "second"):
        add_run(studio, key, name, saved=True)
    with studio.sessions.changing(key) as session:
        kept = add_portrait(session, "first")
        add_portrait(session, "second")
        rows = [{"picture": str(session.new_shown(".jpg"))}]
        Path(rows[0]["picture"]).write_bytes(b"strip")
        session.runs[1].choice = {"rows": rows}
    studio.portraits.pack(key, session.runs[1])
    assert studio.sessions.find(key).archive_run == "second"
    session = studio.runs.discard(key, "second")
    assert session.archive is None
    left = {str(path) for path in session.shown.iterdir()}
    assert left == {kept.picture, *session.finished[kept.id].values()}
    assert session.run == "first"


def test_what_was_exported_goes_with_its_training(
    visit: tuple[Studio, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    studio, key = visit
    add_run(studio, key, "first", saved=True)

    def export_run(_run: Path, format: str, out: Path, **_: Any) -> list[Path]:
        out.mkdir(parents=True)
        (out / f"{format}.safetensors").write_bytes(b"learned")
        return list(out.iterdir())

    monkeypatch.setattr("magicapture_core.export.export_run", export_run)
    for format in ("diffusers", "kohya", "kohya"):
        (file,) = studio.runs.export(key, format)
    shown = studio.sessions.find(key).shown
    exported = sorted(path.name for path in shown.rglob("*.safetensors"))
    assert exported == ["diffusers.safetensors", "kohya.safetensors"]
    assert file.exists()
    studio.runs.discard(key, "first")
    assert list(shown.iterdir()) == []


@pytest.mark.parametrize(
    ("moment", "dated"),
    [
        ("1970-01-01", (1980, 1, 1, 0, 0, 0)),  # a machine without a clock
        ("2126-05-01", (2107, 12, 31, 23, 59, 58)),  # the last moment: a zip counts in steps of two seconds
        ("2024-05-01", (2024, 5, 1, 12, 0, 0)),
    ],
)
def test_portraits_of_any_date_are_packed(
    visit: tuple[Studio, str], monkeypatch: pytest.MonkeyPatch, moment: str, dated: tuple[int, ...]
) -> None:
    studio, key = visit
    run = add_run(studio, key, "first", saved=True)
    at = datetime.fromisoformat(f"{moment}T12:00:00").timestamp()
    with studio.sessions.changing(key) as session:
        for _ in range(2):
            os.utime(add_portrait(session, "first").picture, (at, at))
    monkeypatch.setattr(time, "time", lambda: at)  # the clock itself may be as wrong
    studio.portraits.pack(key, run)
    with zipfile.ZipFile(studio.sessions.find(key).archive or "") as archive:
        assert [entry.date_time for entry in archive.infolist()] == [dated] * 3
        assert len(json.loads(archive.read("portraits.json"))) == 2
        assert archive.testzip() is None


def test_heat_maps_of_any_words_are_kept_in_their_order(visit: tuple[Studio, str]) -> None:
    """ "file" is a parameter of numpy's writer, and no zip holds a name of 70 000 letters."""
    studio, key = visit
    run = add_run(studio, key, "first", saved=True)
    words = ["{subject}", "file", "h" * 70_000, "args", "été", "{style}"]
    maps = {word: np.full((4, 4), number / 8, np.float32) for number, word in enumerate(words)}
    portrait = Portrait(Image.new("RGB", (8, 8)), "a file", 1, None, {}, maps)
    stored = studio.portraits.keep(key, run, portrait)
    session = studio.sessions.find(key)
    assert studio.portraits.words(session, stored.id) == words
    for number, word in enumerate(words):
        assert (_maps(session, stored.id)[word] == number / 8).all()
        assert studio.portraits.heat(key, stored.id, word).is_file()
    drop_portrait(session, session.portraits[0])
    assert list((session.folder / "attention").iterdir()) == []
    assert list(session.shown.iterdir()) == []


@pytest.mark.parametrize(
    "values", [{"prompt": "a {stlye}"}, {"negative_prompt": "{stlye}"}, {"prompt": "(a:99)"}]
)
def test_prompts_that_cannot_be_read_are_refused_before_a_model_is_loaded(
    visit: tuple[Studio, str], values: dict[str, str]
) -> None:
    studio, key = visit
    add_run(studio, key, "first", saved=True)
    with pytest.raises(Problem, match=r"\{stlye\}; expected only|lets words count 99 times"):
        studio.portrait_jobs.start(key, GenerateConfig(**values))  # type: ignore[arg-type]
    assert studio.portrait_jobs.newest(studio.sessions.find(key)) is None


def test_half_a_file_of_heat_maps_shows_none(visit: tuple[Studio, str]) -> None:
    studio, key = visit
    run = add_run(studio, key, "first", saved=True)
    heat = {"hat": np.ones((4, 4), np.float32)}
    stored = studio.portraits.keep(key, run, Portrait(Image.new("RGB", (8, 8)), "a", 1, None, {}, heat))
    session = studio.sessions.find(key)
    (file,) = (session.folder / "attention").iterdir()
    file.write_bytes(file.read_bytes()[:20])
    assert studio.portraits.words(session, stored.id) == []
    drop_portrait(session, session.portraits[0])
    assert not file.exists()


def test_a_training_that_saved_nothing_does_not_shut_out_the_one_before(visit: tuple[Studio, str]) -> None:
    studio, key = visit
    add_run(studio, key, "good", saved=True)
    add_run(studio, key, "empty", saved=False)
    assert not_ready(studio.sessions.find(key), studio.sessions.find(key).chosen_run())
    assert studio.runs.take_ready(key).run == "good"
    assert studio.runs.take_ready(key).run == "good"


def test_a_training_that_the_queue_refuses_leaves_the_session_as_it_was(
    visit: tuple[Studio, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    studio, key = visit
    with_photos(studio, key)
    add_run(studio, key, "good", saved=True)

    def full(*_: Any, **__: Any) -> None:
        raise Problem("Too many people are waiting")

    monkeypatch.setattr(studio.jobs, "start", full)
    with pytest.raises(Problem, match="Too many"):
        studio.training_jobs.start(key, None, "paper", {})
    session = studio.sessions.find(key)
    assert [run.id for run in session.runs] == ["good"]
    assert session.run == "good"


@pytest.mark.parametrize("setting", ["gradient_accumulation", "prior_pictures", "keep_checkpoints"])
def test_on_a_server_for_others_a_step_stays_short(visit: tuple[Studio, str], setting: str) -> None:
    studio, key = visit
    with_photos(studio, key)
    with pytest.raises(Problem, match=f"On this server {setting} may be"):
        studio.training_jobs.start(key, None, "paper", {setting: 100_000})


def test_nothing_of_a_photo_stays_under_the_brush_or_as_a_mask(visit: tuple[Studio, str]) -> None:
    studio, key = visit
    with_photos(studio, key)
    studio.masks.views(key, "subject")
    photo = studio.sessions.find(key).photos["subject"][0]
    _, brush, mask = studio.masks.editor(key, "subject", photo.id)
    views = [Path(photo.views[name]) for name in ("overlay", "mask", "photo")]
    assert all(path.exists() for path in (brush, mask, *views))
    studio.photos.set_kind(key, "object")
    assert not any(path.exists() for path in views)
    studio.photos.remove(key, "subject", photo.id)
    assert not brush.exists()
    assert not mask.exists()


def test_what_was_drawn_while_a_session_was_deleted_goes_with_the_next_sweep(
    visit: tuple[Studio, str],
) -> None:
    studio, key = visit
    session = studio.sessions.find(key)
    studio.delete(key)
    late = session.new_shown(".webp")
    late.write_bytes(b"a face")
    other, kept = studio.sessions.create()
    kept.new_shown(".webp").write_bytes(b"another")
    studio.sessions.sweep()
    assert not session.shown.exists()
    assert kept.shown.exists()
    studio.delete(other)


def test_the_jobs_of_a_session_that_grew_old_are_forgotten(
    visit: tuple[Studio, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("magicapture_core.ui.studio.SWEEP_SECONDS", 0.05)
    studio, key = visit
    owner = studio.sessions.owner(key)
    for whose, kind in ((owner, TRAINING), (f"{owner} {PROBE}", PROBE)):
        studio.jobs.start(whose, kind, lambda _job: iter(()), device=kind).wait(10)  # type: ignore[arg-type]
    os.utime(studio.sessions.find(key).folder / "session.json", (0, 0))
    studio.sweep_now_and_then()
    deadline = time.monotonic() + 10
    while studio.jobs._newest and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not studio.jobs._newest


def test_who_asks_for_drafts_during_a_training_is_told_of_the_training(visit: tuple[Studio, str]) -> None:
    studio, key = visit
    go = threading.Event()

    def stream(_job: Job) -> Iterator[int]:
        go.wait(30)
        yield 0

    job = studio.jobs.start(studio.sessions.owner(key), TRAINING, stream)  # type: ignore[arg-type]
    try:
        with pytest.raises(Problem, match="Your training is still under way"):
            studio.drafts.wait(key)
    finally:
        go.set()
        job.wait(10)
    with pytest.raises(Problem, match="Drafts need photos of the person"):
        studio.drafts.wait(key)


def test_a_comparison_says_whether_its_judge_had_a_part_in_the_training() -> None:
    for name, said in (
        ("SFace (the loss's own)", "SFace, also used in training, so optimistic;"),
        ("ArcFace", "ArcFace;"),
    ):
        judges: Any = SimpleNamespace(
            faces=SimpleNamespace(name=name), images=SimpleNamespace(name="statistics-a")
        )
        assert _judges_in_words(judges).startswith(f"Likeness by the face recognition {said}")


def test_a_session_that_cannot_be_read_is_begun_anew_and_can_be_deleted(visit: tuple[Studio, str]) -> None:
    studio, key = visit
    session = studio.sessions.find(key)
    (session.folder / "session.json").write_text('{"from": "another version"}')
    assert studio.sessions.open(key)[0] != key
    studio.delete(key)
    assert not session.folder.exists()


class Watched:
    """Counts how often a photo is looked at."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count = 0
        real = verdicts._hash

        def hashed(pixels: np.ndarray) -> np.ndarray:
            self.count += 1
            return real(pixels)

        monkeypatch.setattr(verdicts, "_hash", hashed)

    def new(self) -> int:
        """Photos looked at since the last call: two pictures of each, both ways round."""
        count, self.count = self.count, 0
        return count // 4


PEOPLE = {person.name: person.photos for person in sample_people()}


def test_each_photo_is_looked_at_once(visit: tuple[Studio, str], monkeypatch: pytest.MonkeyPatch) -> None:
    studio, key = visit
    watched = Watched(monkeypatch)
    files = [(path, path.name) for path in PEOPLE["alma"][:3]]
    seen = [watched.new() for _ in studio.photos.adding(key, "subject", files)]
    assert seen == [0, 0, 0, 1, 1, 1, 0]  # all are stored first
    studio.photos.add(key, "subject", [(PEOPLE["alma"][0], "again.jpg")])
    session = studio.sessions.find(key)
    assert session.photos["subject"][3].reasons == [
        "Almost the same photo as 1.jpg. Different photos teach more."
    ]
    assert watched.new() == 0  # known by its content
    session = studio.photos.remove(key, "subject", session.photos["subject"][1].id)
    assert watched.new() == 0
    session = studio.photos.remove(key, "subject", session.photos["subject"][0].id)
    assert [(photo.name, photo.reasons) for photo in session.photos["subject"]] == [
        ("3.jpg", []), ("again.jpg", [])
    ]  # fmt: skip


def test_nothing_seen_in_a_photo_outlives_it(visit: tuple[Studio, str]) -> None:
    studio, key = visit
    session, _ = studio.photos.add(key, "subject", [(path, path.name) for path in PEOPLE["alma"][:2]])
    assert len(studio.photos.looks._kept) == 2
    studio.photos.remove(key, "subject", session.photos["subject"][0].id)
    assert len(studio.photos.looks._kept) == 1
    studio.delete(key)
    assert not studio.photos.looks._kept


def test_another_person_is_not_learned_from_unless_asked(visit: tuple[Studio, str]) -> None:
    studio, key = visit
    files = [*PEOPLE["alma"][:3], PEOPLE["conrad"][0], PEOPLE["alma"][0]]
    session, _ = studio.photos.add(key, "subject", [(path, f"{i}.jpg") for i, path in enumerate(files)])
    photos = session.photos["subject"]
    assert [photo.used for photo in photos] == [True, True, True, False, False]
    said = cards.summary(photos, "subject")
    assert "3 usable photos of the person. 2 are not ticked, so not used." in said
    before = session.fingerprint()
    concept = studio.masks.concept(session, "subject", 64, "photo")
    assert [example.name for example in concept.examples] == ["0.jpg", "1.jpg", "2.jpg"]
    session = studio.photos.use_anyway(key, "subject", photos[3].id)
    assert [photo.name for photo in session.usable("subject")] == ["0.jpg", "1.jpg", "2.jpg", "3.jpg"]
    assert session.fingerprint() != before
    shown = cards.photo_cards(session.photos["subject"])
    assert (shown.count('aria-checked="true"'), shown.count('aria-checked="false"')) == (4, 1)
    session = studio.photos.use_anyway(key, "subject", photos[3].id, wanted=False)
    assert session.fingerprint() == before


def test_where_all_are_left_out_nobody_can_go_on(visit: tuple[Studio, str]) -> None:
    studio, key = visit
    files = [(PEOPLE[name][0], f"{name}.jpg") for name in ("alma", "conrad")]
    session, _ = studio.photos.add(key, "subject", files)
    assert session.usable("subject") == []
    assert "None of the photos is ticked" in (unusable(session, "subject") or "")
    session = studio.photos.use_anyway(key, "subject", session.photos["subject"][0].id)
    assert unusable(session, "subject") is None


def test_the_question_before_a_deletion_stays_until_it_is_answered(visit: tuple[Studio, str]) -> None:
    studio, key = visit
    add_run(studio, key, "a" * 16, saved=False)
    session = studio.sessions.find(key)
    with gr.Blocks():
        past = PastTrainings(studio)

    def shown() -> str:
        """The list as the timer draws it anew."""
        return str(past.show(studio.sessions.find(key))[past.list])

    past.ask(session, "ask-run", "a" * 16)
    assert "drop-run" in shown()
    past.ask(session, "keep-run", "a" * 16)
    assert "drop-run" not in shown()


@pytest.mark.parametrize(("kind", "waits"), [(TRAINING, True), (PORTRAITS, False), (COMPARISON, False)])
def test_only_a_training_is_a_reason_to_wait_at_the_step_learn(
    visit: tuple[Studio, str], kind: str, waits: bool
) -> None:
    studio, key = visit
    add_run(studio, key, "first", saved=True)
    session, begun, done = studio.sessions.find(key), threading.Event(), threading.Event()

    def stream(_job: Any) -> Iterator[None]:
        begun.set()
        done.wait(60)
        yield None

    with gr.Blocks():
        wizard = page.layout(studio)
    job = studio.jobs.start(session.id, kind, stream)
    assert begun.wait(60)
    lacking = wizard._lacking(session, page.TRAIN)
    done.set()
    assert job.wait(60)
    assert (lacking is not None) == waits
    assert wizard._lacking(session, page.TRAIN) is None


def test_pictures_are_found_in_folders_of_any_name() -> None:
    assert cards.address("/a b/50% #1?/<é>.png") == "gradio_api/file=/a%20b/50%25%20%231%3F/%3C%C3%A9%3E.png"
    assert cards.address(r"C:\runs\x.png") == r"gradio_api/file=C:\runs\x.png"


@pytest.mark.parametrize("code", ["en", "de", "ja"])
@pytest.mark.parametrize("likeness", [0.5, None])
def test_scores_are_explained_in_every_language_where_they_are_shown(
    visit: tuple[Studio, str], code: str, likeness: float | None
) -> None:
    studio, key = visit
    run = add_run(studio, key, "first", saved=True)
    folder = studio.sessions.find(key).run_folder(run)
    Run.create(folder, RunFacts(TrainConfig(), "toy", FIRST_FAMILY, "x", "toy", (), ()))
    for name in ("checkpoint-000001", "samples"):
        (folder / name).mkdir()
    sample = folder / "samples" / "step-000001.png"
    save_picture(
        Image.new("RGB", (8, 8)), sample, prompt="a", seed=1, settings={"likeness": likeness, "steps": 3}
    )
    with speaking(code), gr.Blocks():
        learning = page.layout(studio).steps[page.TRAIN]
        updates = learning.watch(studio.sessions.find(key), None)[0]
    assert "mc-frame" in updates[learning.samples]
    assert updates[learning.explained].visible == (likeness is not None)


def test_what_finishing_did_to_a_face_is_spelt_as_the_language_spells() -> None:
    face = {"score_before": 0.5, "score_after": 0.6, "strength": 0.5, "wanted": 0.8}
    finished = {"size": [8, 8], "file": "x.png", "notes": [], "faces": [face, {**face, "wanted": 0.5}]}
    with speaking("de"):
        said = _report(finished)
    assert "Vor der Verbesserung: Mittlere Ähnlichkeit (50). Danach: Hohe Ähnlichkeit (60)." in said
    assert "Danach: Hohe Ähnlichkeit (60); zu 50" in said


def test_an_empty_number_that_the_page_gives_back_as_zero_stays_empty() -> None:
    optional = {name for name, value in dataclasses.asdict(TrainConfig()).items() if value is None} & set(
        FORM
    )
    shown = settings.values_of(TrainConfig())
    back = settings.from_form({**shown, **dict.fromkeys(optional, 0)})
    assert from_dict(TrainConfig, back) == TrainConfig()
    for name in optional:  # 0 has no meaning of its own that would be lost
        with pytest.raises(Problem):
            from_dict(TrainConfig, {name: 0})
