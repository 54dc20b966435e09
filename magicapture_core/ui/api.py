"""Named endpoints for programs: the same flow as the page. The caller keeps the session's key.

Every endpoint but the first wants the `session` that /check_photos returned. It is all that protects the photos
and results, so treat it like a password.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import gradio as gr

from magicapture_core.config import GenerateConfig
from magicapture_core.languages import _
from magicapture_core.problems import Problem
from magicapture_core.ui.jobs import Job
from magicapture_core.ui.portrait_jobs import generate_config
from magicapture_core.ui.session_portraits import best_first
from magicapture_core.ui.step import in_words
from magicapture_core.ui.stored_session import Role, Session, StoredPhoto
from magicapture_core.ui.studio import Studio

P = ParamSpec("P")
R = TypeVar("R")
DESCRIPTIONS = {
    "check_photos": "Add photos of the person (role subject) or of the style, and judge them. An empty session begins "
    "a new one. Photos of a person need the user's consent. person, preset: a sample person or a ready-made style "
    "instead of files.",
    "make_masks": "Pictures of what is learned from each photo: the face is marked.",
    "draft": "Portraits before any training, within seconds: the style, and a face that is only similar. Waits. "
    "Where no style was chosen, in every ready-made one.",
    "train": "Start learning the person and the style, which takes minutes; it returns at once. Then ask status now "
    "and then, until its state is done.",
    "status": "How the training stands: state, step, losses, seconds left, problem. stop: also stop it and save.",
    "generate": "Make portraits with what was learned; waits until they are ready. They are marked as generated. "
    "Needs a training that is done, or stopped.",
    "export": "The adapter as files: diffusers or kohya (AUTOMATIC1111, ComfyUI).",
    "delete": "Delete everything of the session: photos, trainings, portraits. It cannot be undone.",
}


def plain_errors(endpoint: Callable[P, R]) -> Callable[P, R]:
    """Tell the caller of a Problem in its own words, and of any other error in general words."""

    @functools.wraps(endpoint)
    def safe(*values: P.args, **named: P.kwargs) -> R:
        try:
            return endpoint(*values, **named)
        except gr.Error:  # told already, by an endpoint within
            raise
        except Exception as error:  # noqa: BLE001 - a fault of the program is logged by in_words
            raise gr.Error(in_words(error, f"endpoint {endpoint.__name__}"), print_exception=False) from None

    return safe


class Api:
    """The endpoints of one server."""

    def __init__(self, studio: Studio) -> None:
        self.studio = studio

    @plain_errors
    def check_photos(
        self,
        files: list[str] | None,
        role: str,
        session: str,
        consent: bool,
        person: str,
        preset: str,
        use_all: bool,
    ) -> dict[str, Any]:
        """Returns session, photos (name, level, reasons, used) and refused (what could not be read).

        Args:
            files: Photo files, 4 to 6 are best; null if none are added.
            role: "subject" for photos of the person, "style" for photos in the style.
            session: The session returned by an earlier call; empty begins a new one. Keep it secret.
            consent: Whether the user said that they may use these photos. Ask the user; never assume it.
            person: Name of a sample person, instead of files: alma, bruno, conrad or dana.
            preset: Name of a ready-made style, instead of style photos; for example corporate or golden-hour.
            use_all: Also use photos that would be left out: another person, several people, duplicates.
        """
        photos, refused = self.studio.photos, list[str]()
        try:
            key = self.opened(role, session, consent, bool(files))
            if person:
                photos.use_person(key, person)
            if preset:
                photos.use_preset(key, preset)
            if files:
                refused = photos.take(key, _role(role), files)[1]
        finally:
            self.studio.sessions.forget_uploads(files or ())  # refused ones, too
        if files and role == "style":
            photos.own_style(key)
        if use_all:
            for photo in self.studio.sessions.find(key).photos_of(_role(role)):
                photos.use_anyway(key, _role(role), photo.id)
        judged = self.studio.sessions.find(key).photos_of(_role(role))
        return {"session": key, "photos": [_verdict(photo) for photo in judged], "refused": refused}

    def opened(self, role: str, session: str, consent: bool, photos: bool) -> str:
        """The key of a session that may take photos; of a new one where `session` is empty. Raises Problem if there is
        no consent to them, or no such session or role: call it before anything is stored."""
        if role not in ("subject", "style"):
            raise Problem(f'role must be "subject" or "style", got {role!r}.')
        found = self.studio.sessions.find(session) if session else None
        if photos and role == "subject" and not (consent or (found and found.consent)):
            raise Problem(
                _(
                    "Photos of a person need their consent. Ask whether these may be used, and give consent=true if "
                    "they agree."
                )
            )
        key = session if found else self.studio.sessions.create()[0]
        if consent:
            self.studio.photos.consent(key, True)
        return key

    @plain_errors
    def make_masks(self, session: str, role: str) -> tuple[list[str], list[dict[str, Any]]]:
        """Returns the overlay pictures, and name and problem of each photo.

        Args:
            session: The session, from check_photos (agents: add_photos).
            role: "subject" or "style".
        """
        if role not in ("subject", "style"):
            raise Problem(f'role must be "subject" or "style", got {role!r}.')
        views = self.studio.masks.views(session, _role(role))
        pictures = [view.pictures.get("overlay", view.photo.thumb) for view in views]
        return pictures, [{"name": view.photo.name, "problem": view.problem} for view in views]

    @plain_errors
    def draft(self, session: str) -> tuple[list[str], list[dict[str, Any]]]:
        """Returns the drafts, and look ("own" or a ready-made style), seed and likeness of each.

        Args:
            session: The session, from check_photos (agents: add_photos). It needs photos of a person.
        """
        drafts = self.studio.drafts.wait(session)
        return [draft.picture for draft in drafts.values()], [
            {"look": look, "seed": draft.seed, "likeness": draft.identity} for look, draft in drafts.items()
        ]

    @plain_errors
    def train(
        self, session: str, model: str, schedule: str, settings: dict[str, Any] | None, resume: bool
    ) -> dict[str, Any]:
        """Returns the run's id and state.

        Args:
            session: The session, from check_photos (agents: add_photos). It needs photos of a person and a style.
            model: "mini" or a hub id; empty: the server's own model.
            schedule: One of the model's schedules, for example "quick"; empty: the one that it recommends.
            settings: Training settings over the schedule's, for example {"seed": 1}; usually empty.
            resume: Continue the last training, instead of a new one.
        """
        settings = settings or {}
        if not isinstance(settings, dict):
            raise Problem(f"settings must be an object of names and values, got a {type(settings).__name__}.")
        if resume:
            self.studio.training_jobs.resume(session)
        else:
            found = self.studio.sessions.find(session)
            name = self.studio.models.checked(model or self.studio.models.of(found))
            schedule = schedule or self.studio.models.facts(name).schedule_names()[0]
            self.studio.training_jobs.start(session, name, schedule, settings)
        return self.status(session, False)

    @plain_errors
    def status(self, session: str, stop: bool) -> dict[str, Any]:
        """Returns state (none, waiting, running, done, stopped, failed, saved), run, step, losses and problem.

        Args:
            session: The session, from check_photos (agents: add_photos).
            stop: Stop the training, too; what was learned is saved.
        """
        if stop:
            self.studio.training_jobs.stop(session)
        found = self.studio.sessions.find(session)
        self.studio.visited(session)
        return _training(found, self.studio.training_jobs.job(found))

    @plain_errors
    def generate(
        self, session: str, prompt: str, negative_prompt: str, count: float, seed: float, steps: float,
        guidance_scale: float, adapter_scale: float, adapter_start: float,
    ) -> tuple[list[str], list[dict[str, Any]]]:  # fmt: skip
        """Returns the pictures, best likeness first, and prompt, seed and likeness of each.

        Args:
            session: The session, from check_photos (agents: add_photos), after a training.
            prompt: What to show; {subject} stands for the person, {style} for the style.
            negative_prompt: What to avoid.
            count: How many portraits, 32 at most.
            seed: Seed of the first portrait; below 0: a new one.
            steps: Denoising steps; below 0: as it suits the model.
            guidance_scale: Strength of the prompt; below 0: as it suits the model.
            adapter_scale: Strength of what was learned, 0 to 2; below 0: as it suits the model and the training.
            adapter_start: Share of the steps before that; 0.33: portraits differ more; below 0: as it suits the model.
        """
        run = self.studio.sessions.find(session).chosen_run()
        own = {
            "steps": steps, "guidance_scale": guidance_scale, "adapter_scale": adapter_scale,
            "adapter_start": adapter_start,
        }  # fmt: skip
        config = generate_config({
            "prompt": prompt, "negative_prompt": negative_prompt, "count": count, "seed": _given(seed),
            **(self.studio.runs.suiting(run.model, run) if run else {}),
            **{name: value for name, value in own.items() if _given(value) is not None},
        })  # fmt: skip
        job = self.studio.portrait_jobs.start(session, config)
        job.wait()
        snapshot = job.snapshot()
        if snapshot.problem:
            raise Problem(snapshot.problem)
        portraits = best_first(snapshot.reports)
        facts = [
            {
                "prompt": portrait.prompt,
                "seed": portrait.seed,
                "likeness": portrait.identity,
                "warnings": portrait.warnings,
            }
            for portrait in portraits
        ]
        return [portrait.picture for portrait in portraits], facts

    @plain_errors
    def export(self, session: str, format: str) -> list[str]:
        """Returns the files.

        Args:
            session: The session, from check_photos (agents: add_photos), after a training.
            format: "diffusers", or "kohya" for AUTOMATIC1111 and ComfyUI.
        """
        return [str(path) for path in self.studio.runs.export(session, format)]

    @plain_errors
    def delete(self, session: str) -> dict[str, bool]:
        """Returns deleted: true.

        Args:
            session: The session, from check_photos (agents: add_photos).
        """
        self.studio.delete(session)
        return {"deleted": True}


def mount(studio: Studio) -> None:
    """Add the endpoints to the Blocks under construction. Nothing of them is seen on the page."""
    api, default = Api(studio), GenerateConfig()
    with gr.Column(visible=False):
        session = gr.Textbox("", label="session")
        role = gr.Textbox("subject", label="role")
        files = gr.File(file_count="multiple", label="files")
        flag = gr.Checkbox(False, label="consent")
        person, preset = gr.Textbox("", label="person"), gr.Textbox("", label="preset")
        use_all = gr.Checkbox(False, label="use_all")
        model, schedule = gr.Textbox("", label="model"), gr.Textbox("", label="schedule")
        own = gr.JSON({}, label="settings")
        # gradio describes JSON in a way that is no valid schema for agents' tools
        own.api_info = lambda: {"type": "object", "description": "names and values"}  # type: ignore[method-assign]
        resume, stop = gr.Checkbox(False, label="resume"), gr.Checkbox(False, label="stop")
        prompt, negative = (
            gr.Textbox(default.prompt, label="prompt"),
            gr.Textbox("", label="negative_prompt"),
        )
        numbers = [
            gr.Number(default.count, label="count", precision=0),
            *(gr.Number(-1, label=name, precision=0) for name in ("seed", "steps")),
            *(gr.Number(-1, label=name) for name in ("guidance_scale", "adapter_scale", "adapter_start")),
        ]  # fmt: skip
        format = gr.Textbox("diffusers", label="format")
        answer, pictures, written = (
            gr.JSON(label="answer"),
            gr.Files(label="pictures"),
            gr.Files(label="files"),
        )
        endpoints: list[tuple[Callable[..., Any], list[Any], list[Any]]] = [
            (api.check_photos, [files, role, session, flag, person, preset, use_all], [answer]),
            (api.make_masks, [session, role], [pictures, answer]),
            (api.draft, [session], [pictures, answer]),
            (api.train, [session, model, schedule, own, resume], [answer]),
            (api.status, [session, stop], [answer]),
            (api.generate, [session, prompt, negative, *numbers], [pictures, answer]),
            (api.export, [session, format], [written]),
            (api.delete, [session], [answer]),
        ]
        for endpoint, inputs, outputs in endpoints:
            name = endpoint.__name__
            gr.Button(visible=False).click(
                endpoint,
                inputs,
                outputs,
                api_name=name,
                api_description=DESCRIPTIONS[name],
                concurrency_limit=8,
            )


def _given(value: Any) -> Any:
    """The value; None where it is a number below 0, which means that none was chosen."""
    return None if value is None or (isinstance(value, int | float) and value < 0) else value


def _role(name: str) -> Role:
    return "subject" if name == "subject" else "style"


def _verdict(photo: StoredPhoto) -> dict[str, Any]:
    return {"name": photo.name, "level": photo.level, "reasons": photo.reasons, "used": photo.used}


def _training(session: Session, job: Job | None) -> dict[str, Any]:
    """How a session's training stands, as plain values."""
    run = session.chosen_run()
    values: dict[str, Any] = {"state": "none", "run": run.id if run else None}
    if job is None:
        return {**values, "state": "saved" if run else "none", "step": run.step if run else 0}
    snapshot = job.snapshot()
    values |= {
        "state": snapshot.state, "ahead_in_queue": snapshot.ahead, "doing": snapshot.stage,
        "problem": snapshot.problem, "cut_off": snapshot.cut_off,
    }  # fmt: skip
    if snapshot.reports:
        report = snapshot.reports[-1]
        values |= {
            "phase": report.phase, "step": report.step, "total_steps": report.total_steps,
            "losses": report.losses, "seconds_left": report.seconds_left,
        }  # fmt: skip
    return values
