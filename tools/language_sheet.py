"""The same step in every language on a phone, side by side: python -m tools.language_sheet

Starts the wizard on an empty folder and opens it once a language with a browser of that language, as a visitor has it,
who then takes a sample person. Needs what tools/screenshots.py needs, and fonts for Chinese, Japanese and Korean
(Debian: fonts-noto-cjk).
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path

import tyro
from PIL import Image

from magicapture_core.languages import available
from tools.mark import mark
from tools.screenshots import ROOT, Served, blank, wizard

HEIGHT, WIDTH = 1500, 390
GAP = 16


@dataclass
class Options(Served):
    """Take the first step in every language."""

    out: Path = ROOT / "assets" / "screenshots" / "languages.webp"
    """File to write."""
    person: int = 3
    """Which sample person."""


def first_step(options: Options, address: str, code: str) -> Image.Image:
    """The step Photos with the first sample person, in the language that the browser asks for."""
    size = {"width": WIDTH, "height": HEIGHT}
    with blank(options, locale=code, viewport=size, color_scheme="light") as page:
        page.goto(address)
        page.locator("#mc-people [data-act=person]").nth(options.person).click()
        page.wait_for_selector("#mc-photos .mc-photo >> nth=5")
        page.wait_for_selector(".mc-first img")  # the first draft
        page.wait_for_timeout(1000)
        return Image.open(io.BytesIO(page.screenshot())).convert("RGB")


def main() -> None:
    """The command."""
    options = tyro.cli(Options)
    codes = available()
    with wizard(options) as address:
        shown = [first_step(options, address, code) for code in codes]
    sheet = Image.new("RGB", (len(codes) * (WIDTH + GAP) - GAP, HEIGHT), "#888")
    for number, picture in enumerate(shown):
        sheet.paste(picture, (number * (WIDTH + GAP), 0))
    sheet.save(options.out, quality=70, method=6)
    mark(options.out)
    print(options.out)


if __name__ == "__main__":
    main()
