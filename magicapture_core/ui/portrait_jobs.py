"""Portraits of a session as jobs, made with a trained run."""

from __future__ import annotations

import dataclasses
import math
import re
import secrets
from contextlib import closing, suppress
from typing import Any

from magicapture_core.config import GenerateConfig, from_dict
from magicapture_core.languages import N_, _
from magicapture_core.problems import Problem
from magicapture_core.progress import StoppedError, share
from magicapture_core.ui.jobs import Job, Stream
from magicapture_core.ui.lent_gpu import Loan, Told, drawing_seconds, portraits_at_once
from magicapture_core.ui.session_jobs import Parts, SlicedJobs
from magicapture_core.ui.session_runs import not_ready
from magicapture_core.ui.stored_session import Session, StoredRun

PORTRAITS = N_("portrait making")
MOST_PORTRAITS = 32
DULL_WORDS = {"a", "an", "the", "of", "in", "on", "and", "with", "at", "to"}


class PortraitJobs(SlicedJobs):
    """Make portraits with a session's chosen run; what is asked of a slice is how many, and how."""

    kind = PORTRAITS

    def __init__(self, parts: Parts) -> None:
        super().__init__(parts)
        self._asked: dict[str, int] = {}
        """Session id → how many portraits its newest job makes."""

    def start(self, key: str, config: GenerateConfig) -> Job:
        """Begin making portraits with the chosen run."""
        session = self.sessions.find(key)
        self.jobs.refuse_if_busy(session.id)
        run = session.chosen_run()
        lacking = not_ready(session, run)
        if lacking or run is None:
            raise Problem(lacking or "")
        self.sessions.check_room(session)
        if config.count > MOST_PORTRAITS:
            raise Problem(
                _("At most {most} portraits at a time, got {count}.", most=MOST_PORTRAITS, count=config.count)
            )
        from magicapture_core.prompts import expand

        expand(config.prompt)  # a misspelt placeholder is told at once, not after loading a model
        expand(config.negative_prompt, negative=True)
        config = with_words(config)
        self.portraits.forget_removed(key)
        batch = 1 + max((portrait.batch for portrait in session.portraits), default=0)
        job = self._begin(key, run.id, self._stream, run, config, batch)
        self._asked[session.id] = config.count
        return job

    def near(self, key: str, portrait_id: str, count: int) -> Job:
        """Begin to make portraits that resemble an earlier one of the chosen run."""
        session = self.sessions.find(key)
        portrait = self.portraits.of(session, portrait_id)
        kept = (
            "negative_prompt", "steps", "guidance_scale", "adapter_scale", "adapter_start", "scheduler", "width",
            "height",
        )  # fmt: skip
        values = {name: portrait.settings[name] for name in kept if name in portrait.settings}
        near = [*portrait.settings.get("near", ()), portrait.seed]
        return self.start(
            key, generate_config({**values, "prompt": portrait.prompt, "count": count, "near": near})
        )

    def coming(self, session: Session) -> int:
        """How many portraits are still to come."""
        job = self.newest(session)
        if job is None or not job.active:
            return 0
        return max(0, self._asked.get(session.id, 0) - len(job.snapshot().reports))

    def _stream(self, job: Job, key: str, run: StoredRun, config: GenerateConfig, batch: int) -> Stream:
        try:
            with closing(self._reports(job, key, run, config)) as portraits:
                for portrait in portraits:
                    yield self.portraits.keep(key, run, portrait, batch)
        finally:
            with suppress(Problem):  # the session was deleted meanwhile
                self.portraits.pack(key, run)

    def _in_one_go(self, job: Told, key: str, run: StoredRun, asked: GenerateConfig) -> Stream:
        from magicapture_core.generation import generate

        models = self.models.load(run.model, job)
        if job.stopping:
            return
        if asked.pictures_per_call is None and models.device.type == "cpu":
            # Four at once take as long as one after the other there, and the first would come last.
            asked = dataclasses.replace(asked, pictures_per_call=1)
        analyser = self.photos.analyser()[0] if run.settings.get("subject_kind") == "person" else None

        def progress(_what: str, done: float, total: float | None) -> None:
            job.say(_("Drawing"), share(done, total))
            if job.stopping:
                raise StoppedError

        folder = self.sessions.find(key).run_folder(run)
        yield from generate(models, folder, asked, analyser=analyser, progress=progress)

    def _in_slices(self, job: Told, key: str, run: StoredRun, asked: GenerateConfig) -> Stream:
        """A few portraits for each loan."""
        self.models.fetch(run.model, job)
        first = secrets.randbelow(2**32) if asked.seed is None else asked.seed
        standing = self.models.stands(run.model)
        at_once = portraits_at_once(asked.steps, standing=standing)
        done = 0
        while done < asked.count:
            job.say(_("Drawing on the Space's GPU"), done / asked.count)
            few = min(at_once, asked.count - done)
            part = dataclasses.replace(asked, seed=first + done, count=few)
            before = done
            for portrait in self._one_loan(
                key, run, part, drawing_seconds(few, asked.steps, standing=standing)
            ):
                done += 1
                yield portrait
            if done == before:
                return

    def _slice(self, flag: str, seconds: int, key: str, run_id: str, asked: GenerateConfig) -> Stream:
        """Draw what is asked of this loan, or what fits into it."""
        run = self._run(key, run_id)
        fit = portraits_at_once(asked.steps, seconds, standing=self.models.stands(run.model))
        few = dataclasses.replace(asked, count=min(asked.count, fit))
        yield from self._in_one_go(Loan(flag, seconds), key, run, few)


def with_words(config: GenerateConfig) -> GenerateConfig:
    """The config, listening to every word of its prompt that means something."""
    from magicapture_core.prompts import weighed

    if config.width != config.height:
        return config  # maps are made of squares only
    found = re.findall(r"\{\w+\}|[^\W_]+(?:['’-][^\W_]+)*", weighed(config.prompt)[0])
    words = [word for word in dict.fromkeys(found) if word.lower() not in DULL_WORDS and len(word) <= 60]
    return dataclasses.replace(config, attention_words=tuple(words[:16]))


def generate_config(values: dict[str, Any]) -> GenerateConfig:
    """From plain values of a form, where numbers may have come as floats."""
    whole = {"count", "seed", "steps", "width", "height"}
    tidy = {
        name: int(value) if name in whole and isinstance(value, float) and math.isfinite(value) else value
        for name, value in values.items()
    }
    return from_dict(GenerateConfig, tidy)
