"""A server with the wizard on the toy model, and a browser to look at it."""

from __future__ import annotations

import os
import shutil
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from toy import save_toy

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
ARGUMENTS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip
PATIENCE = 180_000
"""Milliseconds that anything may take, on two cores that others use, too."""
QUICK = {
    "ti_steps": 6, "lora_steps": 10, "attention_resolution": 8, "gradient_accumulation": 1, "attention_every": 4,
    "sample_every": 8, "sample_steps": 3, "checkpoint_every": 5,
}  # fmt: skip


@dataclass
class Server:
    """A running wizard."""

    url: str
    studio: Any
    runs: Path


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The wizard, served on a free port until the tests end."""
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    folder = tmp_path_factory.mktemp("wizard")
    runs = folder / "runs"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADIO_TEMP_DIR", str(runs / "shown"))
        import app
        from magicapture_core.ui import head, look
        from magicapture_core.ui.studio import Studio

        settings = {"schedules": {"quick": QUICK}, "generate": {"steps": 3}}
        model = save_toy(folder / "toy", magicapture=settings, words=("SFace", 128))
        studio = Studio(runs, model=str(model))
        blocks = app.build(studio, languages=())  # English alone: the others take seconds
        blocks.queue(default_concurrency_limit=4)
        _, url, _ = blocks.launch(
            server_port=_free_port(), prevent_thread_lock=True, quiet=True, theme=look.theme(), css=look.CSS,
            head=head.script(), blocked_paths=[str(runs / "sessions")], footer_links=["gradio"], ssr_mode=False,
        )  # fmt: skip
        yield Server(url, studio, runs)
        studio.close()
        blocks.close()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """Headless Chromium."""
    if CHROMIUM is None:
        pytest.skip("Chromium is not installed (Debian: apt-get install chromium)")
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    playwright.expect.set_options(timeout=PATIENCE)
    with playwright.sync_playwright() as running:
        found = running.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield found
        found.close()


@pytest.fixture(autouse=True)
def idle(server: Server) -> Iterator[None]:
    """No test leaves a job behind for the next."""
    yield
    jobs = server.studio.jobs
    for queue in list(jobs._queues.values()):
        for job in reversed(list(queue)):
            job.stop()
            assert job.wait(PATIENCE / 1000)


@pytest.fixture
def page(browser: Any, server: Server) -> Iterator[Any]:
    """A fresh visitor at the wizard's first step; fails on requests to anywhere else and on page errors."""
    with visitor(browser, server) as (page, faults):
        yield page
        assert faults == []


class visitor:
    """A browser of its own: `with visitor(browser, server) as (page, faults)`."""

    def __init__(self, browser: Any, server: Server, width: int = 1280, script: str = "") -> None:
        """script: run in the page before everything else."""
        self.browser, self.server, self.width, self.script = browser, server, width, script

    def __enter__(self) -> tuple[Any, list[str]]:
        self.context = self.browser.new_context(viewport={"width": self.width, "height": 900})
        self.context.set_default_timeout(PATIENCE)
        page, faults = self.context.new_page(), []
        page.add_init_script(self.script)
        home = self.server.url
        page.on(
            "request", lambda r: None if r.url.startswith((home, "data:", "blob:")) else faults.append(r.url)
        )
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.goto(home)
        page.wait_for_selector("#mc-people [data-act=person]")
        return page, faults

    def __exit__(self, *_: object) -> None:
        self.context.close()


@pytest.fixture(scope="session")
def people() -> list[list[Path]]:
    """Photos of the sample people."""
    from magicapture_core.ui.sample_people import sample_people

    found = [list(person.photos) for person in sample_people()]
    if len(found) < 2:
        pytest.skip("the sample people are not here (assets/people)")
    return found
