"""Pictures of every step of the wizard: python tools/screenshots.py

Starts the wizard on an empty folder, walks through it in headless Chromium with a sample person and a preset, as a
visitor would, waits for the real training, and takes every step at desktop and phone width, light and dark. Needs
requirements-dev.txt and Chromium (Debian: apt-get install chromium).
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import tyro
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from tools.mark import mark  # noqa: E402

ARGUMENTS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip
SIZES = {"": (1280, 900), "-phone": (390, 844)}
THEMES = {"": False, "-dark": True}
TRAINING = 7_200_000  # milliseconds: the mini model's quick schedule on one slow core, and more
STARTING = 90.0  # seconds


@dataclass
class Served:
    """Where the wizard is, and the browser to look at it with."""

    address: str | None = None
    """Of a wizard that runs already, for example http://127.0.0.1:7860/. None: start one, on an empty folder."""
    model: str | None = None
    """Model of the wizard that is started; None: its own choice."""
    chromium: str = field(default_factory=lambda: shutil.which("chromium") or "chromium")
    """The browser."""


@dataclass
class Options(Served):
    """Take pictures of every step: desktop and phone, light and dark."""

    out: Path = ROOT / "assets" / "screenshots"
    """Folder for step-name[-phone][-dark].webp."""
    person: int = 3
    """Which sample person."""
    preset: str = "corporate"
    """Which style."""
    steps: int | None = None
    """Optimizer steps of each phase, for a rehearsal; None: the model's quick schedule."""
    portraits: int = 8
    """How many to make."""
    longest: int = 1900
    """Pictures are cut at this height, in pixels of the page."""


@contextmanager
def wizard(options: Served) -> Iterator[str]:
    """The address of a running wizard; one that is started here ends with the context, its folder, too."""
    if options.address is not None:
        yield options.address
        return
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with tempfile.TemporaryDirectory() as runs:
        command = [sys.executable, str(ROOT / "app.py"), "--runs", runs, "--port", str(port)]
        server = subprocess.Popen(
            [*command, *(["--model", options.model] if options.model else [])],
            env={**os.environ, "PYTHONWARNINGS": "ignore"},
        )
        try:
            yield _answering(server, f"http://127.0.0.1:{port}/")
        finally:
            server.terminate()
            server.wait()


def _answering(server: subprocess.Popen[bytes], address: str) -> str:
    deadline = time.monotonic() + STARTING
    while True:
        try:
            urllib.request.urlopen(address, timeout=STARTING).close()
            return address
        except OSError:
            if server.poll() is not None or time.monotonic() > deadline:
                raise SystemExit(f"The wizard did not start within {STARTING:.0f} s.") from None
            time.sleep(0.2)


@contextmanager
def blank(options: Served, **context: Any) -> Iterator[Any]:
    """An empty page of a new browser. context: as of Playwright's new_context."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=options.chromium, args=ARGUMENTS)
        page = browser.new_context(**context).new_page()
        page.set_default_timeout(180_000)
        yield page
        browser.close()


@contextmanager
def visitor(options: Served, address: str) -> Iterator[Any]:
    """A page at the wizard's first step."""
    with blank(options, color_scheme="light") as page:
        page.goto(address)
        page.wait_for_selector("#mc-people [data-act=person]")
        yield page


def take(page: Any, options: Options, name: str) -> None:
    """One step in every size and theme."""
    for size, (width, height) in SIZES.items():
        page.set_viewport_size({"width": width, "height": height})
        for theme, dark in THEMES.items():
            page.evaluate("dark => document.body.classList.toggle('dark', dark)", dark)
            _shoot(page, options, options.out / f"{name}{size}{theme}.webp")
    page.evaluate("document.body.classList.remove('dark')")
    page.set_viewport_size({"width": SIZES[""][0], "height": SIZES[""][1]})


def _shoot(page: Any, options: Options, path: Path) -> None:
    """A picture as WebP, once all images are there and the page has been laid out anew."""
    page.evaluate("document.activeElement && document.activeElement.blur()")
    page.mouse.move(0, 0)
    page.wait_for_function("[...document.images].every(image => image.complete)")
    page.evaluate("() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
    shot = path.with_suffix(".png")
    page.screenshot(path=str(shot), full_page=True, animations="disabled")
    with Image.open(shot) as image:
        picture = image.convert("RGB")
    picture.crop((0, 0, picture.width, min(picture.height, options.longest))).save(path, quality=78, method=6)
    mark(path)  # there are portraits in it
    shot.unlink()
    print(path, f"{path.stat().st_size / 1000:.0f} kB", flush=True)


def walk(page: Any, options: Options) -> None:
    """From the first step to the last."""
    page.wait_for_selector("#mc-files")
    take(page, options, "0-begin")
    page.locator("#mc-people [data-act=person]").nth(options.person).click()
    began = time.monotonic()
    page.wait_for_selector("#mc-photos .mc-photo:nth-child(6)")
    page.wait_for_function("!document.querySelector('#mc-photos .mc-level-coming')")
    print(f"verdicts: after {time.monotonic() - began:.1f} s", flush=True)
    page.locator("#mc-next-0").click()
    _time_drafts(page, began)
    page.locator(f"#mc-presets [data-id={options.preset}]").click()
    page.wait_for_selector(f"#mc-presets [data-id={options.preset}][aria-pressed=true]")
    take(page, options, "2-style")
    page.locator("#mc-back-1").click()
    page.wait_for_selector("#mc-photos .mc-photo:visible")
    take(page, options, "1-photos")
    page.locator("#mc-next-0").click()
    page.locator("#mc-next-1").click()
    page.wait_for_selector("#mc-style-masks .mc-mask:nth-child(4)")
    take(page, options, "3-masks")
    page.locator("#mc-subject-masks .mc-mask").first.click()
    page.wait_for_selector(".mc-brush[data-ready]")
    take(page, options, "3-brush")
    page.locator("#mc-brush [data-act=cancel]").click()
    page.locator("#mc-next-2").click()
    train(page, options)
    page.locator("#mc-next-3").click()
    page.locator("#mc-count input[type=number]").fill(str(options.portraits))
    page.locator("#mc-make").click()
    page.wait_for_selector(f"#mc-gallery .mc-portrait:nth-child({options.portraits})", timeout=TRAINING)
    page.wait_for_selector("#mc-archive:visible", timeout=TRAINING)
    page.locator("#mc-gallery .mc-portrait").first.click()
    page.wait_for_selector("#mc-detail img")
    take(page, options, "5-portraits")
    page.locator("#mc-next-4").click()
    page.wait_for_selector("#mc-finish-gallery .mc-portrait")
    page.locator("#mc-finish").click()
    page.wait_for_selector("#mc-finish-report a", timeout=TRAINING)
    page.wait_for_selector("#mc-compare img")
    page.locator("#mc-sheet").click()
    page.wait_for_selector("#mc-sheet-result tbody tr")
    take(page, options, "6-finish")


def _time_drafts(page: Any, began: float) -> None:
    """Wait for a draft in every look; print what a visitor waits for after the last photo, and when all are there."""
    page.wait_for_selector("#mc-presets .mc-draft", timeout=TRAINING)
    print(f"drafts: the first after {time.monotonic() - began:.1f} s", flush=True)
    page.wait_for_selector("#mc-drafts [aria-busy=false]", timeout=TRAINING)
    count = page.locator("#mc-presets .mc-draft").count()
    print(f"drafts: {count} after {time.monotonic() - began:.1f} s", flush=True)


def train(page: Any, options: Options) -> None:
    """Start, take a picture in phase 2, and wait for the end."""
    page.wait_for_selector("#mc-start:visible")
    if options.steps is not None:
        page.get_by_role("button", name="Advanced").click()
        wanted = {
            "Ti steps": options.steps,
            "Lora steps": options.steps,
            "Attention every": 5,
            "Sample every": 5,
        }
        for label, value in wanted.items():
            page.get_by_label(label, exact=True).fill(str(value))
            page.get_by_label(label, exact=True).blur()
        page.get_by_role("button", name="Advanced").click()
    page.locator("#mc-start").click()
    page.wait_for_selector("#mc-losses .mc-chart:nth-child(5)", timeout=TRAINING)
    page.wait_for_selector("#mc-attention img", timeout=TRAINING)
    page.wait_for_selector("#mc-samples .mc-frame:nth-child(2)", timeout=TRAINING)
    take(page, options, "4-train")
    page.get_by_text("Learning finished").wait_for(timeout=TRAINING)


def main() -> None:
    """Take them all."""
    options = tyro.cli(Options)
    options.out.mkdir(parents=True, exist_ok=True)
    with wizard(options) as address, visitor(options, address) as page:
        walk(page, options)


if __name__ == "__main__":
    main()
