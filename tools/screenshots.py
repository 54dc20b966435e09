"""Pictures of the wizard's steps for the README: python tools/screenshots.py ADDRESS --out assets/screenshots

Walks through a running wizard with a sample person and a preset, as a visitor would, in headless Chromium (Debian:
apt-get install chromium; pip install playwright), and waits for the real training.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import tyro
from PIL import Image

ARGUMENTS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip
HALF_AN_HOUR = 1_800_000  # a training, in milliseconds


@dataclass
class Options:
    """Take pictures of every step."""

    address: tyro.conf.Positional[str]
    """Of a running wizard, for example http://127.0.0.1:7860/."""
    out: Path
    """Folder for step-N-name.webp."""
    person: int = 0
    """Which sample person."""
    preset: str = "corporate"
    """Which style."""
    phone: bool = False
    """390 pixels wide."""
    dark: bool = False
    """With the dark theme."""
    longest: int = 1700
    """Pictures are cut at this height, in pixels of the page."""
    chromium: str = field(default_factory=lambda: shutil.which("chromium") or "chromium")
    """The browser."""


@contextmanager
def visitor(options: Options) -> Iterator[Any]:
    """A page at the wizard's first step."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=options.chromium, args=ARGUMENTS)
        size = {"width": 390, "height": 844} if options.phone else {"width": 1200, "height": 900}
        context = browser.new_context(viewport=size, color_scheme="dark" if options.dark else "light")
        page = context.new_page()
        page.set_default_timeout(120_000)
        page.goto(options.address + ("?__theme=dark" if options.dark else "?__theme=light"))
        page.wait_for_selector("#mc-people [data-act=person]")
        yield page
        browser.close()


def take(page: Any, options: Options, name: str) -> None:
    """One picture, as WebP, once all images are there and nothing moves any more."""
    page.wait_for_function("[...document.images].every(image => image.complete)")
    tags = ("-phone" if options.phone else "") + ("-dark" if options.dark else "")
    path = options.out / f"{name}{tags}.webp"
    shot = path.with_suffix(".png")
    page.evaluate("document.activeElement && document.activeElement.blur()")
    page.screenshot(path=str(shot), full_page=True, animations="disabled")
    with Image.open(shot) as image:
        picture = image.convert("RGB")
    picture.crop((0, 0, picture.width, min(picture.height, options.longest))).save(path, quality=80, method=6)
    shot.unlink()
    print(path, f"{path.stat().st_size / 1000:.0f} kB")


def walk(page: Any, options: Options) -> None:
    """From the first step to the last."""
    page.locator("#mc-people [data-act=person]").nth(options.person).click()
    page.wait_for_selector("#mc-photos .mc-photo:nth-child(6)")
    take(page, options, "1-photos")
    page.locator("#mc-next-0").click()
    page.locator(f"#mc-presets [data-id={options.preset}]").click()
    page.wait_for_selector("#mc-style-photos .mc-photo:nth-child(4)")
    take(page, options, "2-style")
    page.locator("#mc-next-1").click()
    page.wait_for_selector("#mc-style-masks .mc-mask:nth-child(4)")
    take(page, options, "3-masks")
    page.locator("#mc-next-2").click()
    page.locator("#mc-start").click()
    page.wait_for_selector("#mc-losses .mc-chart:nth-child(5)", timeout=HALF_AN_HOUR)
    page.wait_for_selector("#mc-samples figure:nth-child(2)", timeout=HALF_AN_HOUR)
    take(page, options, "4-train")
    page.get_by_text("Training finished").wait_for(timeout=HALF_AN_HOUR)
    take(page, options, "4-trained")
    page.locator("#mc-next-3").click()
    page.locator("#mc-count input[type=number]").fill("8")
    page.locator("#mc-make").click()
    page.wait_for_selector("#mc-gallery .mc-portrait:nth-child(8)", timeout=HALF_AN_HOUR)
    page.locator("#mc-gallery .mc-portrait").first.click()
    page.wait_for_selector("#mc-detail img")
    take(page, options, "5-portraits")


def main() -> None:
    """Take them all."""
    options = tyro.cli(Options)
    options.out.mkdir(parents=True, exist_ok=True)
    with visitor(options) as page:
        walk(page, options)


if __name__ == "__main__":
    main()
