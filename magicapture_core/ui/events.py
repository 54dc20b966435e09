"""Every event of the page: what is pressed, which handler answers, and what it may change."""

from __future__ import annotations

import functools
import itertools
import json
from collections.abc import Callable
from typing import Any

import gradio as gr

from magicapture_core.languages import _
from magicapture_core.ui import look, page
from magicapture_core.ui.page import Wizard

QUIET: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
LAST: dict[str, Any] = {"trigger_mode": "always_last"}
"""Of changes that follow each other quickly, the last is answered last."""
_NUMBERS = itertools.count()


def _when(
    listener: Any,
    handler: Any,
    inputs: Any,
    outputs: Any,
    doing: str = "",
    *,
    unread: str = "",
    **options: Any,
) -> Any:
    """Connect a handler to a listener. doing: what the page says meanwhile; empty: nothing. Returns the event.

    unread: what it says instead as long as nobody has allowed to look at the photos.
    The pressed button cannot be pressed again before the answer arrives (ui/page.js).
    """
    if not doing:
        return listener(handler, inputs, outputs, **options, **QUIET)
    number = next(_NUMBERS)
    words = json.dumps(doing)
    if unread:
        words = f"document.querySelector('#mc-consent input').checked ? {words} : {json.dumps(unread)}"
    listener(None, js=f"() => magicapture.begin({number}, {words})", **QUIET)
    event = listener(handler, inputs, outputs, **options, **QUIET)
    event.then(None, js=f"() => magicapture.end({number})", **QUIET)
    return event


def _any(fields: list[Any]) -> Callable[..., Any]:
    """One listener for changes of several fields by the visitor. With one each, an older answer could arrive last."""
    return functools.partial(gr.on, [field.input for field in fields])


def wire(wizard: Wizard, blocks: Any) -> None:
    """Every event of the page, in the language in which it was made."""
    _wire_session(wizard, blocks)
    _wire_ways(wizard)
    _wire_photos(wizard)
    _wire_masks(wizard)
    _wire_training(wizard)
    _wire_portraits(wizard)
    _wire_files(wizard)
    _wire_finishing(wizard)


def _wire_session(wizard: Wizard, blocks: Any) -> None:
    """The session: open it, follow its jobs, delete it."""
    key, photos, portraits = wizard.key, wizard.steps[0], wizard.steps[4]
    opened = blocks.load(wizard.open, [key], [key, *wizard.outputs], **QUIET)
    opened.then(photos.remind, [photos.files, photos.consent], [photos.held], **QUIET)
    opened.then(wizard.fill, [key], wizard.outputs, **QUIET).then(
        wizard.fill_masks, [key], wizard.steps[2].outputs, **QUIET
    )
    train = wizard.steps[3]
    followed = [key, wizard.seen, train.looked, train.schedule, *portraits.place]
    wizard.timer.tick(wizard.follow, followed, wizard.live, concurrency_limit=20, **QUIET)
    _when(wizard.ask_delete.click, wizard.confirm_delete, [key], wizard.confirmation)
    _when(wizard.keep_data.click, wizard.cancel_delete, None, wizard.confirmation)
    everything = [key, *wizard.boxes]
    _when(
        wizard.delete.click, wizard.delete_data, everything, [key, *wizard.outputs], _("Deleting everything")
    )


def _wire_ways(wizard: Wizard) -> None:
    """Going from step to step."""
    for number, (back, onward, _said) in enumerate(wizard.feet):
        for button, way, target in ((back, wizard.go_back, number - 1), (onward, wizard.go_on, number + 1)):
            if button is not None:
                _when(button.click, way(number), wizard.asked, wizard.outputs, _(page.OPENING[target]))
    _when(wizard.way.click, wizard.go_to, wizard.asked, wizard.outputs, _("Opening the step"))
    wizard.walkthrough.change(None, js=look.TO_TOP, api_visibility="private")


def _wire_photos(wizard: Wizard) -> None:
    """Steps 1 and 2: photos and style."""
    photos, style = wizard.steps[:2]
    key, seen = wizard.key, photos.outputs
    judging, taking = _("Looking at the photos"), _("Taking these photos and looking at them")
    agreed = [key, photos.consent, photos.files]
    sent = [key, photos.files, photos.consent]
    filmed = [key, photos.camera, photos.consent]
    # More may be dropped while the first are looked at: they wait, where "once" would pass over them. And nobody has to
    # wait until all are looked at before a photo, or the person, can be exchanged.
    many: dict[str, Any] = {"trigger_mode": "multiple"}
    held: dict[str, Any] = {"unread": _("One moment")}
    for event in (
        _when(photos.consent.input, photos.agree, agreed, seen, judging, **held, **many),
        _when(photos.files.upload, photos.upload, sent, seen, judging, **held, **many),
        _when(photos.camera_add.click, photos.upload, filmed, seen, judging, **held),
        _when(photos.photos.click, photos.press, [key], seen, judging, **many),
        _when(photos.people.click, photos.press, [key], seen, taking, **many),
        _when(photos.kind.input, photos.choose_kind, [key, photos.kind], seen, judging),
        _when(_any([photos.noun, photos.age]), photos.call, [key, photos.noun, photos.age], seen, **LAST),
    ):
        event.then(wizard.start_following, None, wizard.following, **QUIET)  # the first draft comes by itself

    for event in (
        # Several looks are ticked quickly: each counts, and they are answered in their order.
        _when(
            style.presets.click,
            style.press,
            [key],
            style.outputs,
            trigger_mode="multiple",
            concurrency_limit=1,
        ),
        _when(style.photos.click, style.press, [key], style.outputs, judging, trigger_mode="multiple"),
        _when(
            style.files.upload,
            style.upload,
            [key, style.files],
            style.outputs,
            judging,
            trigger_mode="multiple",
        ),
    ):
        event.then(wizard.start_following, None, wizard.following, **QUIET)  # drafts come by themselves


def _wire_masks(wizard: Wizard) -> None:
    """Step 3."""
    masks, key = wizard.steps[2], wizard.key
    _when(masks.view.input, masks.switch, [key, masks.view], masks.outputs, _("Showing the masks"))
    for pictures in (masks.subject, masks.style):
        _when(pictures.click, masks.press, [key], masks.outputs, _("Opening the brush"))
    painted = [key, masks.view, masks.editing]
    _when(masks.brush.submit, masks.finish, painted, masks.outputs, _("Showing the masks"))


def _wire_training(wizard: Wizard) -> None:
    """Step 4."""
    key, train = wizard.key, wizard.steps[3]
    fields = list(train.fields.values())
    chosen = [key, train.model]
    _when(train.model.input, train.choose_model, chosen, train.outputs, _("Looking at the model"), **LAST)
    _when(train.schedule.input, train.choose_schedule, [key, train.schedule], train.outputs, **LAST)
    times = [train.schedule, train.start, train.needs]
    _when(_any([train.early, *fields]), train.edit, [key, train.model, train.early, *fields], times, **LAST)
    _when(train.samples.click, train.look_at, [key], [train.looked, train.samples])
    form = [key, train.model, train.schedule, train.early, *fields]
    for event in (
        _when(train.start.click, train.begin, form, [*train.live, train.looked], _("Starting")),
        _when(train.resume.click, train.go_on, [key], train.live, _("Going on with the training")),
        _when(train.pause.click, train.halt, [key], train.live, _("Stopping after this step")),
        _when(train.leave.click, train.halt, [key], train.live),
        _when(train.stop.click, train.halt, [key], train.live).then(
            wizard.wait_and_go_to_portraits, [key], wizard.outputs, **QUIET
        ),
    ):
        event.then(wizard.start_following, None, wizard.following, **QUIET)


def _wire_portraits(wizard: Wizard) -> None:
    """Step 5: making them and looking at them."""
    key, portraits = wizard.key, wizard.steps[4]
    place = [key, *portraits.place]
    asked = [
        *place, portraits.negative, portraits.count, portraits.shape, portraits.variety, portraits.seed,
        portraits.steps, portraits.adapter, portraits.guidance,
    ]  # fmt: skip
    pressed = [*place, portraits.count]
    for event in (
        _when(portraits.make.click, portraits.generate, asked, portraits.live, _("Starting")),
        _when(portraits.stop.click, portraits.halt, place, portraits.live, _("Stopping")),
        _when(portraits.gallery.click, portraits.press, pressed, portraits.live, _("Opening the portrait")),
        _when(portraits.detail.click, portraits.press, pressed, portraits.live, _("One moment")),
        _when(portraits.undo.click, portraits.press, pressed, portraits.live, _("Bringing it back")),
    ):
        event.then(wizard.start_following, None, wizard.following, **QUIET)
    _when(portraits.order.input, portraits.sort, place, portraits.live)
    shown = [portraits.chips, portraits.progress, portraits.hint]
    write = [key, portraits.prompt]
    _when(portraits.chips.click, portraits.press_chip, write, [portraits.prompt, *shown])
    # Not "input", which gradio 6.31 leaves out where a text is pasted.
    _when(portraits.prompt.change, portraits.write, write, shown, **LAST)


def _wire_files(wizard: Wizard) -> None:
    """Step 5: past trainings, strengths, and files to download."""
    key, portraits = wizard.key, wizard.steps[4]
    _when(portraits.run.input, portraits.choose_run, [key, portraits.run], portraits.outputs, _("Opening it"))
    _when(portraits.past.list.click, portraits.press_past, [key], portraits.outputs, _("One moment"))
    comparing, exporting = portraits.comparing, portraits.exporting
    for event in (
        _when(comparing.compare.click, comparing.begin, [key], comparing.outputs, _("Starting")),
        _when(comparing.stop.click, comparing.halt, [key], comparing.outputs, _("Stopping")),
    ):
        event.then(wizard.start_following, None, wizard.following, **QUIET)
    _when(comparing.adopt.click, portraits.adopt, [key], [portraits.adapter], _("Taking this strength"))
    files = [exporting.exported]
    wanted = [key, exporting.format]
    _when(exporting.export.click, exporting.export_files, wanted, files, _("Preparing the files"))
    _when(exporting.format.input, exporting.forget_files, None, files)
    hub = exporting.keeping
    asked = [key, hub.repository, hub.token, hub.agreed]
    _when(hub.upload.click, hub.keep, asked, [hub.uploaded, hub.token], _("Uploading"))


def _wire_finishing(wizard: Wizard) -> None:
    """Step 6."""
    key, finishing = wizard.key, wizard.steps[5]
    place = [key, finishing.chosen]
    _when(finishing.gallery.click, finishing.press, place, finishing.outputs, _("Opening the portrait"))
    _when(
        finishing.restore.input,
        finishing.choose_restorer,
        [finishing.restore],
        [finishing.strength, finishing.fidelity],
    )
    wanted = [finishing.chosen, finishing.upscale, finishing.restore, finishing.strength, finishing.fidelity]
    _when(finishing.start.click, finishing.finish, [key, *wanted], finishing.live, _("Starting"))
    _when(finishing.all.click, finishing.finish_all, [key, *wanted], finishing.live, _("Starting"))
    finishing.timer.tick(
        finishing.follow, [key, finishing.chosen], finishing.live, concurrency_limit=20, **QUIET
    )
    _when(finishing.stop.click, finishing.halt, [key, finishing.chosen], finishing.live, _("Stopping"))
    passport = finishing.passport
    asked = [
        key, finishing.chosen, passport.spec, passport.paper, passport.replace, passport.colour, passport.force,
    ]  # fmt: skip
    _when(passport.make.click, passport.make_sheet, asked, [passport.sheet], _("Checking the photo"))
    background = [passport.spec, passport.replace, passport.colour]
    shown = [passport.colour, passport.rule, passport.sheet]
    _when(passport.spec.input, passport.choose_format, [passport.spec], shown, **LAST)
    # Not "input", which gradio 6.31 leaves out where a colour is typed.
    for listener in (passport.replace.input, passport.colour.change):
        _when(listener, passport.choose_background, background, shown[1:], **LAST)
    for choice in (passport.paper, passport.force):
        _when(choice.input, passport.forget_sheet, None, [passport.sheet])
