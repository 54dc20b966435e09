"""The page in other languages: which one a visitor gets, that it stays, and that no sentence was forgotten.

The catalogues here are made of the source: every sentence is its own translation, in brackets ⟦ ⟧.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from html.parser import HTMLParser
from typing import Any

import pytest
from babel.messages.catalog import Catalog
from conftest import PATIENCE, _free_port
from test_wizard_page import expect
from toy_catalogues import spoken_instead

from magicapture_core import languages
from magicapture_core.languages import LANGUAGES, _, speaking
from magicapture_core.problems import Problem
from magicapture_core.ui import head, look
from magicapture_core.ui.step import told, told_as_it_goes
from tools.catalogue import sentences

SAYING = ("label", "value", "placeholder", "info", "choices")
"""Properties of gradio's components that a visitor reads."""
SPOKEN = {"alt", "title", "aria-label", "placeholder", "data-say", "data-about"}
"""Attributes of HTML that a visitor reads or hears."""
AS_THEY_ARE = {
    *LANGUAGES.values(), "MagiCapture", "GFPGAN", "CodeFormer", "A4", "mini", "toy", "https", "Python", "AUTOMATIC1111",
    "ComfyUI", "Forge", "feed_forward", "text_encoder",
}  # fmt: skip
"""Names and codes, the same in every language."""
TYPED = {"textbox", "colorpicker"}
"""Components that hold what a visitor enters."""


class Words(HTMLParser):
    """What is read of a piece of HTML."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.found: list[str] = []
        self.feed(html)

    def handle_data(self, data: str) -> None:
        self.found.append(data)

    def handle_starttag(self, _tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found += [value for name, value in attrs if name in SPOKEN and value]


def bracketed(code: str) -> Catalog:
    """The catalogue of a language in which every sentence is its own translation, in brackets."""
    catalogue = sentences()
    catalogue.locale = code  # type: ignore[assignment]
    for message in catalogue:
        if isinstance(message.id, tuple):
            one, many = message.id
            forms = [one, *[many] * (catalogue.num_plurals - 1)] if catalogue.num_plurals > 1 else [many]
            message.string = tuple(f"⟦{form}⟧" for form in forms)
        elif message.id:
            message.string = f"⟦{message.id}⟧"
    return catalogue


@pytest.fixture(scope="module")
def spoken(server: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Any, str]]:
    """The wizard in six languages, five of them in brackets: its Blocks and its address."""
    import app

    made = {code: bracketed(code) for code in LANGUAGES if code != languages.ENGLISH}
    with spoken_instead(tmp_path_factory.mktemp("catalogues"), made):
        blocks = app.build(server.studio)
        blocks.queue(default_concurrency_limit=4)
        _, url, _ = blocks.launch(
            server_port=_free_port(), prevent_thread_lock=True, quiet=True, theme=look.theme(), css=look.CSS,
            head=head.script(), footer_links=["gradio"], ssr_mode=False,
        )  # fmt: skip
        yield blocks, url
        blocks.close()


def unmarked(text: str) -> set[str]:
    """Words of a text, or of the HTML in it, that stand outside of all brackets."""
    outside = " ".join(Words(text).found)
    while "⟦" in outside:
        without = re.sub(r"⟦[^⟦⟧]*⟧", " ", outside)
        if without == outside:
            break
        outside = without
    for name in sorted(AS_THEY_ARE, key=len, reverse=True):
        outside = outside.replace(name, " ")
    return set(re.findall(r"[^\W\d_]{2,}", outside))


def texts(value: Any, name: str) -> Iterator[str]:
    """Every text in a property: itself, or the shown one of each choice."""
    if isinstance(value, str):
        yield value
    elif name == "choices" and isinstance(value, list | tuple):
        for choice in value:
            yield str(choice[0] if isinstance(choice, list | tuple) else choice)


def test_no_sentence_was_forgotten(spoken: tuple[Any, str]) -> None:
    config = spoken[0].config
    here = set(config["page"]["de"]["components"])
    forgotten = []
    for component in config["components"]:
        if component["id"] not in here:
            continue
        props = component["props"]
        values = {option for choice in props.get("choices") or () for option in choice[1:]}
        for name in SAYING:
            if name == "value" and (props.get("choices") or component["type"] in TYPED):
                continue  # a code, or words for the model, which reads English
            for text in texts(props.get(name), name):
                words = unmarked(text) - {str(value) for value in values}
                if words:
                    where = props.get("elem_id") or component["type"]
                    forgotten.append(f"{where} {name}: {' '.join(sorted(words))[:150]}")
    assert not forgotten, "\n".join(forgotten)


def test_english_needs_no_catalogue(spoken: tuple[Any, str]) -> None:
    config = spoken[0].config
    here = set(config["page"][""]["components"])
    shown = [component["props"] for component in config["components"] if component["id"] in here]
    assert not [props for props in shown if any("⟦" in str(props.get(name)) for name in SAYING)]


def test_endpoints_are_there_once(spoken: tuple[Any, str]) -> None:
    names = list(spoken[0].get_api_info()["named_endpoints"])
    assert "/check_photos" in names
    assert not [name for name in names if name.endswith("_1")]


class Speaker:
    """As a step: made while a language is spoken."""

    def __init__(self) -> None:
        self.language = languages.language()

    @told("Photos")
    def say(self) -> dict[str, str]:
        """One sentence."""
        return {"said": _("Back")}

    @told_as_it_goes("Photos")
    def count(self) -> Iterator[dict[str, str]]:
        """Twice, from wherever it is asked."""
        yield {"said": _("Back")}
        yield {"said": _("Back")}

    @told_as_it_goes("Photos")
    def fail(self) -> Iterator[dict[str, str]]:
        """Goes wrong after the first."""
        yield {"said": _("Back")}
        raise Problem(_("Back"))


def test_handlers_speak_the_language_of_their_page(spoken: tuple[Any, str]) -> None:  # noqa: ARG001 - brackets
    with speaking("de"):
        german, closed = Speaker(), told("Photos")(lambda: {"said": _("Back")})
    english = Speaker()
    with speaking("ja"):  # whatever is spoken around
        assert (german.say(), english.say(), closed()) == (
            {"said": "⟦Back⟧"}, {"said": "Back"}, {"said": "⟦Back⟧"},
        )  # fmt: skip
    stream = german.count()
    assert next(stream) == {"said": "⟦Back⟧"}
    with speaking("en"):  # the next part is asked for in another context
        assert list(stream) == [{"said": "⟦Back⟧"}]
    assert languages.language() == "en"


def test_a_job_speaks_the_language_of_whoever_started_it(spoken: tuple[Any, str], server: Any) -> None:  # noqa: ARG001
    said = []

    def stream(_job: Any) -> Iterator[None]:
        said.append(_("Back"))
        yield None

    for code, words in (("de", "⟦Back⟧"), ("en", "Back")):
        with speaking(code):
            job = server.studio.jobs.start(f"owner-{code}", "training", stream)
        assert job.wait(60)
        assert said.pop() == words


class visitor:
    """A visitor whose browser prefers a language: `with visitor(browser, url, "de-DE") as page`."""

    def __init__(self, browser: Any, url: str, locale: str) -> None:
        self.browser, self.url, self.locale = browser, url, locale

    def __enter__(self) -> Any:
        self.context = self.browser.new_context(viewport={"width": 1280, "height": 900}, locale=self.locale)
        self.context.set_default_timeout(PATIENCE)
        page = self.context.new_page()
        page.goto(self.url)
        arrived(page)
        return page

    def __exit__(self, *_: object) -> None:
        self.context.close()


def arrived(page: Any) -> None:
    """The page is there, its session opened."""
    page.wait_for_selector("#mc-people [data-act=person]", state="attached")


def choose(page: Any, code: str) -> None:
    """Press a language in the page's head."""
    page.locator(f".mc-languages a[data-language={code}]").click()
    expect(page.locator(f".mc-languages a[data-language={code}]")).to_have_attribute("aria-current", "page")
    arrived(page)


@pytest.mark.browser
@pytest.mark.parametrize(
    ("locale", "path", "tag"),
    [("de-DE", "/de", "de"), ("zh-CN", "/zh", "zh-Hans"), ("en-US", "/", "en"), ("fr-FR", "/", "en")],
)
def test_the_browser_chooses(browser: Any, spoken: tuple[Any, str], locale: str, path: str, tag: str) -> None:
    with visitor(browser, f"{spoken[1]}?__theme=light", locale) as page:
        assert page.evaluate("[location.pathname, location.search]") == [path, "?__theme=light"]
        expect(page.locator("html")).to_have_attribute("lang", tag)
        assert page.locator(".nav-holder").is_hidden()


@pytest.mark.browser
def test_a_choice_stays_and_loses_nothing(browser: Any, spoken: tuple[Any, str]) -> None:
    with visitor(browser, spoken[1], "de-DE") as page:
        page.locator("#mc-people [data-act=person]").first.click()
        expect(page.locator("#mc-photos .mc-photo")).not_to_have_count(0)
        photos = page.locator("#mc-photos .mc-photo").count()
        choose(page, "en")
        expect(page.locator("#mc-photos .mc-photo")).to_have_count(photos)
        page.goto(spoken[1])  # later, by the plain address
        arrived(page)
        assert page.evaluate("location.pathname") == "/"
        page.locator(".mc-languages a[data-language=es]").focus()  # with the keyboard
        page.keyboard.press("Enter")
        page.wait_for_url("**/es")
        expect(page.locator("#mc-photos .mc-photo")).to_have_count(photos)
        page.goto(spoken[1])
        page.wait_for_url("**/es")


@pytest.mark.browser
def test_it_works_in_a_frame(browser: Any, spoken: tuple[Any, str]) -> None:
    """As on Hugging Face, where the browser may forbid storage to the frame."""
    context = browser.new_context(locale="de-DE")
    context.set_default_timeout(PATIENCE)
    page = context.new_page()
    around = spoken[1] + "around"  # another site's frame may not show what is on this machine
    page.route(around, lambda route: route.fulfill(
        content_type="text/html", body=f'<iframe src="{spoken[1]}" width="1200" height="800"></iframe>',
    ))  # fmt: skip
    page.goto(around)
    frame = page.frame_locator("iframe")
    expect(frame.locator("html")).to_have_attribute("lang", "de")
    frame.locator(".mc-languages a[data-language=en]").click()
    expect(frame.locator("html")).to_have_attribute("lang", "en")
    expect(frame.locator("#mc-people [data-act=person]").first).to_be_visible()
    context.close()
