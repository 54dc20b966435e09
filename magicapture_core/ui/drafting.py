"""Drafts: a visitor's person in the chosen style before any training, made in the background."""

from __future__ import annotations

import hashlib
import logging
import threading
import time
from collections.abc import Generator
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

from magicapture_core.config import GenerateConfig, from_dict
from magicapture_core.problems import Problem
from magicapture_core.progress import StoppedError
from magicapture_core.ui.lent_gpu import lending
from magicapture_core.ui.server_models import ModelFacts
from magicapture_core.ui.session_jobs import Parts
from magicapture_core.ui.stored_session import Session, StoredDraft

if TYPE_CHECKING:
    from magicapture_core.generation import Portrait
    from magicapture_core.models import ModelBundle

log = logging.getLogger(__name__)

COUNT = 4
SEED = 0
"""The same photos give the same drafts."""
BUILT_IN = "mini"
PATIENCE = 300.0
"""Seconds that a program waits for drafts."""


class Drafter:
    """Makes drafts. It loads a second copy of the model, so that trainings do not wait for drafts.

    Drafts are not jobs: they are made in a thread of their own, need no place in the queue, and end as soon as the
    session has a job.
    """

    def __init__(self, parts: Parts) -> None:
        self.sessions, self.jobs, self.models = parts.sessions, parts.jobs, parts.models
        self.photos, self.masks = parts.photos, parts.masks
        self._lock = threading.Lock()
        self._wanted: dict[str, str | None] = {}
        """Session id → what its drafts should be made of; None: nothing."""
        self._working: set[str] = set()
        self._problems: dict[str, str] = {}
        self._one = threading.Lock()  # drafts of one visitor at a time: two would both be twice as slow
        self._loaded: tuple[str, ModelBundle] | None = None
        self._closed = False

    def facts(self, session: Session) -> ModelFacts:
        """Facts of the model that makes the drafts: the session's own model, or the built-in one."""
        chosen = self.models.facts(session.model or self.models.default)
        return chosen if chosen.drafts else self.models.facts(BUILT_IN)

    def source(self, session: Session) -> str | None:
        """A hash of what drafts would be made of; None where there can be none."""
        facts = self.facts(session)
        if session.kind != "person" or not facts.drafts:
            return None
        if not session.usable("subject") or not session.usable("style"):
            return None
        parts = [facts.name, session.words, session.preset or ""]
        for role in ("subject", "style"):
            parts += [f"{role} {photo.id}" for photo in session.usable(role)]  # type: ignore[arg-type]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]

    def renew(self, key: str) -> None:
        """Call it when photos, style or model may have changed: old drafts are removed, new ones begun."""
        with self.sessions.changing(key) as session:
            source = self.source(session)
            if session.drafts_of != source:
                drop_drafts(session)
            complete = session.drafts_of == source and len(session.drafts) >= COUNT
        owner = session.id
        with self._lock:
            self._wanted[owner] = None if complete else source
            due = not (complete or source is None or owner in self._working or self._closed)
            if not due or self.jobs.active(owner) is not None:
                return
            self._working.add(owner)
        threading.Thread(target=self._make_wanted, args=(key, owner), name="drafts", daemon=True).start()

    def wait(self, key: str, patience: float = PATIENCE) -> list[StoredDraft]:
        """The session's drafts, made first if necessary. Raises Problem where there can be none."""
        self.renew(key)
        deadline = time.monotonic() + patience
        while self.working(self.sessions.find(key)) and time.monotonic() < deadline:
            time.sleep(0.1)
        session = self.sessions.find(key)
        if not session.drafts:
            if self.source(session) is None:
                raise Problem("Drafts need photos of a person and a style. Add both first.")
            raise Problem(self.problem(session) or "The drafts are not ready yet. Ask again in a minute.")
        return list(session.drafts)

    def working(self, session: Session) -> bool:
        """Whether drafts of the session are being made."""
        with self._lock:
            return session.id in self._working

    def problem(self, session: Session) -> str | None:
        """Why there are no drafts, in words; None if nothing went wrong."""
        return self._problems.get(session.id)

    def forget(self, owner: str) -> None:
        """Forget a session that was deleted."""
        with self._lock:
            self._wanted.pop(owner, None)
            self._problems.pop(owner, None)

    def close(self) -> None:
        """Begin no more drafts."""
        with self._lock:
            self._closed = True
            self._wanted.clear()

    def _make_wanted(self, key: str, owner: str) -> None:
        """Make drafts until those that are wanted exist. What is wanted may change meanwhile."""
        made: str | None = None
        while True:
            with self._lock:
                wanted = self._wanted.get(owner)
                if wanted is None or wanted == made or self._closed:
                    self._working.discard(owner)
                    return
            made = wanted
            try:
                with self._one, closing(self._drafts(key, owner, wanted)) as drafts:
                    self._problems.pop(owner, None)
                    for draft in drafts:
                        self._keep(key, wanted, draft)
            except Problem as problem:  # deleted meanwhile, or no face in the photos
                self._problems[owner] = str(problem)
            except Exception:
                log.exception("drafts failed")

    def _drafts(self, key: str, owner: str, wanted: str) -> Generator[Portrait]:
        from magicapture_core.generation import draft

        def going_on() -> bool:
            return self._wanted.get(owner) == wanted and self.jobs.active(owner) is None

        def progress(*_: object) -> None:
            if not going_on():
                raise StoppedError

        session = self.sessions.find(key)
        if not going_on():
            return
        facts = self.facts(session)
        models = self._model(facts.name)
        subject, style = (
            self.masks.concept(session, role, models.resolution, models.framing)
            for role in ("subject", "style")
        )
        analyser = self.photos.analyser()[0]
        if going_on():
            yield from draft(
                models, subject, style, _config(session, facts), analyser=analyser, noun=session.words or "person",
                progress=progress,
            )  # fmt: skip

    def _model(self, name: str) -> ModelBundle:
        from magicapture_core.models import load

        if self._loaded is None or self._loaded[0] != name:
            self._loaded = None
            # A lent GPU's minutes are for portraits and trainings.
            self._loaded = (name, load(name, device="cpu" if lending() else None))
        return self._loaded[1]

    def _keep(self, key: str, wanted: str, draft: Portrait) -> None:
        with self.sessions.changing(key) as session:
            if self.source(session) != wanted:
                return
            if session.drafts_of != wanted:
                drop_drafts(session)
                session.drafts_of = wanted
            path = session.new_shown(".png")
            draft.save(path)
            session.drafts.append(StoredDraft(str(path), draft.seed, draft.identity))


def _config(session: Session, facts: ModelFacts) -> GenerateConfig:
    values = {**facts.generate, "count": COUNT, "seed": SEED, "pictures_per_call": 1}  # the first one soon
    if session.preset:
        from magicapture_core.presets import load_preset

        preset = load_preset(session.preset)
        values |= {"prompt": preset.prompts[0], "negative_prompt": preset.negative_prompt}
    return from_dict(GenerateConfig, values)


def drop_drafts(session: Session) -> None:
    """Remove the drafts from the disk. The caller has the session locked."""
    for draft in session.drafts:
        Path(draft.picture).unlink(missing_ok=True)
    session.drafts, session.drafts_of = [], None
