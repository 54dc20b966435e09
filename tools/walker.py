"""Somebody who walks through the page with a mouse, or with the keyboard alone, and what they would complain of.

A control is found as a person finds it: by what it is and what stands on it, never by an id. What cannot be found ends
the walk. See tools/walk.py.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

Words = re.Pattern[str]
LOOKING = 180.0
"""Seconds in which a control or a text has to be there, on a busy machine."""
PAUSE = 0.5
"""Seconds between two looks at the page."""
MOST_KEYS = 150
"""How often Tab is pressed in search of a control."""
FAR = 20
"""Presses of Tab from which on the way is too long to pass without a remark."""
LEAST_JUMP = 0.05
"""Layout shift (https://web.dev/articles/cls) from which on a jump of the page is worth a remark."""

LISTENING = """() => {
  const LIVE = '[role=status], [role=alert], [aria-live]', last = new Map();
  const named = ({node}) => node?.closest?.('[id]')?.id || node?.className || node?.nodeName || '?';
  window.walked = {jumps: [], heard: []};
  new PerformanceObserver(list => {
    for (const each of list.getEntries()) if (!each.hadRecentInput && each.value >= LEAST) walked.jumps.push(
      [performance.timeOrigin + each.startTime, each.value, [...new Set(each.sources.map(named))].join(', ')]);
  }).observe({type: 'layout-shift', buffered: true});
  const hear = node => {
    const live = (node.nodeType === 1 ? node : node.parentElement)?.closest(LIVE);
    const words = live?.checkVisibility() ? live.innerText.trim() : '';
    if (!words || last.get(live.id || live.className) === words) return;
    last.set(live.id || live.className, words); walked.heard.push([Date.now(), words]);
  };
  const look = change => {
    hear(change.target);
    for (const node of change.addedNodes) { hear(node); node.querySelectorAll?.(LIVE).forEach(hear); }
  };
  new MutationObserver(changes => changes.forEach(look)).observe(
    document, {childList: true, subtree: true, characterData: true});
}"""
"""Collects jumps of the page that nobody caused by a press, and what a screen reader would read out by itself."""

SETTLING = 600  # milliseconds in which nobody presses the next key
STANDING = """() => {
  const active = document.activeElement;
  if (!active || active === document.body) return null;
  const small = active.matches('input[type=radio], input[type=checkbox], input[type=file]');
  const shown = small && active.closest('label') || active, box = shown.getBoundingClientRect();
  const ringed = each => { const style = getComputedStyle(each);
    return style.outlineStyle !== 'none' && parseFloat(style.outlineWidth) >= 2 || style.boxShadow !== 'none'; };
  const across = Math.min(Math.max(box.left + box.width / 2, 0), innerWidth - 1);
  const down = box.top + Math.min(box.height / 2, 20);
  const inside = box.width > 0 && down >= 0 && down < innerHeight;
  const at = inside ? document.elementFromPoint(across, down) : null;
  const words = active.ariaLabel || active.innerText || active.labels?.[0]?.innerText || active.nodeName;
  return {
    words: words.trim().slice(0, 60),
    ringed: active.tabIndex < 0 || ringed(active) || ringed(shown), inside,
    covered: at && !shown.contains(at) && !at.contains(shown) ? at.id || at.className || at.nodeName : '',
  };
}"""
"""Where the keyboard is: null for nowhere."""

BEFORE = (
    "target => !!(target.compareDocumentPosition(document.activeElement) & Node.DOCUMENT_POSITION_FOLLOWING)"
)
"""Whether a control comes before the one that has the keyboard."""


class StuckError(Exception):
    """What somebody looked for is not on the page, or cannot be reached."""


class Watcher(Protocol):
    """Whoever is told that time passes, and of complaints."""

    def tick(self) -> None:
        """A moment has passed."""

    def complain(self, words: str) -> None:
        """Something is not as it should be."""


class Walker:
    """Finds what is visible, waits for it, presses it. The two ways to press are `Mouse` and `Keyboard`."""

    def __init__(self, page: Any, watcher: Watcher) -> None:
        self.page, self.watcher = page, watcher
        self.stillness = 0.0
        """Longest time, in seconds, for which nothing on the page changed in the last wait."""

    def find(self, role: str, words: Words, patience: float = LOOKING) -> Any:
        """The first visible control of this role and name that can be used, as a locator."""
        wanted = self.page.get_by_role(role, name=words, disabled=None if role == "img" else False)
        return self._first(wanted, f"{role} “{words.pattern}”", patience)

    def see(self, words: Words, patience: float = LOOKING) -> Any:
        """The first visible text like this, as a locator."""
        return self._first(self.page.get_by_text(words), f"text “{words.pattern}”", patience)

    def _first(self, wanted: Any, what: str, patience: float) -> Any:
        visible = wanted.filter(visible=True)
        self.wait(lambda: visible.count() > 0, what, patience)
        return visible.first

    def wait(self, until: Callable[[], bool], what: str, patience: float) -> None:
        """Until something is so. StuckError once `patience`, in seconds, is over."""
        started = changed = time.monotonic()
        before, self.stillness = "", 0.0
        while not until():
            self.watcher.tick()
            words = self.page.evaluate("document.body.innerText")
            if words != before:
                before, changed = words, time.monotonic()
            self.stillness = max(self.stillness, time.monotonic() - changed)
            if time.monotonic() - started > patience:
                raise StuckError(
                    f"Not found within {patience:.0f} s: {what}. The page says:\n{before[:3000]}"
                )
            time.sleep(PAUSE)

    def press(self, role: str, words: Words, patience: float = LOOKING) -> None:
        """Find a control and press it."""
        raise NotImplementedError

    def open_files(self, role: str, words: Words) -> Any:
        """Press what opens the browser's dialogue of files. Returns the dialogue, Playwright's FileChooser."""
        with self.page.expect_file_chooser() as chooser:
            self.press(role, words)
        return chooser.value

    def save(self, role: str, words: Words, path: Path) -> None:
        """Press what downloads a file, and keep it at `path`."""
        with self.page.expect_download() as download:
            self.press(role, words)
        download.value.save_as(path)


class Mouse(Walker):
    """Scrolls with the wheel, points and clicks; a finger on a phone does the same."""

    def press(self, role: str, words: Words, patience: float = LOOKING) -> None:
        """Find a control and click it."""
        found = self.find(role, words, patience)
        box, height = found.bounding_box(), self.page.viewport_size["height"]
        if box is not None and not 0 <= box["y"] <= height - min(box["height"], height / 2):
            screens = abs(box["y"] - height / 2) / height
            if screens > 2:
                self.watcher.complain(f"“{words.pattern}” is {screens:.1f} screens away")
            found.scroll_into_view_if_needed()
        found.click()
        self.watcher.tick()


class Keyboard(Walker):
    """Goes from control to control with Tab and Shift+Tab, and presses Enter, the space bar and arrows."""

    def __init__(self, page: Any, watcher: Watcher) -> None:
        super().__init__(page, watcher)
        self.pressed = ""
        self.keys = 0

    def press(self, role: str, words: Words, patience: float = LOOKING) -> None:
        """Find a control, go to it, and press it."""
        found = self.find(role, words, patience)
        if self.pressed and self._standing() is None:
            self.watcher.complain(f"after “{self.pressed}” was pressed the keyboard is nowhere")
        self._go_to(found, words.pattern)
        self.key("Space" if role in ("checkbox", "radio") else "Enter")
        self.pressed = words.pattern

    def key(self, name: str) -> None:
        """Press a key."""
        self.page.keyboard.press(name)
        self.keys += 1
        self.watcher.tick()

    def _go_to(self, found: Any, words: str) -> None:
        here = "target => target === document.activeElement"
        for count in range(MOST_KEYS):
            if found.evaluate(here):
                if count > FAR:
                    self.watcher.complain(f"“{words}” is {count} presses of Tab away")
                return
            self.key("Shift+Tab" if found.evaluate(BEFORE) else "Tab")
            self._look_around()
        raise StuckError(f"Not reached by {MOST_KEYS} presses of Tab: “{words}”.")

    def _standing(self) -> dict[str, Any] | None:
        """Where the keyboard is; None: nowhere. A page that is just changing gets a moment."""
        place = self.page.evaluate(STANDING)
        if place is None or not place["ringed"] or not place["inside"] or place["covered"]:
            self.page.wait_for_timeout(SETTLING)
            place = self.page.evaluate(STANDING)
        return place  # type: ignore[no-any-return]

    def _look_around(self) -> None:
        """Whether one sees where the keyboard is."""
        place = self._standing()
        if place is None:
            return
        for wrong, said in (
            (not place["ringed"], "has no mark of the keyboard's place"),
            (not place["inside"], "has the keyboard, but is outside of the window"),
            (place["covered"], f"has the keyboard, but is covered by {place['covered']}"),
        ):
            if wrong:
                self.watcher.complain(f"“{' '.join(place['words'].split())}” {said}")
