"""The page in a real browser: where the keyboard, the window and the line at its foot are after a press."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from conftest import visitor
from test_wizard_finish import visit  # noqa: F401 - a fixture
from test_wizard_page import expect, to_masks, wait_for_step

pytestmark = pytest.mark.browser

HAS_KEYBOARD = "id => !!document.activeElement.closest(`#${id} .mc-live`)"
IN_WINDOW = """selectors => selectors.every(selector => {
  const box = document.querySelector(selector)?.getBoundingClientRect();
  return box && box.top >= 0 && box.bottom <= innerHeight;
})"""
COVERED = """() => {
  const line = document.getElementById('mc-doing').getBoundingClientRect();
  const under = box => box.right > line.left && box.left < line.right && box.bottom > line.top && box.top < line.bottom;
  return [...document.querySelectorAll('button, [data-act], a[href], label, summary')]
    .filter(each => each.checkVisibility() && under(each.getBoundingClientRect())).map(each => each.innerText);
}"""


def press(page: Any, selector: str) -> None:
    """By the keyboard."""
    page.locator(selector).focus()
    page.keyboard.press("Enter")


@pytest.mark.long
def test_a_second_press_neither_pauses_nor_stops(page: Any) -> None:
    to_masks(page)
    page.locator("#mc-next-2").click()
    press(page, "#mc-start")
    page.wait_for_function(HAS_KEYBOARD, arg="mc-progress")
    page.keyboard.press("Enter")
    expect(page.locator("#mc-progress")).to_contain_text("Learning finished")
    assert page.evaluate(HAS_KEYBOARD, "mc-progress")
    page.locator("#mc-next-3").click()
    page.locator("#mc-count input[type=number]").fill("16")
    press(page, "#mc-make")
    page.wait_for_function(HAS_KEYBOARD, arg="mc-make-progress")
    page.keyboard.press("Enter")
    page.wait_for_function(IN_WINDOW, arg=["#mc-make-progress .mc-progress", "#mc-gallery .mc-portraits > *"])
    expect(page.locator("#mc-gallery .mc-open")).to_have_count(16)
    page.wait_for_function("document.activeElement.dataset.act === 'portrait'")


@pytest.mark.long
def test_after_a_pause_the_keyboard_is_where_it_says_so(page: Any) -> None:
    to_masks(page)
    page.locator("#mc-next-2").click()
    page.get_by_role("button", name="Advanced").click()
    page.get_by_label("Ti steps").fill("5000")
    page.get_by_label("Ti steps").blur()
    press(page, "#mc-start")
    wait_for_step(page, 2)
    press(page, "#mc-pause")
    expect(page.locator("#mc-progress")).to_contain_text("Paused and saved")
    page.wait_for_function(HAS_KEYBOARD, arg="mc-progress")


def test_the_end_of_finishing_is_heard_and_seen(visit: tuple[Any, str]) -> None:  # noqa: F811
    page, _ = visit
    page.get_by_role("radio", name="None").check()
    press(page, "#mc-finish")
    page.wait_for_function(HAS_KEYBOARD, arg="mc-finish-progress")
    expect(page.locator("#mc-finish-progress")).to_contain_text("1 portrait is finished")
    expect(page.locator("#mc-spoken")).to_have_text("Finishing: done")
    page.wait_for_function(IN_WINDOW, arg=["#mc-finish-progress .mc-progress", "#mc-finish-report a"])
    assert page.evaluate(HAS_KEYBOARD, "mc-finish-progress")


def test_the_line_on_a_phone_covers_no_button(browser: Any, server: Any) -> None:
    with visitor(browser, server, width=390) as (page, faults):
        foot = page.locator("#mc-next-0")
        foot.evaluate("foot => scrollTo(0, foot.getBoundingClientRect().bottom + scrollY - innerHeight + 20)")
        page.evaluate("magicapture.begin(-1, 'Looking at the photos')")
        expect(page.locator("#mc-doing")).to_be_visible()
        assert page.evaluate(COVERED) == []
        page.evaluate("scrollBy(0, -25)")
        page.wait_for_function(f"({COVERED})().length === 0")
        page.evaluate("magicapture.end(-1)")
        expect(page.locator("#mc-doing")).to_be_hidden()
        assert faults == []


def test_nobody_is_said_to_look_at_photos_that_are_held(page: Any, people: list[list[Path]]) -> None:
    page.evaluate(
        "() => { window.said = []; const begin = magicapture.begin;"
        "magicapture.begin = (number, words) => { said.push(words); begin(number, words); }; }"
    )
    page.locator("#mc-files input[type=file]").set_input_files([str(people[0][0])])
    expect(page.locator("#mc-held")).to_contain_text("before that nobody opens it")
    assert page.evaluate("said") == ["One moment"]
    page.locator("#mc-consent input").check()
    expect(page.locator("#mc-photos .mc-photo")).to_have_count(1)
    assert page.evaluate("said") == ["One moment", "Looking at the photos"]
