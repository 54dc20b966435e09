"""Drafts: a visitor's person in every look before any training, one picture each, made in the background."""

from __future__ import annotations

import hashlib
import logging
import threading
import time
from collections import OrderedDict
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from magicapture_core.config import GenerateConfig, from_dict
from magicapture_core.languages import _
from magicapture_core.problems import Problem
from magicapture_core.progress import StoppedError
from magicapture_core.ui.lent_gpu import lending
from magicapture_core.ui.ready_looks import look_names
from magicapture_core.ui.server_models import ModelFacts
from magicapture_core.ui.session_jobs import Parts
from magicapture_core.ui.stored_session import OWN, Session, StoredDraft, StoredRun

if TYPE_CHECKING:
    from magicapture_core.concepts import Concept
    from magicapture_core.generation import Portrait
    from magicapture_core.models import ModelBundle

log = logging.getLogger(__name__)

SEED = 0
"""The same photos give the same drafts."""
BUILT_IN = "mini"
PATIENCE = 0.5
"""Seconds between looks at whether the device is free for drafts that nobody asked for yet."""
SMALL_SIDE = 64
"""Pixels of a look's photos that are kept in memory: a style's word is made of the means of 8 and more."""


class Drafter:
    """Makes drafts in one thread, one after the other, of every visitor in turn.

    Drafts are not jobs: they need no place in the queue, and a session's end as soon as it has a job. It loads a second
    copy of the model, so that trainings do not wait for drafts. While anybody's job works, a visitor gets the drafts of
    ticked looks and one more at least; the others wait until the device is free.
    """

    def __init__(self, parts: Parts) -> None:
        self.sessions, self.jobs, self.models = parts.sessions, parts.jobs, parts.models
        self.photos, self.masks = parts.photos, parts.masks
        self._changed = threading.Condition()
        self._wanted: OrderedDict[str, tuple[str, object]] = OrderedDict()
        """Session id → its key, and a token that tells the newest wish."""
        self._problems: dict[str, Problem] = {}
        self._thread: threading.Thread | None = None
        self._loading = threading.Lock()
        self._loaded: tuple[str, ModelBundle] | None = None
        self._person: tuple[str, Concept] | None = None
        self._looks: dict[tuple[str, str], Concept] = {}
        self._closed = False

    def facts(self, session: Session) -> ModelFacts:
        """Facts of the model that makes the drafts: the session's own model, or the built-in one."""
        chosen = self.models.facts(self.models.of(session))
        return chosen if chosen.drafts else self.models.facts(BUILT_IN)

    def made_of(self, session: Session, look: str) -> str | None:
        """A hash of what the draft of a look would be made of; None where there can be none."""
        facts = self.facts(session)
        if session.kind != "person" or not facts.drafts or not session.allowed:
            return None
        photos = session.usable("subject")
        own = session.usable("style", OWN) if look == OWN else []
        if not photos or (look == OWN and not own):
            return None
        parts = [facts.name, session.words, look, *(photo.id for photo in [*photos, *own])]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]

    def holding(self, session: Session) -> dict[str, StoredDraft]:
        """The drafts that show what the session has now, by look."""
        return {draft.look: draft for draft in session.drafts if self._holds(session, draft)}

    def before(self, session: Session, run: StoredRun | None) -> StoredDraft | None:
        """What the model that learns drew before it: the draft of a run's look, or of the look to be learned next.

        None where there is none, or it was made by another model or of other photos than the run's.
        """
        look = run.look if run is not None else next(iter(session.looks), None)
        if look is None or (
            run is not None and (run.finished or run.fingerprint != session.fingerprint(look))
        ):
            return None
        learns = run.model if run is not None else self.models.of(session)
        return self.holding(session).get(look) if self.facts(session).name == learns else None

    def next_look(self, session: Session) -> str | None:
        """The look whose draft comes next; None where all are there, or can never be."""
        there = self.holding(session)
        return next(
            (look for look in look_names(session) if look not in there and self.made_of(session, look)), None
        )

    def renew(self, key: str) -> None:
        """Call it when photos, looks or model may have changed: old drafts are removed, new ones begun."""
        with self.sessions.changing(key) as session:
            for draft in [draft for draft in session.drafts if not self._holds(session, draft)]:
                _drop(session, draft)
        owner = session.id
        with self._changed:
            self._wanted.pop(owner, None)
            if self._closed or self.next_look(session) is None or self.jobs.active(owner) is not None:
                return
            self._problems.pop(owner, None)
            self._wanted[owner] = key, object()
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="drafts", daemon=True)
                self._thread.start()
            self._changed.notify_all()

    def wait(self, key: str, patience: float = 300.0) -> dict[str, StoredDraft]:
        """The session's drafts by look, made first if necessary: of the chosen looks, or of all where none is chosen.

        patience: seconds after which those are returned that are there. Raises Problem where there can be none.
        """
        self.renew(key)
        deadline = time.monotonic() + patience
        while True:
            session = self.sessions.find(key)
            found = self.holding(session)
            chosen = bool(session.looks) and set(session.looks) <= found.keys()
            if chosen or not self.working(session) or time.monotonic() > deadline:
                break
            time.sleep(0.1)
        if not found:
            self.jobs.refuse_if_busy(session.id)
            said = self.problem(session) or _(
                "Drafts need photos of the person, which may be used. Add them first."
            )
            raise Problem(said)
        return found

    def prepare(self, key: str) -> None:
        """Call it when photos arrive: the model is loaded while they are looked at."""
        facts = self.facts(self.sessions.find(key))
        if self._loaded is None and facts.drafts and not self._closed:
            threading.Thread(
                target=self._load_early, args=(facts.name,), name="drafts-model", daemon=True
            ).start()

    def _load_early(self, name: str) -> None:
        with suppress(Problem):  # it is told where a draft is wanted
            self._model(name)

    def working(self, session: Session) -> bool:
        """Whether drafts of the session are being made, or wait for a free device."""
        with self._changed:
            return session.id in self._wanted

    def problem(self, session: Session) -> str | None:
        """Why there are no drafts, in words; None if nothing went wrong."""
        problem = self._problems.get(session.id)
        return None if problem is None else str(problem)

    def forget(self, owner: str) -> None:
        """Forget a session that was deleted."""
        with self._changed:
            self._wanted.pop(owner, None)
            self._problems.pop(owner, None)
            self._person = None

    def close(self) -> None:
        """Begin no more drafts."""
        with self._changed:
            self._closed = True
            self._wanted.clear()
            self._changed.notify_all()

    def _work(self) -> None:
        """Draw one draft of each visitor in turn, until nobody wants any."""
        resting = 0  # visitors in a row for whom nothing could be done now
        while True:
            with self._changed:
                if resting and resting >= len(self._wanted):
                    self._changed.wait(PATIENCE)
                    resting = 0
                if not self._wanted:
                    self._thread = self._person = None
                    return
                owner = next(iter(self._wanted))
                self._wanted.move_to_end(owner)
                key, wish = self._wanted[owner]
            state = self._try_one(key, owner)
            resting = resting + 1 if state == "resting" else 0
            with self._changed:
                if state == "done" and self._wanted.get(owner) == (key, wish):
                    del self._wanted[owner]

    def _try_one(self, key: str, owner: str) -> str:
        """ "drawn", "resting" (not now) or "done" (nothing more to draw)."""
        try:
            session = self.sessions.find(key)
            look = self.next_look(session)
            if look is None or self.jobs.active(owner) is not None:
                return "done"
            if session.drafts and look not in session.looks and not self.jobs.idle:
                return "resting"
            self._draw(key, session, look)
        except Problem as problem:  # deleted meanwhile, or no face in the photos
            self._problems[owner] = problem
            return "done"
        except Exception:
            log.exception("drafts failed")
            return "done"
        return "drawn"

    def _draw(self, key: str, session: Session, look: str) -> None:
        """Draw a look's draft and keep it, unless what it is made of changes meanwhile."""
        from magicapture_core.evaluation.lightness import shows_lighter
        from magicapture_core.generation import draft

        made_of = self.made_of(session, look)

        def progress(*_: object) -> None:
            now = self.sessions.find(key)
            if self.made_of(now, look) != made_of or self.jobs.active(now.id) is not None or self._closed:
                raise StoppedError

        facts = self.facts(session)
        models, analyser = self._model(facts.name), self.photos.analyser()[0]
        person, style = self._person_of(session, models), self._style_of(session, look, models)
        drafts = draft(
            models, person, style, _config(look, facts), analyser=analyser, noun=session.words or "person",
            progress=progress,
        )  # fmt: skip
        with closing(drafts):
            for portrait in drafts:
                with self.photos.face_networks:
                    lighter = shows_lighter(portrait.image, person, style, analyser)
                self._keep(key, look, made_of, portrait, bool(lighter))

    def _model(self, name: str) -> ModelBundle:
        from magicapture_core.models import load

        with self._loading:
            if self._loaded is None or self._loaded[0] != name:
                self._loaded = None
                # A lent GPU's minutes are for portraits and trainings.
                self._loaded = (name, load(name, device="cpu" if lending() else None))
            return self._loaded[1]

    def _person_of(self, session: Session, models: ModelBundle) -> Concept:
        """The person's photos, cut; those of the visitor whose turn it was last are kept until all drafts are made."""
        photos = " ".join(photo.id for photo in session.usable("subject"))
        source, before = f"{models.name} {photos}", self._person
        if before is not None and before[0] == source:
            return before[1]
        concept = self.masks.concept(session, "subject", models.resolution, models.framing)
        self._person = source, concept
        return concept

    def _style_of(self, session: Session, look: str, models: ModelBundle) -> Concept:
        """A look's photos, cut; those of a ready-made look are kept, small, for every visitor after."""
        if look == OWN:
            return self.masks.concept(session, "style", models.resolution, models.framing, OWN)
        kept = self._looks.get((models.name, look))
        if kept is None:
            kept = self._looks[models.name, look] = self._ready(look, models)
        return kept

    def _ready(self, look: str, models: ModelBundle) -> Concept:
        from torch.nn.functional import adaptive_avg_pool2d

        from magicapture_core.concepts import prepare_concept
        from magicapture_core.photos import read_photo
        from magicapture_core.presets import load_preset

        with self.photos.face_networks:
            concept = prepare_concept(
                [read_photo(path) for path in load_preset(look).photos], "style", resolution=models.resolution,
                analyser=self.photos.analyser()[0], framing=models.framing,
            )  # fmt: skip
        side = min(SMALL_SIDE, models.resolution)
        return replace(concept, examples=tuple(
            replace(example, image=adaptive_avg_pool2d(example.image, side), masks=example.masks.at(side, side))
            for example in concept.examples
        ))  # fmt: skip

    def _keep(self, key: str, look: str, made_of: str | None, portrait: Portrait, lighter: bool) -> None:
        with self.sessions.changing(key) as session:
            if made_of is None or self.made_of(session, look) != made_of:
                return
            path = session.new_shown(".jpg")
            portrait.save(path)
            session.drafts.append(
                StoredDraft(str(path), portrait.seed, portrait.identity, look, made_of, lighter)
            )

    def _holds(self, session: Session, draft: StoredDraft) -> bool:
        return draft.made_of == self.made_of(session, draft.look)


def _config(look: str, facts: ModelFacts) -> GenerateConfig:
    values = {**facts.generate, "count": 1, "seed": SEED, "pictures_per_call": 1}
    if look != OWN:
        from magicapture_core.presets import load_preset

        preset = load_preset(look)
        values |= {"prompt": preset.prompts[0], "negative_prompt": preset.negative_prompt}
    return from_dict(GenerateConfig, values)


def _drop(session: Session, draft: StoredDraft) -> None:
    """Remove a draft from the disk. The caller has the session locked."""
    Path(draft.picture).unlink(missing_ok=True)
    session.drafts.remove(draft)
