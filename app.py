"""The wizard: python app.py, then open the address it prints.

Handlers live with the layout of their step (magicapture_core/ui/step_*.py); this file puts the page together and
holds every event.
"""

from __future__ import annotations

import os

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
# Else gradio keeps every call, pictures and all, in the visitor's browser, where "delete my data" cannot reach it.
os.environ.setdefault("GRADIO_RUN_HISTORY", "False")

import logging
import signal
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import tyro

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


def build(studio: Any) -> Any:
    """The page: gradio Blocks, not launched yet."""
    import gradio as gr

    from magicapture_core.ui import api, page

    with gr.Blocks(title="MagiCapture", analytics_enabled=False) as blocks:
        wizard = page.layout(studio)
        api.mount(studio)  # first: a name that is taken gets a number
        _wire(wizard, blocks)
    return blocks


QUIET: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}


def _busy(*components: Any) -> dict[str, Any]:
    """Options of an event that shows over these components that it is at work."""
    return {"api_visibility": "private", "show_progress": "minimal", "show_progress_on": list(components)}


def _wire(wizard: Any, blocks: Any) -> None:
    """Every event of the page."""
    _wire_session(wizard, blocks)
    _wire_ways(wizard)
    _wire_photos(wizard)
    _wire_training(wizard)
    _wire_portraits(wizard)
    _wire_finishing(wizard)


def _wire_session(wizard: Any, blocks: Any) -> None:
    """The session: found again, followed, deleted."""
    key, portraits = wizard.key, wizard.steps[4]
    blocks.load(wizard.open, [key], [key, *wizard.outputs], **QUIET).then(
        wizard.fill, [key], wizard.outputs, **QUIET
    ).then(wizard.fill_masks, [key], wizard.steps[2].outputs, **QUIET)
    wizard.timer.tick(
        wizard.follow, [key, wizard.seen, portraits.chosen], wizard.live, concurrency_limit=20, **QUIET
    )
    wizard.ask_delete.click(wizard.confirm_delete, None, wizard.confirmation, **QUIET)
    wizard.keep_data.click(wizard.cancel_delete, None, wizard.confirmation, **QUIET)
    wizard.delete.click(wizard.delete_data, [key], [key, *wizard.outputs], **QUIET)


def _wire_ways(wizard: Any) -> None:
    """From step to step."""
    from magicapture_core.ui import look

    for number, (back, onward, said) in enumerate(wizard.feet):
        if back is not None:
            back.click(wizard.go_back(number), wizard.asked, wizard.outputs, **_busy(said))
        if onward is not None:
            onward.click(wizard.go_on(number), wizard.asked, wizard.outputs, **_busy(said))

    wizard.walkthrough.change(None, js=look.TO_TOP, api_visibility="private")


def _wire_photos(wizard: Any) -> None:
    """Steps 1 to 3: photos, style, masks."""
    photos, style, masks = wizard.steps[:3]
    key = wizard.key
    photos.consent.input(photos.agree, [key, photos.consent], photos.outputs, **QUIET)
    photos.files.upload(photos.upload, [key, photos.files], photos.outputs, **_busy(photos.files))
    photos.camera_add.click(photos.upload, [key, photos.camera], photos.outputs, **_busy(photos.camera))
    photos.photos.click(photos.press, [key], photos.outputs, **_busy(photos.summary))
    photos.people.click(photos.press, [key], photos.outputs, **_busy(photos.people))
    photos.kind.input(photos.choose_kind, [key, photos.kind], photos.outputs, **_busy(photos.summary))
    for called in (photos.noun, photos.age):
        called.input(photos.call, [key, photos.noun, photos.age], photos.outputs, **QUIET)

    for event in (
        style.presets.click(style.press, [key], style.outputs, **_busy(style.presets)),
        style.photos.click(style.press, [key], style.outputs, **_busy(style.summary)),
        style.files.upload(style.upload, [key, style.files], style.outputs, **_busy(style.files)),
    ):
        event.then(wizard.awake, None, wizard.pulse, **QUIET)  # drafts come by themselves

    masks.view.input(masks.switch, [key, masks.view], masks.outputs, **QUIET)
    for pictures in (masks.subject, masks.style):
        pictures.click(masks.press, [key], masks.outputs, **_busy(masks.how))
    masks.brush.submit(masks.finish, [key, masks.view, masks.editing], masks.outputs, **_busy(masks.how))


def _wire_training(wizard: Any) -> None:
    """Step 4."""
    key, train = wizard.key, wizard.steps[3]
    fields = list(train.fields.values())
    train.model.input(train.choose_model, [key, train.model], train.outputs, **QUIET)
    train.schedule.input(train.choose_schedule, [key, train.schedule], train.outputs, **QUIET)
    for each in fields:
        each.input(train.edit, [key, train.model, *fields], [train.schedule, train.needs], **QUIET)
    begun = [
        train.start.click(
            train.begin, [key, train.model, train.schedule, *fields], train.live, **_busy(train.progress)
        ),
        train.resume.click(train.go_on, [key], train.live, **_busy(train.progress)),
    ]
    halted = [button.click(train.halt, [key], train.live, **QUIET) for button in (train.pause, train.leave)]
    for event in (*begun, *halted):
        event.then(wizard.awake, None, wizard.pulse, **QUIET)
    train.stop.click(train.halt, [key], train.live, **QUIET).then(
        wizard.wait_and_go_to_portraits, [key], wizard.outputs, **_busy(train.progress)
    ).then(wizard.awake, None, wizard.pulse, **QUIET)


def _wire_portraits(wizard: Any) -> None:
    """Step 5."""
    key, portraits = wizard.key, wizard.steps[4]
    asked = [
        key, portraits.chosen, portraits.prompt, portraits.negative, portraits.count, portraits.seed, portraits.steps,
        portraits.adapter, portraits.guidance,
    ]  # fmt: skip
    begun = [
        portraits.make.click(portraits.generate, asked, portraits.live, **_busy(portraits.progress)),
        portraits.compare.click(
            portraits.begin_comparison, [key, portraits.chosen], portraits.live, **_busy(portraits.compared)
        ),
    ]
    halted = [
        button.click(portraits.halt, [key, portraits.chosen], portraits.live, **QUIET)
        for button in (portraits.stop, portraits.compare_stop)
    ]
    for event in (*begun, *halted):
        event.then(wizard.awake, None, wizard.pulse, **QUIET)
    portraits.chips.click(portraits.press_chip, [portraits.prompt], [portraits.prompt], **QUIET)
    for pictures in (portraits.gallery, portraits.detail):
        pictures.click(portraits.press, [key, portraits.chosen], portraits.live, **QUIET)
    portraits.run.input(portraits.choose_run, [key, portraits.run], portraits.outputs, **QUIET)
    portraits.discard.click(portraits.discard_run, [key, portraits.run], portraits.outputs, **QUIET)
    portraits.adopt.click(portraits.adopt_choice, [key], [portraits.adapter], **QUIET)
    portraits.export.click(
        portraits.export_files, [key, portraits.format], [portraits.exported], **_busy(portraits.format)
    )


def _wire_finishing(wizard: Any) -> None:
    """Step 6."""
    key, finishing = wizard.key, wizard.steps[5]
    finishing.gallery.click(finishing.press, [key], finishing.outputs, **QUIET)
    finishing.restore.input(finishing.choose_restorer, [finishing.restore], [finishing.fidelity], **QUIET)
    wanted = [finishing.chosen, finishing.upscale, finishing.restore, finishing.strength, finishing.fidelity]
    finishing.start.click(finishing.finish, [key, *wanted], finishing.live, **_busy(finishing.progress))
    finishing.timer.tick(
        finishing.follow, [key, finishing.chosen], finishing.live, concurrency_limit=20, **QUIET
    )
    finishing.stop.click(finishing.halt, [key, finishing.chosen], finishing.live, **QUIET)
    asked = [finishing.chosen, finishing.spec, finishing.paper, finishing.replace, finishing.force]
    finishing.make.click(finishing.make_sheet, [key, *asked], [finishing.sheet], **_busy(finishing.sheet))


def main(arguments: list[str] | None = None) -> int:
    """Serve until Ctrl-C; running trainings save where they stand. Exit code 1: the options cannot be used."""
    options = tyro.cli(Options, args=arguments, prog="python app.py")
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(name)s: %(message)s")
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

    from magicapture_core.ui import look
    from magicapture_core.ui.studio import Studio

    studio = Studio(
        runs, model=options.model, any_model=options.alone, keep_days=options.keep_days, limits=options.limits
    )
    # However the server is told to stop, trainings save where they stand.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    studio.sweep_now_and_then()
    blocks = build(studio)
    blocks.queue(default_concurrency_limit=4, max_size=100)
    try:
        blocks.launch(
            server_name=options.host,
            server_port=options.port or None,
            share=options.share,
            auth=auth,
            theme=look.theme(),
            css=look.CSS,
            blocked_paths=[str(runs / "sessions")],
            max_file_size="100mb",
            show_error=False,
            footer_links=["gradio"],
            ssr_mode=False,
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
