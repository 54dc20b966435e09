"""Every step where there is little room: at 200 %, on 320 pixels, on a phone. Nothing is cut off, covers something,
or makes the page scroll sideways (WCAG 2.2, 1.4.4 and 1.4.10), and no page is taller than three screens of a phone.

`python -m pytest -m long -s tests/ui/test_layouts.py` prints the heights.
"""

from __future__ import annotations

from typing import Any

import pytest
from test_wizard_page import expect, to_masks

pytestmark = [pytest.mark.browser, pytest.mark.long]

PHONE = (390, 844)
SIZES = {"200 %": (640, 400), "320 px": (320, 640), "phone": PHONE}
TALLEST = 3 * PHONE[1]
LONG = 600_000
"""Milliseconds that a job may take on a busy machine."""
FAULTS = """() => {
  const found = [], seen = {opacityProperty: true, visibilityProperty: true, contentVisibilityAuto: true};
  const words = each => (each.ariaLabel || each.innerText || each.id || each.className).trim().slice(0, 50);
  const above = element => { const all = []; for (let e = element; e; e = e.parentElement) all.push(e); return all; };
  const style = element => getComputedStyle(element);
  const hidden = element => !element.checkVisibility(seen) || above(element).some(each =>
    style(each).clipPath !== 'none' || style(each).position === 'fixed' ||
    each.matches('.mc-unseen, .mc-filling, #mc-compare'));
  const scrolls = element => above(element.parentElement).some(each => /auto|scroll/.test(style(each).overflowX) &&
    each.scrollWidth > each.clientWidth && each !== document.documentElement && each !== document.body);
  const wide = document.documentElement.scrollWidth;
  if (wide > innerWidth) found.push(`scrolls sideways: ${wide} of ${innerWidth}`);
  const texts = [], walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  for (let node; (node = walker.nextNode());) {
    const parent = node.parentElement;
    if (!node.data.trim() || parent.matches('script, style, option') || hidden(parent)) continue;
    const range = document.createRange(); range.selectNodeContents(node);
    const boxes = [...range.getClientRects()].filter(box => box.width > 1 && box.height > 1);
    if (boxes.length) texts.push({parent, boxes, free: !scrolls(parent)});
  }
  for (const {parent, boxes, free} of texts) {
    if (!free) continue;
    if (boxes.some(box => box.left < -1 || box.right > innerWidth + 1))
      found.push(`outside of the window: ${words(parent)}`);
    const box = above(parent).find(each => /hidden|clip/.test(style(each).overflowX) && each !== document.body);
    if (!box || style(box).textOverflow === 'ellipsis') continue;
    const edge = box.getBoundingClientRect();
    if (boxes.some(each => each.left < edge.left - 2 || each.right > edge.right + 2 || each.bottom > edge.bottom + 3))
      found.push(`cut off: ${words(parent)}`);
  }
  const cover = (a, b) => Math.min(a.right, b.right) - Math.max(a.left, b.left) > 3 &&
    Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top) > 5;
  texts.forEach((one, number) => texts.slice(number + 1).forEach(other => {
    if (one.free && other.free && one.boxes.some(a => other.boxes.some(b => cover(a, b))))
      found.push(`one on the other: ${words(one.parent)} | ${words(other.parent)}`);
  }));
  for (const each of document.querySelectorAll('button, a[href], input, textarea, summary')) {
    if (hidden(each) || scrolls(each)) continue;
    const box = each.getBoundingClientRect();
    if (box.width && (box.left < -1 || box.right > innerWidth + 1)) found.push(`outside of the window: ${words(each)}`);
  }
  return [...new Set(found)];
}"""


class Layouts:
    """What is wrong with the page in every size."""

    def __init__(self, page: Any) -> None:
        self.page = page
        self.faults: list[str] = []

    def look(self, step: str, tallest: int = TALLEST) -> None:
        """The step as it stands. tallest: pixels that it may take on a phone."""
        for size, (width, height) in SIZES.items():
            self.page.set_viewport_size({"width": width, "height": height})
            self.page.wait_for_timeout(300)
            self.faults += [f"{step}, {size}: {fault}" for fault in self.page.evaluate(FAULTS)]
            tall = self.page.evaluate("document.documentElement.scrollHeight")
            print(f"{step}, {size}: {tall} px")
            if (width, height) == PHONE and tall > tallest:
                self.faults.append(f"{step}: {tall} px tall on a phone, more than {tallest}")
        self.page.set_viewport_size({"width": 1280, "height": 900})


@pytest.mark.timeout(1200)
def test_every_step_fits_where_there_is_little_room(page: Any) -> None:
    layouts = Layouts(page)
    layouts.look("Photos, empty")
    to_masks(page)
    layouts.look("Check faces")
    page.locator("#mc-back-2").click()
    expect(page.locator("#mc-presets .mc-draft").first).to_be_visible()
    layouts.look("Style")
    page.locator("#mc-back-1").click()
    expect(page.locator("#mc-photos .mc-photo").first).to_be_visible()
    layouts.look("Photos")
    page.locator(".mc-way [data-id='3']").click()
    expect(page.locator("#mc-start")).to_be_visible()
    layouts.look("Learn, before")
    page.locator("#mc-start").click()
    expect(page.locator("#mc-progress")).to_contain_text("Learning finished", timeout=LONG)
    layouts.look("Learn")
    page.locator("#mc-next-3").click()
    layouts.look("Portraits, empty")
    page.locator("#mc-make").click()
    expect(page.locator("#mc-archive")).to_be_visible(timeout=LONG)
    layouts.look("Portraits")
    page.locator("#mc-gallery .mc-open").first.click()
    expect(page.locator("#mc-detail img").first).to_be_visible()
    layouts.look("Portraits, one large")
    page.get_by_role("button", name="Which strength suits these photos?").click()
    page.locator("#mc-compare-strengths").click()
    expect(page.locator("#mc-adopt")).to_be_visible(timeout=LONG)
    layouts.look("Strengths", tallest=TALLEST + PHONE[1])  # two parts that somebody opened
    page.locator("#mc-next-4").click()
    page.locator("#mc-finish").click()
    expect(page.locator("#mc-finish-report a")).to_be_visible(timeout=LONG)
    layouts.look("Finish")
    assert layouts.faults == []
