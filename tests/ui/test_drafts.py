"""Drafts: made by themselves, made anew when photos or style change, never in the way of a training."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from test_wizard_page import expect, session_of, to_style


def draft_count(page: Any, count: int) -> None:
    expect(page.locator("#mc-drafts img")).to_have_count(count)


@pytest.mark.browser
@pytest.mark.long
def test_drafts_come_by_themselves_and_go_with_what_they_show(page: Any, server: Any) -> None:
    to_style(page)
    expect(page.locator("#mc-drafts img")).to_have_count(0)
    page.locator("#mc-presets [data-act=preset]").first.click()
    draft_count(page, 4)
    expect(page.locator("#mc-drafts")).to_contain_text("Drafts: the look, not yet your face")
    expect(page.locator("#mc-drafts [aria-busy=false]")).to_be_visible()
    folder = server.runs / "shown" / session_of(page, server).name
    first = [Path(str(src).partition("file=")[2]) for src in sources(page)]
    assert all(path.parent == folder and path.is_file() for path in first)

    page.locator("#mc-presets [data-act=preset]").nth(1).click()
    page.wait_for_function(
        "old => { const now = [...document.querySelectorAll('#mc-drafts img')].map(i => i.src);"
        " return now.length === 4 && !now.some(src => old.includes(src)); }",
        arg=page.locator("#mc-drafts img").evaluate_all("images => images.map(image => image.src)"),
    )
    assert not any(path.exists() for path in first)

    page.reload()
    page.wait_for_selector("#mc-photos img")
    page.locator("#mc-next-0").click()
    draft_count(page, 4)


def sources(page: Any) -> list[str]:
    found: list[str] = page.locator("#mc-drafts img").evaluate_all(
        "images => images.map(i => i.getAttribute('src'))"
    )
    return found


@pytest.mark.browser
def test_what_the_person_is_called_is_kept(page: Any, server: Any) -> None:
    page.locator("#mc-people [data-act=person]").first.click()
    expect(page.locator("#mc-photos .mc-photo")).to_have_count(6)
    page.get_by_role("button", name="Who is it? Saying so helps the likeness").click()
    page.locator("#mc-noun").get_by_label("Woman", exact=True).check()
    page.locator("#mc-age").get_by_label("Old", exact=True).check()
    expect(page.locator("#mc-age").get_by_label("Old", exact=True)).to_be_checked()
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
    import time

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


def test_the_same_photos_give_the_same_drafts_and_are_not_drawn_twice(server: Any) -> None:
    studio = server.studio
    key, _ = with_photos(studio)
    studio.drafts.renew(key)
    before = settled(studio, key)
    assert len(before.drafts) == 4
    studio.drafts.renew(key)
    after = settled(studio, key)
    assert [draft.picture for draft in after.drafts] == [draft.picture for draft in before.drafts]
    studio.photos.remove(key, "subject", after.photos["subject"][0].id)
    studio.drafts.renew(key)
    other = settled(studio, key)
    assert len(other.drafts) == 4
    assert not {draft.picture for draft in other.drafts} & {draft.picture for draft in before.drafts}
    studio.delete(key)
    assert not any(Path(draft.picture).exists() for draft in other.drafts)


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
