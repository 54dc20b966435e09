"""Drafts: made by themselves, made anew when photos or style change, never in the way of a training."""

from __future__ import annotations

import re
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from test_wizard_page import expect, session_of

from magicapture_core.presets import preset_names
from magicapture_core.provenance import read_provenance
from magicapture_core.ui.stored_session import OWN

ALL = len(preset_names())
DRAFT = "#mc-presets .mc-lookcard:has(.mc-draft) .mc-face > img"


def draft_count(page: Any, count: int) -> None:
    expect(page.locator(DRAFT)).to_have_count(count)


@pytest.mark.browser
@pytest.mark.long
def test_drafts_come_by_themselves_and_go_with_what_they_show(page: Any, server: Any) -> None:
    with server.studio.drafts._loading:  # until then none can be drawn
        page.locator("#mc-people [data-act=person]").first.click()
        expect(page.locator("#mc-first [role=status]")).to_have_text("Drawing a first draft …")
    expect(page.locator("#mc-first")).to_contain_text(
        "Draft: the look, not yet your face"
    )  # beside the photos
    page.locator("#mc-next-0").click()
    draft_count(page, ALL)  # nothing had to be chosen
    expect(page.locator("#mc-presets .mc-draft").first).to_have_text("Draft: the look, not yet your face")
    expect(page.locator("#mc-drafts [aria-busy=false]")).to_be_visible()
    folder = server.runs / "shown" / session_of(page, server).name
    first = [Path(str(src).partition("file=")[2]) for src in sources(page)]
    assert all(path.parent == folder and path.is_file() for path in first)
    assert all(read_provenance(path).generated for path in first)

    page.locator("#mc-presets [data-act=look]").nth(1).click()
    expect(page.locator("#mc-presets [aria-pressed=true]")).to_have_count(1)
    page.reload()
    page.wait_for_selector("#mc-photos img")
    page.locator("#mc-next-0").click()
    draft_count(page, ALL)
    assert [
        Path(src.partition("file=")[2]) for src in sources(page)
    ] == first  # the same photos: the same drafts

    for step in (1, 2):
        page.locator(f"#mc-next-{step}").click()
    before = page.locator("#mc-samples figure").first  # what there is to look at until the first sample
    expect(before).to_contain_text("Draft, before learning")
    assert before.locator("img").get_attribute("src") == sources(page)[1]
    for step in (3, 2, 1):
        page.locator(f"#mc-back-{step}").click()
    page.locator("#mc-photos [data-act=remove]").first.click()
    expect(page.locator("#mc-photos .mc-photo")).to_have_count(5)
    page.locator("#mc-next-0").click()
    draft_count(page, ALL)
    assert not any(path.exists() for path in first)


def sources(page: Any) -> list[str]:
    found: list[str] = page.locator(DRAFT).evaluate_all("images => images.map(i => i.getAttribute('src'))")
    return found


@pytest.mark.browser
def test_what_the_person_is_called_is_kept(page: Any, server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    call = server.studio.photos.call

    def slowly(*values: Any) -> Any:
        time.sleep(1.0)  # the second choice is made before the first is answered
        return call(*values)

    monkeypatch.setattr(server.studio.photos, "call", slowly)
    page.locator("#mc-people [data-act=person]").first.click()
    expect(page.locator("#mc-photos .mc-photo")).to_have_count(6)
    page.get_by_role("button", name="Who is it? Saying so helps the likeness").click()
    page.locator("#mc-noun").get_by_label("Woman", exact=True).check()
    page.locator("#mc-age").get_by_label("Old", exact=True).check()
    for _ in range(30):  # neither answer takes it back
        assert page.locator("#mc-age").get_by_label("Old", exact=True).is_checked()
        page.wait_for_timeout(100)
    file = session_of(page, server) / "session.json"
    for _ in range(1800):
        if re.search(r'"words": "old woman"', file.read_text()):
            break
        page.wait_for_timeout(100)
    assert '"words": "old woman"' in file.read_text()
    page.reload()
    page.wait_for_selector("#mc-photos img")
    page.get_by_role("button", name="Who is it? Saying so helps the likeness").click()
    expect(page.locator("#mc-noun").get_by_label("Woman", exact=True)).to_be_checked()


def with_photos(studio: Any) -> tuple[str, str]:
    """A session with a sample person in a ready-made style: its key and its id."""
    key, session = studio.sessions.create()
    studio.photos.consent(key, True)
    studio.photos.use_person(key, "alma")
    studio.photos.use_preset(key, "passport")
    return key, session.id


def settled(studio: Any, key: str) -> Any:
    """The session once nothing is drawn any more."""
    for _ in range(1800):
        session = studio.sessions.find(key)
        if not studio.drafts.working(session):
            return session
        time.sleep(0.1)
    raise AssertionError("drafts never ended")


def test_a_training_is_not_kept_waiting_by_drafts(server: Any) -> None:
    studio = server.studio
    key, owner = with_photos(studio)
    studio.drafts.renew(key)
    studio.training_jobs.start(key, None, "quick", {})
    settled(studio, key)
    job = studio.jobs.active(owner)
    assert job is None or job.kind == "training"
    studio.drafts.renew(key)  # refused while it learns
    if studio.jobs.active(owner) is not None:
        assert not studio.drafts.working(studio.sessions.find(key))
    studio.training_jobs.stop(key)
    studio.delete(key)


@pytest.mark.long
def test_only_what_is_ticked_is_drawn_while_another_visitor_has_the_device(server: Any) -> None:
    studio = server.studio
    end = threading.Event()

    def busy(_: Any) -> Any:
        yield 1
        end.wait(60)

    other = studio.jobs.start("another visitor", "training", busy)
    key, _ = with_photos(studio)
    studio.photos.toggle_look(key, "sunset")
    studio.drafts.renew(key)
    for _ in range(1800):
        if len(studio.sessions.find(key).drafts) >= 2:
            break
        time.sleep(0.1)
    time.sleep(1)  # longer than a draft takes here
    session = studio.sessions.find(key)
    assert [draft.look for draft in session.drafts] == ["passport", "sunset"]
    assert studio.drafts.working(session)  # the others wait
    end.set()
    assert other.wait(60)
    assert len(settled(studio, key).drafts) == ALL
    studio.delete(key)


@pytest.mark.long
def test_the_same_photos_give_the_same_drafts_and_are_not_drawn_twice(server: Any) -> None:
    studio = server.studio
    key, _ = with_photos(studio)
    studio.drafts.renew(key)
    before = settled(studio, key)
    assert before.drafts[0].look == "passport"  # the ticked one
    assert sorted(draft.look for draft in before.drafts) == preset_names()
    studio.drafts.renew(key)
    after = settled(studio, key)
    assert [draft.picture for draft in after.drafts] == [draft.picture for draft in before.drafts]
    studio.photos.use_anyway(key, "subject", after.photos["subject"][0].id, wanted=False)
    studio.drafts.renew(key)
    other = settled(studio, key)
    assert len(other.drafts) == ALL
    assert not {draft.picture for draft in other.drafts} & {draft.picture for draft in before.drafts}
    assert not any(Path(draft.picture).exists() for draft in before.drafts)
    studio.delete(key)
    assert not any(Path(draft.picture).exists() for draft in other.drafts)


@pytest.mark.long
def test_two_visitors_get_their_drafts_in_turn(server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    studio = server.studio
    order: list[str] = []
    both = threading.Event()
    keep = studio.drafts._keep

    def kept(key: str, *values: Any) -> None:
        assert both.wait(60)
        order.append(key)
        keep(key, *values)

    monkeypatch.setattr(studio.drafts, "_keep", kept)
    first, second = (with_photos(studio)[0] for _ in range(2))
    for key in (first, second):
        studio.drafts.renew(key)
    both.set()
    for key in (first, second):
        assert len(settled(studio, key).drafts) == ALL
    joined = order.index(second)
    assert order[joined : joined + 4] == [second, first, second, first]
    for key in (first, second):
        studio.delete(key)


@pytest.mark.long
def test_ones_own_style_is_one_more_look(server: Any, people: list[list[Path]]) -> None:
    studio = server.studio
    key, _ = with_photos(studio)
    files = [(path, path.name) for path in people[1][:2]]
    studio.photos.add(key, "style", files)
    session = studio.sessions.find(key)
    assert session.looks == ["passport", OWN]
    assert [photo.name for photo in session.usable("style", OWN)] == [
        path.name for _, path in zip(range(2), people[1], strict=False)
    ]
    assert len(session.usable("style", "passport")) == 6
    studio.drafts.renew(key)
    assert [draft.look for draft in settled(studio, key).drafts][:2] == ["passport", OWN]
    before = studio.sessions.find(key).fingerprint(OWN)
    studio.photos.toggle_look(key, "passport")
    session = studio.sessions.find(key)
    assert session.preset is None
    assert session.fingerprint() == before
    studio.delete(key)


def test_an_object_gets_no_drafts(server: Any) -> None:
    studio = server.studio
    key, _ = with_photos(studio)
    studio.photos.set_kind(key, "object")
    studio.drafts.renew(key)
    assert settled(studio, key).drafts == []
    studio.delete(key)


def test_sample_people_bring_their_words_and_take_them_along(server: Any) -> None:
    studio = server.studio
    key, _ = with_photos(studio)
    session = studio.sessions.find(key)
    assert session.words == "middle-aged woman"
    run = studio.training_jobs.start(key, None, "quick", {})
    assert run.settings["subject_words"] == "middle-aged woman"
    studio.training_jobs.stop(key)
    assert studio.jobs.newest(session.id, "training").wait(180)
    for photo in session.photos["subject"]:
        studio.photos.remove(key, "subject", photo.id)
    assert studio.sessions.find(key).words == ""
    studio.delete(key)
