"""The last step in a real browser: before and after, the guard's report, the checklist, the sheet."""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from test_wizard_page import expect

from magicapture_core.photos import read_photo
from magicapture_core.problems import Problem
from magicapture_core.provenance import read_provenance, save_picture
from magicapture_core.ui.stored_session import StoredPortrait
from magicapture_core.weights import ASSETS


def with_portrait(studio: Any, key: str, who: str = "bruno/5") -> StoredPortrait:
    """A sample photo in place of a generated portrait."""
    pixels = read_photo(ASSETS / "people" / f"{who}.jpg").pixels
    with studio.sessions.changing(key) as session:
        path = session.new_shown(".png")
        save_picture(Image.fromarray(pixels), path, prompt="a photo", seed=1, settings={})
        portrait = StoredPortrait(secrets.token_hex(8), "none", str(path), "a photo", 1, 0.5, {}, [])
        session.portraits.append(portrait)
    return portrait


@pytest.fixture
def visit(
    browser: Any, server: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[Any, str]]:
    """A visitor who has one portrait, at the last step; their page and key."""
    from conftest import visitor

    monkeypatch.setenv("MAGICAPTURE_WEIGHTS", str(tmp_path))  # Real-ESRGAN would take minutes
    known = {folder.name for folder in (server.runs / "sessions").iterdir()}
    keys: list[str] = []
    sessions = server.studio.sessions
    create = sessions.create

    def remember() -> Any:
        key, session = create()
        keys.append(key)
        return key, session

    sessions.create = remember
    try:
        with visitor(browser, server) as (page, faults):
            key = keys[-1]
            assert sessions.find(key).id not in known
            with_portrait(server.studio, key)
            page.reload()
            page.locator("#mc-next-4").click()
            expect(page.locator("#mc-finish-gallery .mc-portrait")).to_have_count(1)
            yield page, key
            assert faults == []
    finally:
        sessions.create = create


@pytest.mark.browser
def test_finish_compare_and_download(visit: tuple[Any, str], server: Any) -> None:
    page, key = visit
    expect(page.locator("#mc-fidelity")).to_be_hidden()
    page.get_by_role("radio", name=re.compile("CodeFormer")).check()
    expect(page.locator("#mc-fidelity")).to_be_visible()
    page.get_by_role("radio", name="None").check()
    expect(page.locator("#mc-fidelity")).to_be_hidden()
    page.locator("#mc-finish").click()
    expect(page.locator("#mc-finish-report")).to_contain_text("1024×1024 pixels")
    expect(page.locator("#mc-compare img").first).to_be_visible()
    with page.expect_download() as download:
        page.locator("#mc-finish-report a").click()
    assert read_provenance(Path(download.value.path())).generated
    session = server.studio.sessions.find(key)
    shown = page.locator("#mc-compare img").first.get_attribute("src")
    assert session.id in shown  # from the session's own folder, which goes when the session does
    page.reload()  # what was finished is still there
    page.locator("#mc-next-4").click()
    expect(page.locator("#mc-finish-report")).to_contain_text("1024×1024 pixels")


@pytest.mark.browser
def test_the_checklist_stands_beside_the_photo_and_the_sheet_comes_down(visit: tuple[Any, str]) -> None:
    page, _ = visit
    page.locator("#mc-sheet").click()
    result = page.locator("#mc-sheet-result")
    expect(result).to_contain_text("All checks for ICAO 35×45 mm passed")
    expect(result.locator("tbody tr")).not_to_have_count(0)
    expect(result.locator("img")).to_be_visible()
    expect(page.get_by_text("Many authorities refuse generated").first).to_be_visible()
    with page.expect_download() as download:
        result.get_by_text("Download the sheet (PDF)").click()
    assert Path(download.value.path()).read_bytes().startswith(b"%PDF")
    assert page.evaluate("document.documentElement.scrollWidth") <= 1280


@pytest.mark.browser
def test_the_background_has_the_chosen_colour(visit: tuple[Any, str], server: Any) -> None:
    page, key = visit
    expect(page.locator("#mc-colour")).to_contain_text("Asked for: plain and light.")
    page.locator("#mc-colour button").first.click()
    page.locator("#mc-colour input[type=text]").fill("#1a3a6b")
    page.locator("#mc-colour input[type=text]").press("Enter")
    expect(page.locator("#mc-colour-rule")).to_contain_text("asks for a background that is plain and light")
    page.locator("#mc-colour input[type=text]").fill("#cfe0f5")
    page.locator("#mc-colour input[type=text]").press("Enter")
    expect(page.locator("#mc-colour-rule")).not_to_contain_text("asks for a background")
    page.locator("#mc-colour button").first.click()
    expect(page.locator("#mc-colour input[type=text]")).to_be_hidden()
    page.locator("#mc-sheet").click()
    expect(page.locator("#mc-sheet-result")).to_contain_text("All checks for ICAO 35×45 mm passed")
    source = page.locator("#mc-sheet-result img").get_attribute("src")
    file = server.studio.sessions.find(key).shown / str(source).rpartition("/")[2]
    corner = read_photo(file).pixels[2, 2].astype(int)
    assert np.abs(corner - (207, 224, 245)).max() <= 4


class TestWithoutABrowser:
    """What the page's handlers call."""

    def test_a_failed_check_needs_force(self, server: Any) -> None:
        key, _ = server.studio.sessions.create()
        portrait = with_portrait(server.studio, key, "dana/1")
        sheets = server.studio.sheets
        made = sheets.make(key, portrait.id, "icao", "a4", background="#dddee0", force=False)
        assert (made["passed"], made["files"]) == (False, [])
        made = sheets.make(key, portrait.id, "icao", "a4", background="#dddee0", force=True)
        assert [path.suffix for path in made["files"]] == [".pdf", ".png"]
        shown = server.studio.sessions.find(key).shown
        assert all(path.parent == shown for path in [made["photo"], *made["files"]])
        assert read_provenance(made["photo"]).generated

    def test_a_sheet_goes_with_the_next_one_and_with_its_portrait(self, server: Any) -> None:
        studio = server.studio
        key, session = studio.sessions.create()
        portrait = with_portrait(studio, key)
        for force in (False, True):
            studio.sheets.make(key, portrait.id, "icao", "a4", background="#dddee0", force=force)
            assert sorted(path.suffix for path in session.shown.iterdir()) == [".jpg", ".pdf", ".png", ".png"]
        studio.portraits.remove(key, portrait.id)
        studio.portraits.forget_removed(key)
        assert list(session.shown.iterdir()) == []
        assert studio.sessions.find(key).sheets == {}

    def test_what_is_deleted_while_all_are_finished_leaves_nothing_and_stops_nothing(
        self, server: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        studio = server.studio
        key, session = studio.sessions.create()
        first, second, third = (with_portrait(studio, key) for _ in range(3))
        keep = studio.finishing_jobs._keep

        def delete_and_keep(key: str, portrait: StoredPortrait, *values: Any) -> Any:
            if portrait.id == first.id:  # that which is finished, and the next one
                for each in (first, second):
                    studio.portraits.remove(key, each.id)
                studio.portraits.forget_removed(key)
            return keep(key, portrait, *values)

        monkeypatch.setattr(studio.finishing_jobs, "_keep", delete_and_keep)
        values = {"upscale": 1, "restore": "none", "upscaler": "lanczos"}
        job = studio.finishing_jobs.start(key, first.id, values, [second.id, third.id])
        assert job.wait(180)
        assert (job.snapshot().state, job.snapshot().problem) == ("done", None)
        assert list(studio.sessions.find(key).finished) == [third.id]
        assert len(list(session.shown.iterdir())) == 4  # the third portrait, and what was made of it

    def test_nobody_reaches_another_s_portrait(self, server: Any) -> None:
        sessions, finishing_jobs = server.studio.sessions, server.studio.finishing_jobs
        (ann, _), (bob, _) = sessions.create(), sessions.create()
        portrait = with_portrait(server.studio, ann)
        with pytest.raises(Problem, match="one of your portraits"):
            server.studio.sheets.make(bob, portrait.id, "icao", "a4", background="#dddee0", force=True)
        with pytest.raises(Problem, match="one of your portraits"):
            finishing_jobs.start(bob, portrait.id, {})
        with pytest.raises(Problem, match="one of your portraits"):
            finishing_jobs.start(bob, "../../etc/passwd", {})

    @pytest.mark.parametrize(
        ("values", "words"),
        [
            ({"fidelity": 1.5}, "fidelity must be 0 to 1"),
            ({"upscale": 3}, "×1, ×2 or ×4"),
            ({"restore": "magic"}, "restore must be one of"),
            ({"restore": None}, "restore must be one of"),
        ],
    )
    def test_values_are_checked(self, server: Any, values: dict[str, Any], words: str) -> None:
        key, _ = server.studio.sessions.create()
        portrait = with_portrait(server.studio, key)
        with pytest.raises(Problem, match=words):
            server.studio.finishing_jobs.start(key, portrait.id, values)

    def test_on_a_server_for_others_nobody_starts_a_download(
        self, server: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("MAGICAPTURE_WEIGHTS", str(tmp_path))
        monkeypatch.setattr(server.studio.models, "any_model", False)
        key, _ = server.studio.sessions.create()
        portrait = with_portrait(server.studio, key)
        with pytest.raises(Problem, match=r"does not have GFPGANv1\.4\.pth"):
            server.studio.finishing_jobs.start(key, portrait.id, {"restore": "gfpgan"})

    def test_finishing_again_replaces_what_was_there(self, server: Any) -> None:
        sessions = server.studio.sessions
        key, _ = sessions.create()
        portrait = with_portrait(server.studio, key)
        for upscale in (1, 2):
            values = {"upscale": upscale, "restore": "none", "upscaler": "lanczos"}
            assert server.studio.finishing_jobs.start(key, portrait.id, values).wait(180)
        session = sessions.find(key)
        finished = session.finished[portrait.id]
        assert finished["size"] == [1024, 1024]
        assert (
            len(list(session.shown.iterdir())) == 4
        )  # the portrait, and three files of the newest finishing
        assert np.asarray(Image.open(finished["before"])).shape == (1024, 1024, 3)
        for name in ("file", "after", "before"):
            assert read_provenance(finished[name]).generated, name
