"""What can be done with a session's trained runs: portraits, heat maps, exports."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import re
import secrets
import shutil
import zipfile
from collections.abc import Iterable, Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from magicapture_core.config import GenerateConfig, from_dict
from magicapture_core.problems import Problem
from magicapture_core.ui.jobs import Job, Jobs, Stream
from magicapture_core.ui.lent_gpu import PORTRAITS_AT_ONCE, Loan, Told, lent, one_slice
from magicapture_core.ui.server_models import ServerModels
from magicapture_core.ui.session_photos import SessionPhotos
from magicapture_core.ui.sessions import Session, Sessions, StoredPortrait, StoredRun

if TYPE_CHECKING:
    from magicapture_core.generation import Portrait

PORTRAITS = "portrait making"
MOST_PORTRAITS = 32
KEPT_PORTRAITS = 96
FINISHED_FILES = ("file", "after", "before")
"""What finishing leaves of a portrait, by its names in Session.finished."""
SUITING = ("steps", "guidance_scale", "adapter_scale")
"""Settings whose best value depends on the model and the run."""
EARLIEST = (1980, 1, 1, 0, 0, 0)
"""The first moment that a zip can name."""
DULL_WORDS = {"a", "an", "the", "of", "in", "on", "and", "with", "at", "to"}


class PortraitJobs:
    """Make portraits, show where words look, pack everything."""

    def __init__(self, sessions: Sessions, jobs: Jobs, models: ServerModels, photos: SessionPhotos) -> None:
        self.sessions, self.jobs, self.models, self.photos = sessions, jobs, models, photos
        self._lent = lent(self._slice)

    def ready(self, session: Session, run: StoredRun | None) -> str | None:
        """What is missing before portraits can be made with a run, or None."""
        if run is None:
            return "There is no trained run yet. Go back to the step “Train”."
        if not (session.run_folder(run) / "adapter" / "subject.safetensors").is_file():
            return (
                "This training has saved nothing yet. Go back to the step “Train” and let it run for a while."
            )
        return None

    def suiting(self, model: str, run: StoredRun | None) -> dict[str, Any]:
        """steps, guidance_scale and adapter_scale as they suit a model and what was chosen for a run."""
        default = GenerateConfig()
        suits: dict[str, Any] = {name: getattr(default, name) for name in SUITING}
        suits |= {name: value for name, value in self.models.facts(model).generate.items() if name in SUITING}
        if run is not None and run.adapter_scale is not None:
            suits["adapter_scale"] = run.adapter_scale
        return suits

    def start(self, key: str, config: GenerateConfig) -> Job:
        """Begin making portraits with the chosen run."""
        session = self.sessions.find(key)
        busy = self.jobs.active(session.id)
        if busy is not None:
            raise Problem(f"Your {busy.kind} is still under way. Wait for it, or stop it first.")
        run = session.chosen_run()
        lacking = self.ready(session, run)
        if lacking or run is None:
            raise Problem(lacking or "")
        self.sessions.check_room(session)
        if config.count > MOST_PORTRAITS:
            raise Problem(f"At most {MOST_PORTRAITS} portraits at a time, got {config.count}.")
        from magicapture_core.prompts import expand

        expand(config.prompt)  # a misspelt placeholder is told at once, not after loading a model
        expand(config.negative_prompt, negative=True)
        config = with_words(config)
        return self.jobs.start(session.id, PORTRAITS, lambda job: self._stream(job, key, run, config))

    def job(self, session: Session) -> Job | None:
        """The newest portrait job of this server's life."""
        return self.jobs.newest(session.id, PORTRAITS)

    def choose_run(self, key: str, run_id: str) -> Session:
        """Use another past run."""
        with self.sessions.changing(key) as session:
            if not any(run.id == run_id for run in session.runs):
                raise Problem("This training is no longer here. Choose another one.")
            session.run = run_id
        return session

    def take_ready(self, key: str) -> Session:
        """Where the chosen run has saved nothing, choose the newest one that has."""
        with self.sessions.changing(key) as session:
            ready = [run for run in session.runs if self.ready(session, run) is None]
            if ready and session.chosen_run() not in ready:
                session.run = ready[-1].id
        return session

    def _stream(self, job: Job, key: str, run: StoredRun, config: GenerateConfig) -> Stream:
        work = self._draw if self._lent is None else self._in_slices
        try:
            with closing(work(job, key, run, config)) as portraits:
                for portrait in portraits:
                    yield self._keep(key, run, portrait)
        finally:
            with suppress(Problem):  # the session was deleted meanwhile
                self._pack(key, run)

    def _draw(self, job: Told, key: str, run: StoredRun, config: GenerateConfig) -> Stream:
        from magicapture_core.generation import generate

        models = self.models.load(run.model, job)
        if job.stopping:
            return
        analyser = self.photos.analyser()[0] if run.settings.get("subject_kind") == "person" else None

        def progress(done: int, total: int) -> bool:
            job.say("Drawing", done / max(total, 1))
            return not job.stopping

        folder = self.sessions.find(key).run_folder(run)
        yield from generate(models, folder, config, analyser=analyser, progress=progress)

    def _in_slices(self, job: Told, key: str, run: StoredRun, config: GenerateConfig) -> Stream:
        """As `_draw`, but a few portraits for each loan of the GPU."""
        assert self._lent is not None
        self.models.fetch(run.model, job)
        flag = self.sessions.find(key).folder / "stop"
        first = secrets.randbelow(2**32) if config.seed is None else config.seed
        for done in range(0, config.count, PORTRAITS_AT_ONCE):
            job.say("Drawing on the Space's GPU", done / config.count)
            few = min(PORTRAITS_AT_ONCE, config.count - done)
            part = dataclasses.replace(config, seed=first + done, count=few)
            yield from one_slice(self._lent, flag, key, run.id, part)

    def _slice(self, flag: str, key: str, run_id: str, config: GenerateConfig) -> Stream:
        """In the lent process."""
        run = next(run for run in self.sessions.find(key).runs if run.id == run_id)
        yield from self._draw(Loan(flag), key, run, config)

    def _keep(self, key: str, run: StoredRun, portrait: Portrait) -> StoredPortrait:
        with self.sessions.changing(key) as session:
            path = session.new_shown(".png")
            portrait.save(path)
            stored = StoredPortrait(
                id=secrets.token_hex(8),
                run=run.id,
                picture=str(path),
                prompt=portrait.prompt,
                seed=portrait.seed,
                identity=None if portrait.identity is None else round(float(portrait.identity), 4),
                settings=portrait.settings,
                warnings=list(portrait.warnings),
                nsfw=portrait.nsfw,
            )
            if portrait.attention:
                _keep_maps(session, stored.id, portrait.attention)
            session.portraits.append(stored)
            for old in session.portraits[:-KEPT_PORTRAITS]:
                drop_portrait(session, old)
        return stored

    def _pack(self, key: str, run: StoredRun) -> None:
        """A zip of the run's portraits, best first, each with how it was made."""
        with self.sessions.changing(key) as session:
            forget_archive(session)
            # In a folder that nobody can guess, for the file's own name is what it is called once it is downloaded.
            path = session.new_shown("") / f"{_word(run.title)}-portraits.zip"
            path.parent.mkdir()
            with zipfile.ZipFile(path, "w") as archive:
                facts, newest = [], EARLIEST
                for number, portrait in enumerate(best_first(of_run(session, run)), start=1):
                    name = f"portrait-{number:02d}-seed-{portrait.seed}.png"
                    # A clock that was wrong, or a backup, dates files where a zip knows no years.
                    entry = zipfile.ZipInfo.from_file(portrait.picture, name, strict_timestamps=False)
                    archive.writestr(entry, Path(portrait.picture).read_bytes())
                    newest = max(newest, entry.date_time)
                    facts.append({
                        "file": name, "prompt": portrait.prompt, "seed": portrait.seed,
                        "likeness": portrait.identity, "settings": portrait.settings,
                    })  # fmt: skip
                archive.writestr(zipfile.ZipInfo("portraits.json", newest), json.dumps(facts, indent=2))
            session.archive, session.archive_run = str(path), run.id

    # --- heat maps ----------------------------------------------------------------------------------

    def words(self, session: Session, portrait_id: str) -> list[str]:
        """Words of a portrait whose heat maps were kept."""
        return list(_maps(session, portrait_id))

    def heat(self, key: str, portrait_id: str, word: str) -> Path:
        """A shown picture: a portrait, coloured by where `word` looked."""
        from magicapture_core.heat import heat_overlay
        from magicapture_core.provenance import save_picture

        session = self.sessions.find(key)
        portrait = next((portrait for portrait in session.portraits if portrait.id == portrait_id), None)
        heat = _maps(session, portrait_id).get(word)
        if portrait is None or heat is None:
            raise Problem("There is no heat map of this word. Choose another one.")
        with Image.open(portrait.picture) as image:
            pixels = heat_overlay(np.asarray(image.convert("RGB")), heat.astype(np.float32))
        path = _heat_path(session, portrait, word)
        save_picture(
            Image.fromarray(pixels),
            path,
            prompt=portrait.prompt,
            seed=portrait.seed,
            settings=portrait.settings,
        )
        return path

    # --- export -------------------------------------------------------------------------------------

    def export(self, key: str, format: str) -> list[Path]:
        """The chosen run's adapter for other programs, as files that can be downloaded."""
        from magicapture_core.export import export_run

        if format not in ("diffusers", "kohya"):
            raise Problem(f'The format must be "diffusers" or "kohya", got {format!r}.')
        session = self.sessions.find(key)
        run = session.chosen_run()
        lacking = self.ready(session, run)
        if lacking or run is None:
            raise Problem(lacking or "")
        self.sessions.check_room(session)
        session.shown.mkdir(parents=True, exist_ok=True)
        folder = session.shown / secrets.token_hex(12) / f"magicapture-{format}"
        return export_run(
            session.run_folder(run), format, folder, adapter_scale=run.adapter_scale  # type: ignore[arg-type]
        )  # fmt: skip


def _maps_path(session: Session, portrait_id: str) -> Path:
    return session.folder / "attention" / f"{portrait_id}.safetensors"


def _keep_maps(session: Session, portrait_id: str, maps: dict[str, np.ndarray]) -> None:
    """Numbers keep the words' order; numpy's own archive takes neither long words nor the word "file"."""
    path = _maps_path(session, portrait_id)
    path.parent.mkdir(exist_ok=True)
    numbered = enumerate(maps.items())
    save_file({f"{number:02} {word}": heat.astype(np.float16) for number, (word, heat) in numbered}, path)


def _maps(session: Session, portrait_id: str) -> dict[str, np.ndarray]:
    """Where each word of a portrait looked; empty where nothing was kept."""
    path = _maps_path(session, portrait_id)
    if not re.fullmatch(r"[0-9a-f]{16}", portrait_id) or not path.is_file():
        return {}
    with suppress(SafetensorError):  # the server was killed while it wrote
        return {name.partition(" ")[2]: heat for name, heat in sorted(load_file(path).items())}
    return {}


def _heat_path(session: Session, portrait: StoredPortrait, word: str) -> Path:
    name = hashlib.sha256(f"{session.id} {portrait.id} {word}".encode()).hexdigest()[:24]
    return Path(portrait.picture).with_name(f"{name}.jpg")


def forget_pictures(paths: Iterable[str | Path]) -> None:
    """Remove shown files."""
    for path in paths:
        Path(path).unlink(missing_ok=True)


def forget_archive(session: Session) -> None:
    """Remove the zip of the newest portraits; the caller holds the session."""
    if session.archive:
        path = Path(session.archive)
        path.unlink(missing_ok=True)
        if path.parent != session.shown:
            shutil.rmtree(path.parent, ignore_errors=True)
    session.archive = session.archive_run = None


def _word(title: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")


def drop_portrait(session: Session, portrait: StoredPortrait) -> None:
    """Remove a portrait with everything that was made of it; the caller holds the session."""
    forget_pictures(_heat_path(session, portrait, word) for word in _maps(session, portrait.id))
    finished = session.finished.pop(portrait.id, {})
    forget_pictures(finished[name] for name in FINISHED_FILES if name in finished)
    forget_pictures([portrait.picture, _maps_path(session, portrait.id)])
    session.portraits.remove(portrait)


def with_words(config: GenerateConfig) -> GenerateConfig:
    """The config, listening to every word of its prompt that means something."""
    from magicapture_core.prompts import weighed

    found = re.findall(r"\{\w+\}|[^\W_]+(?:['’-][^\W_]+)*", weighed(config.prompt)[0])
    words = [word for word in dict.fromkeys(found) if word.lower() not in DULL_WORDS and len(word) <= 60]
    return dataclasses.replace(config, attention_words=tuple(words[:16]))


def of_run(session: Session, run: StoredRun | None) -> list[StoredPortrait]:
    """A run's portraits."""
    return [portrait for portrait in session.portraits if run is not None and portrait.run == run.id]


def best_first(portraits: Sequence[StoredPortrait]) -> list[StoredPortrait]:
    """By likeness; without a score later, blacked out ones last."""
    return sorted(portraits, key=lambda p: (p.nsfw, p.identity is None, -(p.identity or 0.0)))


def generate_config(values: dict[str, Any]) -> GenerateConfig:
    """From plain values of a form, where numbers may have come as floats."""
    whole = {"count", "seed", "steps", "width", "height"}
    tidy = {
        name: int(value) if name in whole and isinstance(value, float) and math.isfinite(value) else value
        for name, value in values.items()
    }
    return from_dict(GenerateConfig, tidy)
