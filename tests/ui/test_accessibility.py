"""WCAG 2.2 AA at every step, light and dark, as far as axe-core can tell; and what it cannot."""

from __future__ import annotations

import re
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from test_wizard_page import expect, to_masks, to_style

from magicapture_core.ui.portrait_cards import portrait_cards

pytestmark = pytest.mark.browser

LEVELS = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"]
FADED = """() => Promise.allSettled(
  document.getAnimations().filter(each => each instanceof CSSTransition).map(each => each.finished))"""
"""Colours fade into each other; this waits until they have."""
GRADIOS = [[".toast-wrap"]]
"""Messages that go by themselves: their button lies in another one, in gradio 6.31."""


@pytest.fixture
def faults(page: Any) -> Any:
    """What axe-core finds on the page as it stands, in both themes."""
    axe = Axe()

    def look() -> list[str]:
        found = []
        for dark in (False, True):
            page.evaluate("dark => document.body.classList.toggle('dark', dark)", dark)
            page.evaluate(FADED)
            answer = axe.run(page, {"exclude": GRADIOS}, {"runOnly": LEVELS}).response
            assert "color-contrast" in {rule["id"] for rule in answer["passes"]}  # it did look
            found += [
                f"{'dark' if dark else 'light'} {rule['id']}: {node['html'][:200]}"
                for rule in answer["violations"]
                for node in rule["nodes"]
            ]
        page.evaluate("document.body.classList.remove('dark')")
        return found

    return look


def open_all(page: Any) -> None:
    shut = page.locator("button.label-wrap:not(.open):visible")
    while shut.count():
        shut.first.click()


@pytest.mark.long
def test_no_fault_before_training(page: Any, faults: Any) -> None:
    page.locator("#mc-next-0").click()
    expect(page.locator("#mc-said-0")).to_contain_text("Add some photos first")
    page.locator("#mc-consent input").check()
    expect(page.locator("#mc-files")).to_be_visible()
    open_all(page)
    page.locator("#mc-delete").click()
    expect(page.locator("#mc-delete-yes")).to_be_visible()
    assert faults() == []
    to_masks(page)
    page.locator("#mc-back-2").click()
    expect(page.locator("#mc-presets [aria-pressed=true]")).to_be_visible()
    assert faults() == []
    page.locator("#mc-next-1").click()
    page.locator("#mc-subject-masks .mc-mask").first.click()
    page.wait_for_selector(".mc-brush[data-ready]")
    assert faults() == []


@pytest.mark.long
def test_no_fault_from_training_on(page: Any, faults: Any) -> None:
    to_masks(page)
    page.locator("#mc-next-2").click()
    expect(page.locator("#mc-start")).to_be_visible()
    page.get_by_role("button", name="Advanced").click()
    page.locator("#mc-start").click()
    expect(page.locator("#mc-progress")).to_contain_text("Learning finished")
    expect(page.locator("#mc-spoken")).to_have_text("Learning: done")  # said to those who cannot see it
    assert faults() == []
    page.locator("#mc-next-3").click()
    page.locator("#mc-count input[type=number]").fill("2")
    page.locator("#mc-make").click()
    expect(page.locator("#mc-gallery .mc-portrait")).to_have_count(2)
    expect(page.locator("#mc-archive")).to_be_visible()
    expect(page.locator("#mc-spoken")).to_have_text("2 portraits")  # said to those who cannot see them
    page.locator("#mc-gallery .mc-portrait").first.click()
    expect(page.locator("#mc-detail img").first).to_be_visible()
    open_all(page)
    page.locator("#mc-past [data-act=ask-run]").click()
    expect(page.locator("#mc-past [data-act=drop-run]")).to_be_visible()
    assert faults() == []
    page.locator("#mc-next-4").click()
    expect(page.locator("#mc-finish-large img")).to_be_visible()
    assert faults() == []


def test_portraits_are_announced_once_there_is_one() -> None:
    assert 'data-say=""' in portrait_cards([], None, "Choose one.", coming=2)


def test_accordions_say_whether_they_are_open(page: Any) -> None:
    button = page.get_by_role("button", name="Not a person?")
    expect(button).to_have_attribute("aria-expanded", "false")
    button.click()
    expect(button).to_have_attribute("aria-expanded", "true")


def test_the_keyboards_place_is_marked_alike_on_everything(page: Any) -> None:
    marks = set()
    for _ in range(20):
        page.keyboard.press("Tab")
        marks.add(
            page.evaluate("""() => {
          const {outlineStyle, outlineWidth} = getComputedStyle(document.activeElement);
          return `${document.activeElement.nodeName} ${outlineStyle} ${outlineWidth}`; }""")
        )
    seen = {mark for mark in marks if not mark.startswith("BODY")}
    assert seen == {"BUTTON solid 3px", "INPUT solid 3px", "A solid 3px"}


def test_what_is_seen_where_files_are_dropped_is_its_name(page: Any, people: Any) -> None:
    choose = page.get_by_role("button", name="Choose photos", exact=True)
    expect(choose).to_have_count(1)
    shown = "element => getComputedStyle(element.querySelector('.wrap'), '::before').content"
    assert choose.evaluate(shown) == '"Choose photos"'
    page.set_input_files("#mc-files input", people[0][0])
    expect(page.locator("#mc-held")).to_contain_text("1 photo here")
    expect(page.locator("#mc-files .filename")).to_have_count(1)
    expect(page.locator("#mc-files .upload-container")).to_have_attribute("aria-label", "Choose photos")
    assert page.locator("#mc-files button[aria-label^='common.']").count() == 0
    page.locator("#mc-consent input").focus()
    names = []
    for _ in range(4):
        page.keyboard.press("Shift+Tab")
        names.append(page.evaluate("document.activeElement.ariaLabel"))
    assert names[1:] == [
        "Clear",
        "Choose photos",
        None,
    ]  # once, though gradio 6.31 puts one button into another


def test_the_steps_have_names_on_a_phone(browser: Any, server: Any) -> None:
    from conftest import visitor

    with visitor(browser, server, width=360) as (page, broken):
        to_style(page)
        expect(page.locator("#mc-back-1")).to_be_visible()
        steps = page.get_by_role("navigation", name="Steps").get_by_role("button")
        expect(steps).to_have_text([re.compile(name) for name in (
            "Photos, done", "Style", "Check faces", "Learn", "Portraits", "Finish",
        )])  # fmt: skip
        for number in range(6):
            label = steps.nth(number).locator("span:not(.mc-number)").first
            assert label.bounding_box()["width"] > 20
        assert page.evaluate("document.documentElement.scrollWidth") <= 360
        assert broken == []


CONTRAST = """([selector, property]) => {
  const numbers = colour => colour.match(/[\\d.]+/g).map(Number);
  const light = colour => { const [r, g, b] = numbers(colour).map(value => value / 255)
    .map(value => value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
  const element = [...document.querySelectorAll(selector)].find(each => each.checkVisibility());
  let under = element.parentElement;
  while (numbers(getComputedStyle(under).backgroundColor)[3] === 0) under = under.parentElement;
  const pair = [getComputedStyle(element)[property], getComputedStyle(under).backgroundColor].map(light);
  return (Math.max(...pair) + 0.05) / (Math.min(...pair) + 0.05);
}"""
"""axe-core looks at text alone."""


@pytest.mark.parametrize("dark", [False, True])
def test_what_shows_a_control_can_be_seen(page: Any, dark: bool) -> None:
    page.get_by_role("button", name="Not a person?").click()
    page.evaluate("dark => document.body.classList.toggle('dark', dark)", dark)
    page.evaluate(FADED)
    for selector in (
        "#mc-consent input",
        "#mc-kind input:not(:checked)",
        ".mc-way button:disabled .mc-number",
    ):
        assert page.evaluate(CONTRAST, [selector, "borderTopColor"]) >= 3, selector
