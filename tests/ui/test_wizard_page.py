"""The page in a real browser: the whole walk, reloads, two visitors at once, the brush, deletion."""

from __future__ import annotations

import json
import re
import threading
from pathlib import Path
from typing import Any

import pytest

from magicapture_core import languages

pytestmark = pytest.mark.browser
PATIENCE = 180.0


def expect(thing: Any) -> Any:
    """Playwright's assertions, which wait (conftest.PATIENCE); imported late: the module loads without playwright."""
    from playwright.sync_api import expect as waiting

    return waiting(thing)


def session_of(page: Any, server: Any) -> Any:
    """The visitor's session, found by a picture they see."""
    source = page.locator("#mc-photos img").first.get_attribute("src")
    owner = Path(source.partition("file=")[2]).parent.name
    return next(
        folder for folder in (server.runs / "sessions").iterdir() if folder.name == owner
    )  # fmt: skip


def to_style(page: Any) -> None:
    page.locator("#mc-people [data-act=person]").first.click()
    expect(page.locator("#mc-photos .mc-photo")).to_have_count(6)
    expect(page.get_by_text("6 usable photos of the person")).to_be_visible()  # all of them were looked at
    page.locator("#mc-next-0").click()


def to_masks(page: Any) -> None:
    to_style(page)
    page.locator("#mc-presets [data-act=look]").first.click()
    expect(page.locator("#mc-presets [aria-pressed=true]")).to_have_count(1)
    page.locator("#mc-next-1").click()
    expect(page.locator("#mc-subject-masks .mc-mask")).to_have_count(6)


def to_train(page: Any, ti_steps: int | None = None) -> None:
    to_masks(page)
    page.locator("#mc-next-2").click()
    expect(page.locator("#mc-start")).to_be_visible()
    if ti_steps is not None:
        page.get_by_role("button", name="Advanced").click()
        page.get_by_label("Ti steps").fill(str(ti_steps))
        page.get_by_label("Ti steps").blur()
        expect(page.get_by_role("radio", name="My own settings")).to_be_checked()
    page.locator("#mc-start").click()


def step_of(page: Any) -> int:
    found = re.search(r"Step (\d+) of", page.locator("#mc-progress").inner_text())
    return int(found[1]) if found else 0


def wait_for_step(page: Any, after: int = 0) -> None:
    text = "((document.querySelector('#mc-progress')?.innerText || '').match(/Step (\\d+) of/) || [0, 0])[1]"
    page.wait_for_function(f"Number({text}) > {after}")


def test_the_whole_walk(page: Any) -> None:
    to_train(page)
    expect(page.locator("#mc-progress")).to_contain_text("Learning finished")
    expect(page.locator("#mc-samples .mc-frame").first).to_be_visible()
    expect(page.locator("#mc-attention .mc-look")).to_have_count(4)
    expect(page.locator("#mc-losses .mc-chart")).to_have_count(5)
    page.locator("#mc-next-3").click()

    prompt = page.locator("#mc-prompt textarea")
    expect(prompt).to_have_value(re.compile(r"\bme in this look\b"))
    asked = f"{prompt.input_value()}, smiling"
    page.get_by_role("button", name="smiling", exact=True).click()
    expect(prompt).to_have_value(asked)
    page.locator("#mc-make").click()
    expect(page.locator("#mc-gallery .mc-portrait")).to_have_count(4)
    page.locator("#mc-gallery .mc-portrait").nth(1).click()
    expect(page.locator("#mc-detail")).to_contain_text("smiling")
    heat = page.locator("#mc-detail .mc-heat")
    before = heat.get_attribute("src")
    page.locator("#mc-detail [data-act=word][data-id='smiling']").click()
    expect(heat).not_to_have_attribute("src", before)
    with page.expect_download() as download:
        page.locator("#mc-archive").click()
    assert Path(download.value.path()).stat().st_size > 1000
    page.get_by_role("button", name="Use it elsewhere, or keep it").click()
    page.locator("#mc-export").click()
    expect(page.locator("#mc-exported a", has_text="pytorch_lora_weights.safetensors")).to_be_visible()

    page.locator("#mc-next-4").click()
    page.locator("#mc-back-5").click()
    expect(page.locator("#mc-gallery .mc-portrait")).to_have_count(4)
    expect(prompt).to_have_value(asked)  # what was typed stays

    page.reload()
    expect(page.locator("#mc-gallery .mc-portrait")).to_have_count(4)
    page.locator("#mc-back-4").click()
    page.locator("#mc-back-3").click()
    expect(page.locator("#mc-subject-masks .mc-mask")).to_have_count(6)


def test_photos_need_consent_and_get_verdicts(
    page: Any, server: Any, people: list[list[Path]], tmp_path: Path
) -> None:
    expect(page.locator("#mc-files")).to_be_visible()
    page.locator("#mc-next-0").click()
    expect(page.locator("#mc-said-0")).to_contain_text("Add some photos first")
    fake = tmp_path / "fake.jpg"
    fake.write_bytes(b"%PDF-1.7 nothing")
    chosen = [*people[0][:2], fake]
    page.locator("#mc-files input[type=file]").set_input_files([str(path) for path in chosen])
    expect(page.locator("#mc-held")).to_contain_text("3 photos here. Tick the box above")
    assert page.locator("#mc-photos .mc-photo").count() == 0
    page.locator("#mc-consent input").check()  # now they are looked at, and need not be sent again
    expect(page.locator("#mc-photos .mc-photo")).to_have_count(2)
    expect(page.locator("#mc-held")).not_to_contain_text("Tick the box above")
    expect(page.get_by_text("fake.jpg is not a photo")).to_be_visible()
    expect(page.get_by_text("2 usable photos of the person")).to_be_visible()
    page.locator("#mc-photos [data-act=remove]").first.click()
    expect(page.locator("#mc-photos .mc-photo")).to_have_count(1)
    assert len(list((session_of(page, server) / "photos").iterdir())) == 1


@pytest.mark.long
def test_wrong_people_come_without_a_tick(page: Any, people: list[list[Path]]) -> None:
    page.locator("#mc-consent input").check()
    chosen = [*people[0][:3], people[1][0]]
    page.locator("#mc-files input[type=file]").set_input_files([str(path) for path in chosen])
    expect(page.get_by_text("3 usable photos of the person. 1 is not ticked")).to_be_visible()
    ticks = page.locator("#mc-photos [role=checkbox]")
    expect(ticks).to_have_count(4)
    expect(page.locator("#mc-photos [aria-checked=false]")).to_have_count(1)
    page.locator("#mc-photos [aria-checked=false]").press("Space")
    expect(page.locator("#mc-photos [aria-checked=true]")).to_have_count(4)
    ticks.first.click()  # good ones can be left out, too
    expect(ticks.first).to_have_attribute("aria-checked", "false")
    page.wait_for_function("document.activeElement.getAttribute('role') === 'checkbox'")
    expect(page.get_by_text("3 usable photos of the person. 1 is not ticked")).to_be_visible()


@pytest.mark.long
def test_ticked_looks_are_learned_one_after_the_other(page: Any, server: Any) -> None:
    to_style(page)
    titles = []
    for number in (1, 4):
        card = page.locator("#mc-presets [data-act=look]").nth(number)
        card.click()
        titles.append(card.locator("strong").inner_text())
    expect(page.locator("#mc-presets [aria-pressed=true]")).to_have_count(2)
    page.locator("#mc-next-1").click()
    expect(page.locator("#mc-style-masks .mc-mask:visible")).to_have_count(6)
    page.locator("#mc-style-masks summary", has_text=titles[1]).click()
    expect(page.locator("#mc-style-masks .mc-mask:visible")).to_have_count(12)
    page.locator("#mc-next-2").click()
    page.locator("#mc-start").click()
    order = page.locator("#mc-learning li")
    expect(order).to_have_text([re.compile(title) for title in titles])
    expect(page.locator("#mc-learning .mc-is-done")).to_have_count(2)  # nobody presses anything between
    expect(page.locator("#mc-progress")).to_contain_text("Learning finished")
    runs = languages.loads((session_of(page, server) / "session.json").read_text(encoding="utf-8"))["runs"]
    assert [run["title"] for run in runs] == titles
    assert all(run["step"] == run["total"] for run in runs)
    assert runs[0]["fingerprint"] != runs[1]["fingerprint"]


@pytest.mark.long
def test_a_reload_during_training_finds_it_again(page: Any) -> None:
    to_train(page, ti_steps=5000)
    wait_for_step(page)
    page.reload()
    wait_for_step(page)
    first = step_of(page)
    wait_for_step(page, first)
    second = page.context.new_page()  # a second tab sees it, too, and may stop it
    second.goto(page.url)
    second.locator("#mc-pause").click()
    expect(second.locator("#mc-progress")).to_contain_text("Paused and saved")
    expect(page.locator("#mc-progress")).to_contain_text("Paused and saved")
    paused = step_of(page)
    page.locator("#mc-resume").click()
    wait_for_step(page, paused)
    page.locator("#mc-stop").click()
    expect(page.locator("#mc-make")).to_be_visible()


@pytest.mark.long
def test_two_visitors_at_once(page: Any, browser: Any, server: Any) -> None:
    from conftest import visitor

    to_train(page, ti_steps=5000)
    wait_for_step(page)
    with visitor(browser, server) as (other, faults):
        expect(other.locator("#mc-photos img")).to_have_count(0)
        to_train(other)
        expect(other.locator("#mc-progress")).to_contain_text("1 other before you")
        other.locator("#mc-leave").click()
        expect(other.locator("#mc-progress")).to_contain_text("Stopped before it began")
        assert faults == []
    page.locator("#mc-pause").click()
    expect(page.locator("#mc-progress")).to_contain_text("Paused and saved")


@pytest.mark.long
def test_a_pause_is_seen_to_end_though_its_button_answers_late(
    page: Any, server: Any, monkeypatch: Any
) -> None:
    from magicapture_core.ui import cards

    draw, stop = cards.progress, server.studio.training_jobs.stop
    button: list[int] = []
    timer_rests, answered = threading.Event(), threading.Event()

    def stop_from_here(key: str) -> None:
        button.append(threading.get_ident())
        stop(key)

    def late(*values: Any) -> str:
        drawn = draw(*values)
        if button == [threading.get_ident()] and not answered.is_set():
            timer_rests.wait(PATIENCE)  # meanwhile the timer shows that it is saved
            answered.set()
        return drawn

    to_train(page, ti_steps=5000)
    wait_for_step(page)
    monkeypatch.setattr(server.studio.training_jobs, "stop", stop_from_here)
    monkeypatch.setattr(cards, "progress", late)
    page.locator("#mc-pause").click()
    expect(page.locator("#mc-progress")).to_contain_text("Paused and saved")
    timer_rests.set()
    assert answered.wait(PATIENCE)
    page.wait_for_function("!document.querySelector('.mc-busy')")  # the button's answer is here
    expect(page.locator("#mc-progress")).to_contain_text("Paused and saved")
    expect(page.locator("#mc-resume")).to_be_visible()


@pytest.mark.long
def test_the_brush_corrects_a_mask_and_lets_it_go_again(page: Any, server: Any) -> None:
    to_masks(page)
    page.locator("#mc-subject-masks .mc-mask").first.click()
    page.wait_for_selector(".mc-brush[data-ready]")
    covered = "document.querySelector('#mc-brush canvas').toDataURL().length"
    box = page.locator("#mc-brush canvas").bounding_box()
    before = page.evaluate(covered)
    page.locator("#mc-brush canvas").hover(position={"x": 20, "y": 20})
    page.mouse.down()
    page.locator("#mc-brush canvas").hover(position={"x": 90, "y": 30})
    page.mouse.up()
    assert page.evaluate(covered) != before
    page.locator("#mc-brush [data-act=save]").click()
    expect(page.locator("#mc-subject-masks .mc-badge")).to_have_text("Corrected")
    masks = session_of(page, server) / "masks"
    from PIL import Image

    (saved,) = masks.iterdir()
    with Image.open(saved) as mask:
        assert (
            mask.getpixel((round(mask.width * 30 / box["width"]), round(mask.height * 22 / box["height"])))
            == 255
        )
        assert mask.getpixel((mask.width - 2, mask.height - 2)) == 0
    page.locator("#mc-subject-masks .mc-mask").first.click()
    page.wait_for_selector(".mc-brush[data-ready]")
    page.locator("#mc-brush [data-act=automatic]").click()
    expect(page.locator("#mc-subject-masks .mc-badge")).to_have_count(0)
    assert list(masks.iterdir()) == []


def test_nothing_painted_on_one_photo_is_saved_for_the_next(page: Any, server: Any) -> None:
    to_masks(page)
    page.locator("#mc-subject-masks .mc-mask").first.click()
    page.wait_for_selector(".mc-brush[data-ready]")
    first = page.locator(".mc-brush").get_attribute("data-photo")
    held: list[Any] = []
    page.route("**/gradio_api/file=**", lambda route: held.append(route))  # the next photo comes late
    page.locator("#mc-subject-masks .mc-mask").nth(1).click()
    page.wait_for_function(f"document.querySelector('.mc-brush').dataset.photo !== {json.dumps(first)}")
    page.locator("#mc-brush [data-act=save]").click()
    page.wait_for_timeout(2000)
    masks = session_of(page, server) / "masks"
    assert not masks.exists() or list(masks.iterdir()) == []
    assert held != []
    page.unroute("**/gradio_api/file=**")  # which lets go what was held
    page.wait_for_selector(".mc-brush[data-ready]")
    page.locator("#mc-brush [data-act=save]").click()
    expect(page.locator("#mc-subject-masks .mc-badge")).to_have_text("Corrected")


@pytest.mark.long
def test_changes_upstream_are_said(page: Any) -> None:
    to_train(page)
    expect(page.locator("#mc-progress")).to_contain_text("Learning finished")
    for number in (3, 2, 1):
        page.locator(f"#mc-back-{number}").click()
    page.locator("#mc-photos [data-act=remove]").first.click()
    expect(page.locator("#mc-photos .mc-photo")).to_have_count(5)
    for number in (0, 1, 2):
        page.locator(f"#mc-next-{number}").click()
    expect(page.get_by_text("were changed since this training began").first).to_be_visible()


def test_delete_my_data_deletes_it(page: Any, server: Any) -> None:
    to_style(page)
    page.locator("#mc-back-1").click()
    folder = session_of(page, server)
    shown = server.runs / "shown" / folder.name
    assert folder.exists()
    assert shown.exists()
    page.get_by_role("button", name="Delete my data").first.click()
    page.locator("#mc-delete").click()
    page.locator("#mc-delete-yes").click()
    expect(page.locator("#mc-people [data-act=person]").first).to_be_visible()
    expect(page.locator("#mc-photos .mc-photo")).to_have_count(0)
    assert not folder.exists()
    assert not shown.exists()


def test_delete_my_data_deletes_what_nobody_has_agreed_to_yet(
    page: Any, server: Any, people: list[list[Path]]
) -> None:
    def held() -> list[Path]:
        return [path for path in (server.runs / "shown").rglob("never-agreed*") if path.is_file()]

    photo = {"name": "never-agreed.jpg", "mimeType": "image/jpeg", "buffer": people[0][0].read_bytes()}
    page.locator("#mc-files input[type=file]").set_input_files([photo])
    expect(page.locator("#mc-held")).to_contain_text("1 photo here.")
    assert len(held()) == 1
    page.get_by_role("button", name="Delete my data").first.click()
    page.locator("#mc-delete").click()
    page.locator("#mc-delete-yes").click()
    expect(page.locator("#mc-held")).not_to_contain_text("1 photo here.")
    expect(page.locator("#mc-files")).not_to_contain_text("never-agreed")
    assert held() == []


@pytest.mark.long
def test_the_page_fits_a_phone(browser: Any, server: Any) -> None:
    from conftest import visitor

    with visitor(browser, server, width=390) as (page, faults):
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        to_style(page)
        expect(page.locator("#mc-next-1")).to_be_visible()
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        assert faults == []


def test_everything_to_press_has_a_name(page: Any) -> None:
    page.locator("#mc-people [data-act=person]").first.click()
    expect(page.locator("#mc-photos .mc-photo")).to_have_count(6)
    nameless = page.evaluate(
        "[...document.querySelectorAll('button, input, select, textarea, [role=button]')].filter(e =>"
        " e.offsetParent && !e.textContent.trim() && !e.getAttribute('aria-label') && !e.title"
        " && !(e.labels && e.labels.length)).map(e => e.outerHTML.slice(0, 200))"
    )
    assert nameless == []
