"""What a visitor does with portraits: favourites, deletion and its undo, order, more like one, words, shapes."""

from __future__ import annotations

import threading
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gradio as gr
import pytest
from PIL import Image
from test_studio import add_run
from toy import save_toy

from magicapture_core.config import VARIED, GenerateConfig
from magicapture_core.generation import Portrait
from magicapture_core.problems import Problem
from magicapture_core.ui import page, session_portraits
from magicapture_core.ui.portrait_jobs import PORTRAITS
from magicapture_core.ui.portrait_shapes import SHAPES, SQUARE, shapes, size_of
from magicapture_core.ui.prompt_chips import changed
from magicapture_core.ui.prompt_words import from_page, in_plain_words, to_page, with_tokens
from magicapture_core.ui.session_portraits import in_order
from magicapture_core.ui.step_portraits import PortraitsStep
from magicapture_core.ui.stored_session import StoredPortrait
from magicapture_core.ui.studio import Studio


@pytest.fixture
def visit(tmp_path: Path) -> Iterator[tuple[Studio, str, list[StoredPortrait]]]:
    """A session with two batches of two portraits: likeness .2 and .6, then .5 and .4."""
    studio = Studio(tmp_path / "runs", model=str(save_toy(tmp_path / "toy")), any_model=False)
    key, _ = studio.sessions.create()
    run = add_run(studio, key, "first", saved=True)
    made = [
        studio.portraits.keep(
            key, run, Portrait(Image.new("RGB", (8, 8)), "a {subject}", number, likeness, {"steps": 3}), batch
        )
        for number, (likeness, batch) in enumerate([(0.2, 1), (0.6, 1), (0.5, 2), (0.4, 2)])
    ]
    studio.portraits.pack(key, run)
    yield studio, key, made
    studio.close()


def test_no_portrait_goes_before_there_are_too_many(
    visit: tuple[Studio, str, list[StoredPortrait]], monkeypatch: pytest.MonkeyPatch
) -> None:
    studio, key, made = visit
    monkeypatch.setattr(session_portraits, "KEPT_PORTRAITS", 6)
    run = studio.sessions.find(key).runs[0]
    studio.portraits.like(key, made[0].id)
    counts, seeds = [], []
    for seed in range(4, 8):
        studio.portraits.keep(key, run, Portrait(Image.new("RGB", (8, 8)), "a {subject}", seed, 0.5, {}))
        seeds = [portrait.seed for portrait in studio.sessions.find(key).portraits]
        counts.append(len(seeds))
    assert counts == [5, 6, 6, 6]
    assert seeds == [0, 3, 4, 5, 6, 7]  # the oldest go, but no favourite


def names(session: Any, order: str) -> list[int]:
    return [portrait.seed for portrait in in_order(session.portraits, order)]


def test_the_newest_batch_comes_first_unless_another_order_is_asked_for(visit: Any) -> None:
    studio, key, made = visit
    session = studio.portraits.like(key, made[0].id)
    assert names(session, "new") == [2, 3, 1, 0]
    assert names(session, "likeness") == [1, 2, 3, 0]
    assert names(session, "favourites") == [0, 1, 2, 3]
    assert names(studio.portraits.like(key, made[0].id), "favourites") == [1, 2, 3, 0]


def packed(session: Any) -> int:
    with zipfile.ZipFile(session.archive) as archive:
        return len(archive.namelist()) - 1


def test_a_deleted_portrait_can_be_brought_back(visit: Any) -> None:
    studio, key, made = visit
    session = studio.portraits.remove(key, made[1].id)
    assert names(session, "new") == [2, 3, 0]
    assert packed(session) == 3  # nor is it in the zip
    assert Path(made[1].picture).exists()
    session = studio.portraits.restore(key, made[1].id)
    assert names(session, "new") == [2, 3, 1, 0]
    assert packed(session) == 4


def test_what_was_deleted_goes_for_good(visit: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    studio, key, made = visit
    studio.portraits.remove(key, made[1].id)
    studio.portraits.remove(key, made[2].id)  # the one before can no longer be brought back
    assert not Path(made[1].picture).exists()
    with pytest.raises(Problem, match="deleted for good"):
        studio.portraits.restore(key, made[1].id)
    monkeypatch.setattr(session_portraits, "UNDO_SECONDS", 0.01)
    studio.portraits.remove(key, made[3].id)
    deadline = time.monotonic() + 10
    while studio.sessions.find(key).removed and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not Path(made[3].picture).exists()
    assert not Path(made[2].picture).exists()
    assert studio.sessions.find(key).removed == []


def test_what_is_deleted_once_more_has_its_whole_time_again(
    visit: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    studio, key, made = visit
    monkeypatch.setattr(session_portraits, "UNDO_SECONDS", 0.5)
    studio.portraits.remove(key, made[1].id)
    studio.portraits.restore(key, made[1].id)
    monkeypatch.setattr(session_portraits, "UNDO_SECONDS", 60.0)
    studio.portraits.remove(key, made[1].id)
    time.sleep(1.0)
    assert Path(made[1].picture).exists()
    assert studio.portraits.restore(key, made[1].id)


def test_the_zip_of_the_finished_waits_for_whoever_changes_them(visit: Any) -> None:
    studio, key, made = visit
    with studio.sessions.changing(key) as session:
        for portrait in made[:3]:
            file = session.new_shown(".png")
            file.write_bytes(b"finished")
            session.finished[portrait.id] = {"file": str(file)}
    found: list[Path | None] = []
    with studio.sessions.changing(key) as changed:  # as finishing one of them once more does
        zipping = threading.Thread(target=lambda: found.append(studio.portraits.finished_archive(session)))
        zipping.start()
        time.sleep(0.2)
        assert found == []
        Path(changed.finished[made[0].id]["file"]).unlink()
    zipping.join(60)
    (archive,) = found
    assert archive is not None
    with zipfile.ZipFile(archive) as packed_files:
        assert len(packed_files.namelist()) == 2


def test_the_last_portrait_takes_the_zip_with_it(visit: Any) -> None:
    studio, key, made = visit
    for portrait in made:
        session = studio.portraits.remove(key, portrait.id)
    assert session.archive is None
    assert studio.portraits.restore(key, made[-1].id).archive is not None


def test_a_discarded_training_takes_what_was_deleted_a_moment_ago(visit: Any) -> None:
    studio, key, made = visit
    studio.portraits.remove(key, made[0].id)
    session = studio.runs.discard(key, "first")
    assert [path for path in session.shown.rglob("*") if path.is_file()] == []


def test_a_discarded_training_brings_back_nothing_of_another(visit: Any) -> None:
    studio, key, made = visit
    add_run(studio, key, "second", saved=True)
    studio.portraits.remove(key, made[0].id)
    session = studio.runs.discard(key, "second")
    assert made[0].id not in [portrait.id for portrait in session.portraits]
    assert [portrait.id for portrait in session.removed] == [made[0].id]
    studio.portraits.forget_removed(key)  # as its timer does
    assert not Path(made[0].picture).exists()


def test_variety_is_asked_for_and_kept_for_more_of_the_same(
    visit: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    studio, key, made = visit
    asked: list[GenerateConfig] = []
    monkeypatch.setattr(studio.portrait_jobs, "start", lambda _key, config: asked.append(config))
    with gr.Blocks():
        step = page.layout(studio).steps[page.PORTRAITS]
    with studio.sessions.changing(key) as session:
        session.runs[0].settings["resolution"] = 64
    assert step.show(studio.sessions.find(key))[step.variety] == 0.0
    for variety in (0.0, VARIED):
        step.generate(key, None, "a photo of me in this look", "new", "", 2, "1:1", variety, "3", 4, 0.7, 2.5)
    assert [config.adapter_start for config in asked] == [0.0, VARIED]
    with studio.sessions.changing(key) as session:
        studio.portraits.of(session, made[0].id).settings["adapter_start"] = VARIED
    studio.portrait_jobs.near(key, made[0].id, 1)
    assert asked[-1].adapter_start == VARIED


def test_more_like_this_is_there_for_whoever_opens_a_portrait_while_others_are_drawn(visit: Any) -> None:
    studio, key, made = visit
    session, begun, done = studio.sessions.find(key), threading.Event(), threading.Event()

    def stream(_job: Any) -> Iterator[None]:
        begun.set()
        done.wait(60)
        yield None

    with gr.Blocks():
        step = PortraitsStep(studio)
    job = studio.jobs.start(session.id, PORTRAITS, stream)
    assert begun.wait(60)
    pressed = gr.EventData(None, {"act": "portrait", "id": made[0].id})
    drawn = step.press(key, None, "", "new", 4, pressed)[step.detail]
    with pytest.raises(Problem, match="still under way"):
        studio.portrait_jobs.near(key, made[0].id, 1)
    done.set()
    assert job.wait(60)
    assert 'data-act="near"' in drawn


@pytest.mark.parametrize(
    "prompt",
    [
        "a photo of a {subject} in the {style}",
        "a black-and-white photo of a {subject} in the {style}, (hat:1.3)",
        "no placeholder, some men, measure",
    ],
)
def test_descriptions_come_back_as_prompts(prompt: str) -> None:
    shown = to_page(prompt)
    assert "{" not in shown
    assert from_page(shown) == prompt


def test_what_is_typed_becomes_a_prompt() -> None:
    assert from_page("Me in this look, smiling") == "a {subject} in the {style}, smiling"
    assert to_page("a photo of an {subject}, {style}") == "a photo of me, this look"
    assert from_page("a photo of a {subject}") == "a photo of a {subject}"
    assert with_tokens("<b> of me") == '&lt;b&gt; of <b class="mc-token">me</b>'
    assert (
        in_plain_words("The prompt does not mention {style}.")
        == "The description does not mention “this look”."
    )


def test_a_chip_changes_a_description() -> None:
    assert changed("a photo of me", "edit", "smiling") == "a photo of me, smiling"
    assert changed("a photo of me, smiling", "edit", "smiling") == "a photo of me"
    assert changed("a photo", "edit", "me") == "a photo of me"
    assert changed("a photo of me", "edit", "this look") == "a photo of me in this look"
    assert changed("x", "prompt", "a {subject} in the {style}, outdoors") == "me in this look, outdoors"


def test_only_squares_of_a_model_that_has_seen_nothing_else(visit: Any) -> None:
    studio, _, _ = visit
    assert shapes(studio.models.facts("mini")) == [SQUARE]
    assert shapes(studio.models.facts(studio.models.default)) == ["1:1", "4:5", "3:4", "9:16"]


@pytest.mark.parametrize("resolution", [64, 256, 512, 1024])
@pytest.mark.parametrize("shape", list(SHAPES)[1:])
def test_a_shape_has_its_proportions_at_every_size(shape: str, resolution: int) -> None:
    size = size_of(shape, resolution)
    width, height = (int(number) for number in shape.split(":"))
    assert size["width"] % 8 == size["height"] % 8 == 0
    assert abs(size["width"] * height - size["height"] * width) <= 8 * max(width, height)
    assert size_of(SQUARE, resolution) == {}
