"""The page in a real browser: what is under way is said, ways stay open, warnings go, nothing is lost by one click."""

from __future__ import annotations

import json
import re
import threading
from pathlib import Path
from typing import Any

import pytest
from test_wizard_page import expect, session_of, to_style, to_train, wait_for_step

pytestmark = pytest.mark.browser


def runs_of(page: Any, server: Any) -> list[dict[str, Any]]:
    return json.loads((session_of(page, server) / "session.json").read_text(encoding="utf-8"))["runs"]


def with_portraits(page: Any, count: int = 2) -> None:
    to_train(page)
    expect(page.locator("#mc-progress")).to_contain_text("Learning finished")
    page.locator("#mc-next-3").click()
    page.locator("#mc-count input[type=number]").fill(str(count))
    page.locator("#mc-make").click()
    expect(page.locator("#mc-gallery .mc-portrait")).to_have_count(count)
    expect(page.locator("#mc-archive")).to_be_visible()


def way(page: Any, name: str) -> Any:
    return page.get_by_role("navigation", name="Steps").get_by_role("button", name=re.compile(f"^{name}"))


def focused(page: Any) -> dict[str, str]:
    return page.evaluate(
        "({tag: document.activeElement.tagName, ...document.activeElement.dataset, "
        "text: document.activeElement.innerText.slice(0, 80)})"
    )


@pytest.mark.long
def test_a_training_is_deleted_only_after_a_question(page: Any, server: Any) -> None:
    with_portraits(page)
    page.get_by_role("button", name="Past trainings").click()
    past = page.locator("#mc-past")
    expect(past).to_contain_text("2 portraits")
    past.locator("[data-act=ask-run]").click()
    expect(past).to_contain_text(re.compile(r"Delete Bright black and white \(.*\) and its 2 portraits\?"))
    page.wait_for_function("document.activeElement.dataset.act === 'keep-run'")  # the harmless answer
    assert len(runs_of(page, server)) == 1
    page.keyboard.press("Enter")
    expect(past.locator("[data-act=ask-run]")).to_be_visible()
    page.wait_for_function("document.activeElement.dataset.act === 'ask-run'")
    assert len(runs_of(page, server)) == 1
    past.locator("[data-act=ask-run]").click()
    past.locator("[data-act=drop-run]").click()
    expect(page.locator("#mc-gallery .mc-portrait")).to_have_count(0)
    assert runs_of(page, server) == []


@pytest.mark.long
def test_steps_that_were_reached_stay_open_and_their_files_have_names(page: Any) -> None:
    for name in ("Style", "Check faces", "Learn", "Portraits", "Finish"):
        expect(way(page, name)).to_be_disabled()
    with_portraits(page)
    with page.expect_download() as download:
        page.locator("#mc-archive").click()
    assert download.value.suggested_filename == "bright-black-and-white-portraits.zip"
    page.get_by_role("button", name="Use it elsewhere, or keep it").click()
    page.locator("#mc-export").click()
    expect(page.locator("#mc-exported a")).not_to_have_count(0)
    page.get_by_role("radio", name=re.compile("ComfyUI")).check()
    expect(page.locator("#mc-exported a")).to_have_count(0)  # they are of the other format
    page.locator("#mc-next-4").click()
    expect(page.locator("#mc-finish-gallery .mc-portrait")).to_have_count(2)
    expect(way(page, "Finish")).to_have_attribute("aria-current", "step")
    expect(page.locator("#mc-finish-large img")).to_be_visible()
    first = page.locator("#mc-finish-large img").get_attribute("src")
    page.locator("#mc-finish-gallery .mc-portrait").nth(1).click()
    expect(page.locator("#mc-finish-large img")).not_to_have_attribute("src", first)
    way(page, "Photos").click()
    expect(page.locator("#mc-photos .mc-photo")).to_have_count(6)
    expect(page.locator("#mc-photos .mc-photo").first).to_be_visible()
    way(page, "Portraits").click()
    expect(page.locator("#mc-gallery .mc-portrait")).to_have_count(2)
    expect(page.locator("#mc-gallery .mc-portrait").first).to_be_visible()
    assert page.evaluate(
        "[...document.querySelectorAll('.mc-portrait img')].every(image => image.alt.length > 20)"
    )


def test_a_warning_goes_with_its_cause(page: Any) -> None:
    page.locator("#mc-next-0").click()
    expect(page.locator("#mc-said-0")).to_contain_text("Add some photos first")
    page.locator("#mc-people [data-act=person]").first.click()
    expect(page.locator("#mc-photos .mc-photo")).to_have_count(6)
    expect(page.locator("#mc-said-0")).not_to_contain_text("Add some photos first")
    page.locator("#mc-next-0").click()
    page.locator("#mc-next-1").click()
    expect(page.locator("#mc-said-1")).to_contain_text("Tick at least one look")
    page.locator("#mc-presets [data-act=look]").first.click()
    expect(page.locator("#mc-said-1")).not_to_contain_text("Tick at least one look")


@pytest.mark.long
def test_a_prompts_warning_goes_when_the_prompt_is_mended(page: Any) -> None:
    with_portraits(page)
    prompt = page.locator("#mc-prompt textarea")
    prompt.fill("a photo of a woman")
    page.locator("#mc-make").click()
    expect(page.locator("#mc-make-progress")).to_contain_text("does not mention “me”")
    prompt.fill("a photo of me, smiling")
    expect(page.locator("#mc-make-progress")).not_to_contain_text("does not mention “me”")
    smiling = page.get_by_role("button", name="smiling", exact=True)
    expect(smiling).to_have_attribute("aria-pressed", "true")
    smiling.click()
    expect(prompt).to_have_value("a photo of me")
    expect(smiling).to_have_attribute("aria-pressed", "false")


@pytest.mark.long
def test_what_takes_long_says_what_it_does(page: Any, server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    to_style(page)
    page.locator("#mc-presets [data-act=look]").first.click()
    expect(page.locator("#mc-presets [aria-pressed=true]")).to_have_count(1)
    expect(page.locator("#mc-doing")).to_be_hidden()
    views, calls, seen = server.studio.masks.views, [], threading.Event()

    def slow(key: str, role: Any, look: Any = None) -> Any:
        calls.append(role)
        seen.wait(180)
        return views(key, role, look)

    monkeypatch.setattr(server.studio.masks, "views", slow)
    page.locator("#mc-next-1").click()
    expect(page.locator("#mc-doing")).to_have_text("Marking the faces in the photos")
    expect(page.locator("#mc-next-1")).to_have_attribute("aria-disabled", "true")
    page.locator("#mc-next-1").click(force=True)  # once is enough
    seen.set()
    expect(page.locator("#mc-subject-masks .mc-mask")).to_have_count(6)
    expect(page.locator("#mc-doing")).to_be_hidden()
    assert calls == ["subject", "style"]
    assert page.locator("#mc-next-1").get_attribute("aria-disabled") is None


@pytest.mark.long
def test_a_resumed_training_goes_on_where_it_stood(page: Any, server: Any) -> None:
    to_train(page, ti_steps=5000)
    wait_for_step(page, 8)  # past the first sample and the first look at attention
    expect(page.locator("#mc-samples .mc-frame")).not_to_have_count(0)
    page.locator("#mc-pause").click()
    expect(page.locator("#mc-progress")).to_contain_text("Paused and saved")
    paused = int(re.search(r"Step (\d+) of", page.locator("#mc-progress").inner_text())[1])
    samples = page.locator("#mc-samples .mc-frame").count()
    page.reload()
    expect(page.locator("#mc-resume")).to_be_visible()
    expect(page.get_by_role("radio", name="My own settings")).to_be_checked()
    page.get_by_role("button", name="Advanced").click()
    expect(page.get_by_text("5010 steps.")).to_be_visible()
    expect(page.locator("#mc-samples .mc-frame")).to_have_count(samples)
    expect(page.locator("#mc-losses .mc-chart")).not_to_have_count(0)
    assert page.locator("#mc-leave").is_hidden()
    server.studio.models._loaded = None  # so that it takes a moment
    page.locator("#mc-resume").click()
    expect(page.locator("#mc-progress")).to_contain_text(f"Goes on from step {paused} of 5010")
    assert page.locator("#mc-leave").is_hidden()  # nobody is before it
    expect(page.locator("#mc-samples .mc-frame")).not_to_have_count(0)
    expect(page.locator("#mc-losses .mc-chart")).not_to_have_count(0)
    wait_for_step(page, paused)
    expect(page.locator("#mc-losses .mc-axis").first).to_contain_text("step 1")
    page.locator("#mc-pause").click()
    expect(page.locator("#mc-progress")).to_contain_text("Paused and saved")


@pytest.mark.long
def test_another_person_can_always_be_chosen(page: Any, people: list[list[Path]]) -> None:
    page.locator("#mc-people [data-act=person]").first.click()
    expect(page.locator("#mc-photos .mc-photo")).to_have_count(6)
    first = page.locator("#mc-photos img").first.get_attribute("src")
    page.wait_for_function("document.activeElement !== document.body")
    page.get_by_text("Choose another person").click()
    page.locator("#mc-people [data-act=person]").nth(1).click()
    expect(page.locator("#mc-photos img").first).not_to_have_attribute("src", first)
    expect(page.locator("#mc-photos .mc-photo")).to_have_count(6)
    page.locator("#mc-consent input").check()
    # One's own photos are not mixed with a sample person's.
    page.locator("#mc-files input[type=file]").set_input_files([str(path) for path in people[0][:2]])
    expect(page.locator("#mc-photos .mc-photo")).to_have_count(2)
    expect(page.get_by_text("2 usable photos of the person")).to_be_visible()
    page.get_by_text("Choose another person").click()
    page.get_by_role("button", name="Remove these photos and add others").click()
    expect(page.locator("#mc-photos .mc-photo")).to_have_count(0)
    expect(page.get_by_role("heading", name="Or try it with a sample person")).to_be_visible()


@pytest.mark.long
def test_the_keyboard_keeps_its_place(page: Any) -> None:
    to_style(page)
    page.wait_for_function("document.activeElement.tagName === 'H2'")  # a new step begins at its heading
    page.locator("#mc-presets [data-act=look]").first.click()
    expect(page.locator("#mc-presets [aria-pressed=true]")).to_have_count(1)
    page.wait_for_function("document.activeElement.dataset.act === 'look'")
    page.keyboard.press("Space")  # takes the tick away, and sets it again
    expect(page.locator("#mc-presets [aria-pressed=true]")).to_have_count(0)
    page.wait_for_function("document.activeElement.dataset.act === 'look'")
    page.keyboard.press("Space")
    expect(page.locator("#mc-presets [aria-pressed=true]")).to_have_count(1)
    page.locator("#mc-next-1").click()
    expect(page.locator("#mc-subject-masks .mc-mask")).to_have_count(6)
    page.wait_for_function("document.activeElement.tagName === 'H2'")
    mask = page.locator("#mc-subject-masks .mc-mask").nth(1)
    opened = mask.get_attribute("data-id")
    mask.click()
    page.wait_for_selector(".mc-brush[data-ready]")
    assert focused(page)["tool"] == "paint"
    page.locator("#mc-brush [data-act=cancel]").press("Enter")
    expect(page.locator("#mc-brush canvas")).to_have_count(0)
    page.wait_for_function(f"document.activeElement.dataset.id === '{opened}'")
    page.get_by_role("button", name="Delete my data").first.click()
    page.locator("#mc-delete").click()
    page.wait_for_function("document.activeElement.id === 'mc-delete-no'")
    expect(page.get_by_text(re.compile(r"Delete \d+ photos, 0 trainings and 0 portraits\?"))).to_be_visible()


def draw_late(page: Any, selector: str) -> Any:
    """Keep what an answer draws out of sight, as gradio does on a slow machine. Returns what shows it at last."""
    page.evaluate(
        "selector => { const style = document.createElement('style'); style.id = 'late'; "
        "style.textContent = `${selector} { display: none }`; document.head.append(style); }",
        selector,
    )
    shows = "document.querySelector('#late').remove(); document.body.classList.toggle('drawn')"
    return lambda: page.evaluate(shows)


def test_the_keyboard_goes_to_what_is_drawn_late(page: Any) -> None:
    show = draw_late(page, "#mc-delete-no, #mc-delete-yes")
    page.get_by_role("button", name="Delete my data").first.click()
    page.locator("#mc-delete").click()
    page.wait_for_function("document.activeElement.closest('footer')")  # all that is there for now
    show()
    page.wait_for_function("document.activeElement.id === 'mc-delete-no'")
    show = draw_late(page, "#mc-delete")
    page.keyboard.press("Enter")
    page.wait_for_function("document.activeElement.closest('footer')")
    show()
    page.wait_for_function("document.activeElement.id === 'mc-delete'")


def test_what_is_drawn_late_takes_the_keyboard_from_nobody(page: Any) -> None:
    show = draw_late(page, "#mc-delete-no, #mc-delete-yes")
    page.get_by_role("button", name="Delete my data").first.click()
    page.locator("#mc-delete").click()
    page.wait_for_function("document.activeElement.closest('footer')")
    page.keyboard.press("Shift")  # somebody is at work there
    show()
    page.wait_for_timeout(500)
    assert page.evaluate("document.activeElement.closest('footer') !== null")


def test_the_keyboard_is_kept_where_the_page_is_busy(page: Any) -> None:
    """The browser leaves it on what is disabled until it draws, which may be after page.js has looked."""
    page.evaluate(
        "async () => { const button = document.querySelector('#mc-next-0'); button.focus(); "
        "await new Promise(next => setTimeout(next, 1500)); button.disabled = true; await new Promise(setTimeout); "
        "const then = performance.now(); while (performance.now() < then + 300); }"
    )
    page.wait_for_function("document.activeElement.innerText.startsWith('Delete my data')")


@pytest.mark.long
def test_the_brush_keeps_its_tools_in_sight_at_200_percent(browser: Any, server: Any) -> None:
    from conftest import visitor

    with visitor(browser, server) as (page, faults):
        to_style(page)
        page.locator("#mc-presets [data-act=look]").first.click()
        expect(page.locator("#mc-presets [aria-pressed=true]")).to_have_count(1)
        page.locator("#mc-next-1").click()
        page.locator("#mc-subject-masks .mc-mask").first.click()
        page.wait_for_selector(".mc-brush[data-ready]")
        page.set_viewport_size({"width": 640, "height": 450})  # what is left of 1280×900 at 200 %
        page.locator(".mc-brush").evaluate("brush => brush.scrollIntoView({block: 'center'})")
        for part in ("[data-tool=paint]", "canvas", "[data-act=save]"):
            box = page.locator(f"#mc-brush {part}").bounding_box()
            assert box["y"] >= 0
            assert box["y"] + box["height"] <= 450
        assert faults == []


def test_photos_chosen_before_the_session_is_open_wait_for_the_box(
    browser: Any, server: Any, people: Any
) -> None:
    context = browser.new_context()
    page, first = context.new_page(), []
    page.route("**/gradio_api/queue/join*", lambda route: route.continue_() if first else first.append(route))
    page.goto(server.url)
    page.set_input_files("#mc-files input", people[0][:2])
    expect(page.locator("#mc-held")).to_contain_text("2 photos here")
    first[0].continue_()  # only now the session is opened
    page.wait_for_selector("#mc-people [data-act=person]")
    expect(page.locator("#mc-consent input")).to_be_enabled()
    expect(page.locator("#mc-held")).to_contain_text("2 photos here")
    expect(page.locator(".toast-body")).to_have_count(0)  # no warning of a session that is gone
    page.locator("#mc-consent input").check()
    expect(page.locator("#mc-photos .mc-photo")).to_have_count(2)
    context.close()
