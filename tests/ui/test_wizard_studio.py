"""What the last steps do for somebody who makes many portraits: times, samples, favourites, undo, more like one."""

from __future__ import annotations

import re
from typing import Any

import pytest
from test_wizard_page import expect, to_masks, to_train

pytestmark = pytest.mark.browser


def standing_out(page: Any) -> list[str]:
    """Which primary buttons are seen."""
    found = page.locator("button.primary:visible")
    return [button.get_attribute("id") for button in found.all()]


@pytest.mark.long
def test_the_button_tells_the_time_before_the_first_training(page: Any, server: Any) -> None:
    pace = server.runs / "pace.json"
    pace.unlink(missing_ok=True)
    to_masks(page)
    page.locator("#mc-next-2").click()
    expect(page.locator("#mc-start")).to_contain_text(re.compile(r"Make it look like \w+: about \d+ \w+"))
    assert '"lora"' in pace.read_text(encoding="utf-8")
    expect(page.get_by_role("radio", name=re.compile(r"^Quick: about \d+"))).to_be_checked()
    expect(page.locator("#mc-progress")).not_to_contain_text("Measuring")
    assert standing_out(page) == ["mc-start"]  # there is nothing to go on with yet


@pytest.mark.long
def test_samples_can_be_looked_at_and_settings_are_closed_meanwhile(page: Any) -> None:
    to_train(page, ti_steps=5000)
    frames = page.locator("#mc-samples .mc-frame")
    page.wait_for_function("document.querySelectorAll('#mc-samples .mc-frame').length >= 2")
    expect(page.locator("#mc-schedule")).to_be_hidden()
    expect(page.locator("#mc-settings")).to_be_hidden()
    assert re.match(r"\d+% Learning", page.title())
    large = page.locator("#mc-samples .mc-pair img").first
    frames.last.click()
    step = frames.last.get_attribute("data-id")
    expect(large).to_have_attribute("alt", f"Sample at step {step}")
    expect(frames.last).to_have_attribute("aria-pressed", "true")
    seen = frames.count()
    page.wait_for_function(f"document.querySelectorAll('#mc-samples .mc-frame').length > {seen}")
    expect(large).to_have_attribute("alt", f"Sample at step {step}")  # a new one takes nothing away
    page.locator("#mc-pause").click()
    expect(page.locator("#mc-schedule")).to_be_visible()
    expect(page.locator("#mc-start")).to_contain_text("Learn again")
    assert standing_out(page) == ["mc-resume"]


def height_on_a_phone(page: Any) -> int:
    """Of the step Portraits with its options opened, in pixels."""
    page.set_viewport_size({"width": 390, "height": 844})
    page.locator(".mc-waits:visible button.label-wrap").click()
    expect(page.locator("#mc-seed")).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    height, before = page.evaluate("document.documentElement.scrollHeight"), 0
    while height != before:  # what has just ended folds up
        page.wait_for_timeout(500)
        height, before = page.evaluate("document.documentElement.scrollHeight"), height
    page.set_viewport_size({"width": 1280, "height": 900})
    return int(height)


@pytest.mark.long
def test_portraits_are_kept_deleted_brought_back_and_varied(page: Any) -> None:
    to_train(page)
    expect(page.locator("#mc-progress")).to_contain_text("Learning finished")
    assert standing_out(page) == ["mc-next-3"]
    page.locator("#mc-next-3").click()
    page.locator("#mc-count input[type=number]").fill("2")
    page.locator("#mc-make").click()
    cards = page.locator("#mc-gallery .mc-portrait")
    expect(page.locator("#mc-archive")).to_be_visible()
    expect(cards).to_have_count(2)
    expect(page.locator("#mc-gallery .mc-badge")).to_have_count(0)
    cards.first.locator("[data-act=portrait]").click()
    expect(page.locator("#mc-detail .mc-pair img")).to_have_count(3)  # the portrait, a photo, a heat map
    before = page.locator("#mc-detail .mc-pair img").first.get_attribute("src")
    page.locator("#mc-detail [data-act=close]").click()
    expect(page.locator("#mc-detail img")).to_have_count(0)
    expect(page.locator("#mc-gallery .mc-film")).to_have_count(0)
    cards.first.locator("[data-act=portrait]").click()
    expect(page.locator("#mc-gallery .mc-film")).to_have_count(1)

    page.locator("#mc-detail [data-act=near]").click()
    expect(cards).to_have_count(4)
    expect(page.locator("#mc-gallery .mc-badge", has_text="New")).to_have_count(2)
    expect(cards.first.locator(".mc-badge")).to_have_text("New")
    expect(page.locator("#mc-detail .mc-pair img").first).to_have_attribute("src", before)
    assert height_on_a_phone(page) <= 3 * 844

    page.locator("#mc-detail [data-act=favourite]").click()
    page.get_by_role("radio", name="Favourites").check()
    expect(cards.first.locator("[data-act=favourite]")).to_have_attribute("aria-pressed", "true")
    expect(cards.first.locator("img")).to_have_attribute("src", before)
    page.locator("#mc-detail [data-act=remove]").click()
    expect(cards).to_have_count(3)
    expect(page.locator("#mc-detail img")).to_have_count(0)
    page.locator("#mc-undo [data-act=undo]").click()
    expect(cards).to_have_count(4)
    expect(cards.first.locator("img")).to_have_attribute("src", before)

    page.locator("#mc-next-4").click()
    page.get_by_role("radio", name="×1", exact=True).check()
    expect(page.locator("#mc-finish-all")).to_be_hidden()  # one favourite is no crowd
    page.locator("#mc-finish-gallery [data-act=favourite]").nth(1).click()
    expect(page.locator("#mc-finish-all")).to_have_text("Finish my favourites: 2")
    page.locator("#mc-finish-all").click()
    expect(page.locator("#mc-finish-gallery .mc-badge", has_text="Finished")).to_have_count(2)
    expect(page.locator("#mc-finish-archive")).to_be_visible()


@pytest.mark.long
def test_other_shapes_are_offered_where_the_model_has_them(page: Any) -> None:
    to_train(page)
    expect(page.locator("#mc-progress")).to_contain_text("Learning finished")
    page.locator("#mc-next-3").click()
    page.get_by_role("radio", name="4:5").check()
    page.locator("#mc-count input[type=number]").fill("1")
    page.locator("#mc-make").click()
    expect(page.locator("#mc-gallery .mc-portrait")).to_have_count(1)
    page.wait_for_function("document.querySelector('#mc-gallery .mc-portrait img').naturalHeight > 64")
    assert page.evaluate(
        "(({naturalWidth: w, naturalHeight: h}) => [w, h])(document.querySelector('#mc-gallery .mc-portrait img'))"
    ) == [64, 80]
    page.locator("#mc-gallery [data-act=portrait]").click()
    expect(page.locator("#mc-detail .mc-pair img")).to_have_count(2)  # maps are made of squares only


NOTIFICATIONS = """
window.asked = 0; window.shown = []; window.away = false;
window.Notification = class {
  static permission = 'default';
  static async requestPermission() { window.asked += 1; Notification.permission = 'granted'; return 'granted'; }
  constructor(title, options) { window.shown.push(options.body); }
};
Object.defineProperty(document, 'hidden', {get: () => window.away});
"""


@pytest.mark.long
def test_the_window_says_how_far_it_is_and_that_it_is_done(browser: Any, server: Any) -> None:
    from conftest import visitor

    with visitor(browser, server, script=NOTIFICATIONS) as (page, faults):
        icon = page.locator("link[rel~=icon]").first
        plain = icon.get_attribute("href")
        to_train(page, ti_steps=5000)
        page.locator(".mc-notify").click(trial=True)
        assert page.evaluate("asked") == 0  # nobody is asked before the button is pressed
        page.locator(".mc-notify").click()
        expect(page.locator(".mc-notify")).to_be_hidden()
        assert page.evaluate("asked") == 1
        expect(icon).to_have_attribute("href", re.compile("^data:image/png"))
        page.evaluate("away = true")
        page.locator("#mc-pause").click()
        page.wait_for_function("shown.length > 0")
        assert page.evaluate("shown") == ["Learning: done"]
        assert page.title().startswith("Learning: done · ")
        expect(icon).to_have_attribute("href", re.compile("^data:image/png"))
        page.evaluate("away = false; document.dispatchEvent(new Event('visibilitychange'))")
        page.wait_for_function("!document.title.includes('done')")
        expect(icon).to_have_attribute("href", plain)
        page.set_viewport_size({"width": 390, "height": 844})
        assert page.evaluate("document.documentElement.scrollHeight") <= 3 * 844  # three screens of a phone
        assert faults == []
