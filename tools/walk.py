"""A filmed walk through the wizard, as somebody who was told nothing: python -m tools.walk FOLDER

Starts the wizard on an empty folder, uploads a sample person's photos, ticks a look that has a draft, learns it, makes
portraits, finishes one and downloads it: with a mouse, or with the keyboard alone. Every control is found by what
stands on it. Takes a picture of the window every ten seconds, prints a table of times and what a demanding visitor
would complain of, and writes into the folder: the pictures, a contact sheet of them, the table, what a screen reader
would read out by itself (heard.txt), and the finished portrait. Needs requirements-dev.txt and Chromium.
"""

from __future__ import annotations

import os
import re
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import tyro
from PIL import Image, ImageDraw, ImageFont

from magicapture_core.languages import ENGLISH, _, n_, speaking
from tools.mark import mark
from tools.screenshots import ROOT, SIZES, Served, blank, wizard
from tools.walker import LEAST_JUMP, LISTENING, LOOKING, Keyboard, Mouse, StuckError, Walker, Words

LONG = 3600.0
"""Seconds that a training may take on a busy machine, and more."""
COLUMNS, GAP, CAPTION = 6, 8, 20
"""Of the contact sheet: pictures beside each other, pixels between them, pixels of a line of words."""
TITLES = ("", "after s", "since s", "longest still s", "page px", "load")


@dataclass
class Options(Served):
    """Walk from the upload to the finished portrait, and film it."""

    out: tyro.conf.Positional[Path] = field(default_factory=lambda: Path("walk"))
    """Folder for what is written; a new one."""
    keyboard: bool = False
    """With Tab, Enter, the space bar and arrows alone."""
    screen: Literal["desktop", "phone"] = "desktop"
    """1280×900 pixels, or 390×844 with touch."""
    theme: Literal["light", "dark"] = "light"
    """What the visitor's browser asks for."""
    language: str = ENGLISH
    """Of the page, as in magicapture_core/languages."""
    path: str | None = None
    """Of the page on its server, for example /de. None: that of the language."""
    person: str = "bruno"
    """Whose photos are uploaded, of assets/people."""
    hurry: bool = False
    """Press “Stop and keep” at the first sample, for a rehearsal; portraits are then of a face half learned."""
    every: float = 10.0
    """Seconds between two pictures."""


@dataclass
class Row:
    """A line of the table."""

    title: str
    seconds: float
    still: float
    height: int

    load: float = field(default_factory=lambda: os.getloadavg()[0])


class Film:
    """Pictures of the window, and what is noted on the way. Seconds are counted from `begin`."""

    def __init__(self, page: Any, folder: Path, every: float) -> None:
        self.page, self.folder, self.every = page, folder, every
        self.frames: list[tuple[float, str, Path]] = []
        self.rows: list[Row] = []
        self.complaints: dict[str, float] = {}
        self.began: float | None = None
        self.due = 0.0

    @property
    def now(self) -> float:
        """Seconds since the beginning."""
        return time.time() - self.began if self.began else 0.0

    def begin(self) -> None:
        """The clock starts."""
        self.began = time.time()

    def tick(self) -> None:
        """A picture, if it is time for one."""
        if self.began is not None and self.now >= self.due:
            self.due += self.every
            self.take()

    def take(self, title: str = "") -> None:
        """A picture, now."""
        at = self.now
        name = re.sub(r"[^a-z0-9]+", "-", f"{at:05.0f} {title}".lower().strip())
        path = self.folder / f"{name}.jpg"
        self.page.screenshot(path=str(path), type="jpeg", quality=80)
        self.frames.append((at, title, path))

    def reach(self, title: str, still: float = 0.0) -> None:
        """Something that people wait for is there: a line of the table, and a picture."""
        row = Row(title, self.now, still, self.page.evaluate("document.documentElement.scrollHeight"))
        self.rows.append(row)
        print(f"{row.seconds:7.1f} s  {title}  (load {row.load:.1f})", flush=True)
        self.take(title)

    def complain(self, words: str) -> None:
        """Noted once, with its second."""
        if words not in self.complaints:
            self.complaints[words] = self.now
            print(f"{self.now:7.1f} s  ! {words}", flush=True)


def sentence(english: str) -> Words:
    """What begins like this sentence in the page's language; {anything} stands for any words."""
    return re.compile("^" + _any_words(english))


def holding(english: str) -> Words:
    """What has these words in it."""
    return re.compile(_any_words(english))


def _any_words(english: str) -> str:
    return ".+".join(re.escape(part) for part in re.split(r"\{\w+\}", _(english)))


def to_first_draft(walker: Walker, film: Film, photos: list[Path]) -> None:
    """Step 1: the photos, the box that asks for consent, and what comes of them."""
    dialogue = walker.open_files("button", sentence("Choose photos"))
    film.begin()
    dialogue.set_files([str(path) for path in photos])
    walker.press(
        "checkbox", sentence("These are photos of me, or I have this person's permission to use them.")
    )
    film.tick()
    found = n_("{n} usable photo of the person.", "{n} usable photos of the person.", len(photos))
    walker.see(re.compile("^" + re.escape(found)), LONG)
    film.reach("photos looked at", walker.stillness)
    walker.see(holding("Draft: the look, not yet your face. Press “Next” for all looks."), LONG)
    film.reach("first draft", walker.stillness)


def to_first_sample(walker: Walker, film: Film) -> None:
    """Steps 2 to 4: a look that has a draft, the faces, and the training."""
    onward(walker, "Which looks?")
    walker.press("button", holding("Draft: the look, not yet your face"))
    walker.wait(
        lambda: walker.page.get_by_role("button", pressed=True).filter(visible=True).count() > 0,
        "a look that is ticked", LOOKING,
    )  # fmt: skip
    film.reach("look ticked", walker.stillness)
    onward(walker, "Is the right area highlighted?")
    walker.see(holding("Nothing looks wrong: you can go on."), LONG)
    film.reach("faces checked", walker.stillness)
    onward(walker, "Make it look like you")
    walker.press("button", sentence("Make it look like me"))
    film.reach("learning begun")
    walker.find("img", sentence("Sample at step {step}"), LONG)
    film.reach("first sample", walker.stillness)


def to_portraits(walker: Walker, film: Film, hurry: bool) -> None:
    """To the end of the training, and what it can do."""
    if hurry:
        walker.press("button", sentence("Stop and keep"))
        walker.find("heading", sentence("Make portraits"), LONG)
        film.reach("learning stopped", walker.stillness)
    else:
        walker.see(sentence("Learning finished"), LONG)
        film.reach("learning finished", walker.stillness)
        onward(walker, "Make portraits")
    walker.press("button", sentence("Make portraits"))
    film.reach("portraits asked for")
    walker.find("button", sentence("Portrait {number}: {description}"), LONG)
    film.reach("first portrait", walker.stillness)
    walker.find("button", sentence("Make more portraits"), LONG)
    film.reach("all portraits", walker.stillness)
    walker.press("button", sentence("Portrait {number}: {description}"))
    walker.see(sentence("More like this"))
    film.reach("a portrait large", walker.stillness)


def to_file(walker: Walker, film: Film, out: Path) -> None:
    """The last step: the portrait finished, and its file."""
    onward(walker, "Finish and print")
    walker.press("button", sentence("Finish this portrait"))
    walker.find("link", sentence("Download the finished portrait"), LONG)
    film.reach("portrait finished", walker.stillness)
    walker.save("link", sentence("Download the finished portrait"), out / "portrait.png")
    with Image.open(out / "portrait.png") as picture:
        picture.load()
        print(f"portrait.png: {picture.width}×{picture.height} pixels", flush=True)
    film.reach("file saved")


def onward(walker: Walker, heading: str) -> None:
    """To the next step, which has this heading."""
    walker.press("button", sentence("Next: {step}"))
    walker.find("heading", sentence(heading))
    walker.watcher.tick()


def contact_sheet(film: Film, width: int) -> Image.Image:
    """All pictures in their order, the second under each. width: of one of them, in pixels."""
    small = []
    for at, title, path in film.frames:
        with Image.open(path) as picture:
            high = round(picture.height * width / picture.width)
            small.append((f"{at:.0f} s", title, picture.convert("RGB").resize((width, high))))
    high = max(picture.height for *_words, picture in small) + 2 * CAPTION + GAP
    lines = -(-len(small) // COLUMNS)
    sheet = Image.new("RGB", (COLUMNS * (width + GAP) + GAP, lines * high + GAP), "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(CAPTION - 6)
    for number, (second, title, picture) in enumerate(small):
        x, y = GAP + number % COLUMNS * (width + GAP), GAP + number // COLUMNS * high
        sheet.paste(picture, (x, y))
        pen.text((x, y + picture.height + 2), second, "black", font)
        pen.text((x, y + picture.height + CAPTION), title, "black", font)
    return sheet


def table(film: Film) -> str:
    """Times as Markdown, then the complaints."""
    lines = ["| " + " | ".join(TITLES) + " |", "|---" * len(TITLES) + "|"]
    before = 0.0
    for row in film.rows:
        numbers = (row.seconds, row.seconds - before, row.still)
        lines.append(
            f"| {row.title} | {' | '.join(f'{each:.1f}' for each in numbers)} | {row.height} | {row.load:.1f} |"
        )
        before = row.seconds
    said = [f"- {second:.0f} s: {words}" for words, second in film.complaints.items()]
    return "\n".join([*lines, "", "Complaints:" if said else "No complaints.", *said])


def collect(film: Film) -> None:
    """What the page itself noted: its jumps, as complaints; what a screen reader would say, into heard.txt."""
    found, began = film.page.evaluate("window.walked"), film.began or 0.0
    for at, size, what in found["jumps"]:
        film.complain(f"the page jumped by {size:.2f} at {at / 1000 - began:.0f} s: {what}")
    heard = [
        f"{at / 1000 - began:7.1f} s  {' / '.join(words.split(chr(10)))}" for at, words in found["heard"]
    ]
    (film.folder / "heard.txt").write_text("\n".join(heard) + "\n", encoding="utf-8")


def write(film: Film, options: Options) -> None:
    """Contact sheet and table; every picture is marked as holding generated ones."""
    if film.frames:
        path = options.out / "sheet.jpg"
        contact_sheet(film, 280 if options.screen == "desktop" else 160).save(path, quality=70)
        for each in (path, *(path for *_words, path in film.frames)):
            mark(each)
    (options.out / "times.md").write_text(table(film) + "\n", encoding="utf-8")
    print(table(film), flush=True)


def walk(options: Options, address: str) -> None:
    """From the first page to the file. StuckError where something cannot be found."""
    photos = sorted((ROOT / "assets" / "people" / options.person).glob("*.jpg"))
    width, height = SIZES["" if options.screen == "desktop" else "-phone"]
    phone = options.screen == "phone"
    path = options.path or ("/" if options.language == ENGLISH else f"/{options.language}")
    screen = {"viewport": {"width": width, "height": height}, "is_mobile": phone, "has_touch": phone}
    with blank(options, color_scheme=options.theme, locale=options.language, **screen) as page:
        page.add_init_script(f"({LISTENING.replace('LEAST', str(LEAST_JUMP))})()")
        page.goto(address.rstrip("/") + path)
        film = Film(page, options.out, options.every)
        walker = (Keyboard if options.keyboard else Mouse)(page, film)
        try:
            to_first_draft(walker, film, photos)
            to_first_sample(walker, film)
            to_portraits(walker, film, options.hurry)
            to_file(walker, film, options.out)
        finally:
            collect(film)
            write(film, options)
            if isinstance(walker, Keyboard):
                print(f"{walker.keys} presses of keys", flush=True)


def main() -> None:
    """The command. Exit code 1: the walk came to no end."""
    options = tyro.cli(Options, description=__doc__)
    options.out.mkdir(parents=True, exist_ok=True)
    if any(options.out.iterdir()):
        raise SystemExit(f"{options.out} is not empty. Give a new folder.")
    with wizard(options) as address, speaking(options.language):
        try:
            walk(options, address)
        except StuckError as error:
            raise SystemExit(str(error)) from None


if __name__ == "__main__":
    main()
