"""The wizard: python app.py, then open the address it prints.

Everything else of the page is in magicapture_core/ui; this file reads the options and serves it.
"""

from __future__ import annotations

import os

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
# Else gradio keeps every call, pictures and all, in the visitor's browser, where "delete my data" cannot reach it.
os.environ.setdefault("GRADIO_RUN_HISTORY", "False")

import importlib.util
import logging
import signal
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import tyro

from magicapture_core.problems import Problem
from magicapture_core.ui.limits import Limits

log = logging.getLogger("magicapture")


@dataclass
class Options:
    """Portraits of a person in a style, in the browser."""

    model: str | None = None
    """"mini", a diffusers folder, a .safetensors file or a hub id. Default: mini without a GPU, else SD 1.5."""
    host: str = "0.0.0.0" if "SPACE_ID" in os.environ else "127.0.0.1"
    """Address to listen on; 0.0.0.0 lets other machines in (and is the default in a Hugging Face Space)."""
    port: int = 7860
    """Port; 0 takes a free one."""
    share: bool = False
    """Also make a public link (gradio's tunnel)."""
    runs: Path | None = None
    """Folder for photos, trainings and portraits. Default: ./runs"""
    auth: str | None = None
    """Ask every visitor for user:password."""
    mcp: bool = False
    """Also offer the endpoints as tools to agents (Model Context Protocol); needs the package gradio[mcp]."""
    keep_days: float = 7.0
    """Photos and results that nobody has opened for so long are deleted."""
    limits: Limits = field(default_factory=Limits)
    """What one visitor may take."""

    @property
    def alone(self) -> bool:
        """Whether only people at this machine can reach the page."""
        return (
            self.host in ("127.0.0.1", "localhost", "::1") and not self.share and "SPACE_ID" not in os.environ
        )


def build(studio: Any, *, mcp: bool = False, languages: Sequence[str] | None = None) -> Any:
    """The page, as gradio Blocks that are not launched yet. mcp: with the tools for agents.

    languages: codes of those to build it in beside English; None: every one that there is.
    """
    import gradio as gr

    from magicapture_core.languages import ENGLISH, LANGUAGES, available, speaking
    from magicapture_core.ui import agents, api, events, page

    with gr.Blocks(title="MagiCapture", analytics_enabled=False) as blocks:
        wizard = page.layout(studio)
        if mcp:
            agents.mount(studio)  # agents are told of the tools in this order, and begin with these
        api.mount(studio)  # before the page: a name that is taken gets a number
        events.wire(wizard, blocks)
    for code in available() if languages is None else languages:
        if code != ENGLISH:
            with speaking(code), blocks.route(LANGUAGES[code], f"/{code}", show_in_navbar=False):
                events.wire(page.layout(studio), blocks)
    return blocks


def stand(studio: Any) -> None:
    """Where a Space lends its GPU, put the model onto it. If that fails, each loan loads it, once it can be had."""
    from magicapture_core.ui.lent_gpu import lending

    if lending():
        try:
            studio.models.stand()
        except Problem as problem:
            log.warning("the model does not stand on the lent GPU: %s", problem)


def main(arguments: list[str] | None = None) -> int:
    """Serve until Ctrl-C; running trainings save where they stand. Exit code 1: the options cannot be used."""
    options = tyro.cli(Options, args=arguments, prog="python app.py")
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(name)s: %(message)s")
    if options.mcp and importlib.util.find_spec("mcp") is None:
        print('--mcp needs the package mcp: pip install "gradio[mcp]"', file=sys.stderr)
        return 1
    runs = (options.runs or Path("runs")).expanduser().resolve()
    auth = tuple(options.auth.partition(":")[::2]) if options.auth else None
    if auth is not None and not all(auth):
        print("--auth must be user:password.", file=sys.stderr)
        return 1
    try:
        runs.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=runs):
            pass
    except OSError as error:
        print(f"Cannot write to {runs}: {error.strerror}. Give another folder with --runs.", file=sys.stderr)
        return 1
    # What gradio keeps of uploads lies beside what is shown: one place to serve from, one to clean.
    os.environ["GRADIO_TEMP_DIR"] = str(runs / "shown")

    from magicapture_core.ui import head, look
    from magicapture_core.ui.studio import Studio

    studio = Studio(
        runs, model=options.model, any_model=options.alone, keep_days=options.keep_days, limits=options.limits
    )
    stand(studio)
    # However the server is told to stop, trainings save where they stand.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    studio.sweep_now_and_then()
    blocks = build(studio, mcp=options.mcp)
    blocks.queue(default_concurrency_limit=4, max_size=100)
    try:
        blocks.launch(
            server_name=options.host,
            server_port=options.port or None,
            share=options.share,
            auth=auth,
            theme=look.theme(),
            css=look.CSS,
            head=head.script(),
            blocked_paths=[str(runs / "sessions")],
            max_file_size="100mb",
            show_error=False,
            footer_links=["gradio"],
            ssr_mode=False,
            mcp_server=options.mcp,
            quiet=False,
        )
    except OSError as error:
        print(f"{error} Choose another port with --port.", file=sys.stderr)
        return 1
    finally:
        studio.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
