"""Comparisons of strengths as jobs: which checkpoint and strength of a run gives the best likeness and style."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from magicapture_core.checkpoints import Run
from magicapture_core.problems import Problem
from magicapture_core.ui.jobs import Job, Stream
from magicapture_core.ui.lent_gpu import lending
from magicapture_core.ui.likeness import in_words
from magicapture_core.ui.session_jobs import SessionJobs
from magicapture_core.ui.stored_session import Session, StoredRun

if TYPE_CHECKING:
    from magicapture_core.evaluation.choose import Choice
    from magicapture_core.evaluation.judges import Judges

COMPARISON = "comparison of strengths"
STRENGTHS = (0.3, 0.7, 1.1)
"""So far from each other that pictures of one seed differ by 6 to 16 of 255 grey levels (`score_run` on the mini
model's quick schedule, dana in golden-hour; other seeds differ by 28). It took 25 s on one core."""
PICTURES = 3
"""For each strength: enough to see a difference, few enough for a minute on two CPU cores."""
TILE = 192
"""Pixels of a picture in the evidence."""


class ComparisonJobs(SessionJobs):
    """Compare a run's checkpoints and strengths, and take the best."""

    kind = COMPARISON

    def lacking(self, session: Session) -> str | None:
        """Why the chosen run cannot be compared, or None."""
        run = session.chosen_run()
        if run is None or not Run(session.run_folder(run)).checkpoints():
            return "There is no trained run yet. Go back to the step “Learn”."
        if run.settings.get("subject_kind") != "person":
            return "Only portraits of people can be compared, by their faces."
        if lending():
            return "A comparison needs a GPU for longer than this Space lends it."
        if run.fingerprint != session.fingerprint():
            return "Photos, masks or style were changed since this training, so there is nothing to compare with."
        return None

    def job(self, session: Session) -> Job | None:
        """The newest comparison since the server was started, if it is of the chosen run."""
        job = self.newest(session)
        return job if job is not None and job.about == session.run else None

    def start(self, key: str) -> Job:
        """Begin to compare the chosen run's checkpoints and strengths."""
        session = self.sessions.find(key)
        lacking, run = self.lacking(session), session.chosen_run()
        if lacking or run is None:
            raise Problem(lacking or "")
        self.sessions.check_room(session)
        return self._begin(key, run.id, self._stream, run)

    def adopt(self, key: str) -> Session:
        """Use the recommended checkpoint and strength from now on."""
        with self.sessions.changing(key) as session:
            if self.jobs.active(session.id) is not None:
                raise Problem("Something is still under way. Wait for it, or stop it first.")
            run = session.chosen_run()
            if run is None or run.choice is None:
                raise Problem("Nothing was compared yet. Press “Compare strengths” first.")
            Run.open(session.run_folder(run)).publish(run.choice["checkpoint"])
            run.adapter_scale = run.choice["scale"]
        return session

    def _stream(self, job: Job, key: str, run: StoredRun) -> Stream:
        from magicapture_core.evaluation.choose import recommend, score_run
        from magicapture_core.evaluation.judges import Judges

        session = self.sessions.find(key)
        folder = session.run_folder(run)
        models = self.models.load(run.model, job)
        photos = {
            role: [self.photos.read(session, photo) for photo in session.usable(role)]  # type: ignore[arg-type]
            for role in ("subject", "style")
        }
        judges = Judges.chosen(Run.open(folder).facts().likeness)
        used = [f"checkpoint-{Run.open(folder).best_step():06d}"]
        choices = []
        job.say("Drawing the same portraits at each strength")
        for choice in score_run(
            models, folder, photos["subject"], photos["style"], checkpoints=used, scales=STRENGTHS, pictures=PICTURES,
            judges=judges,
        ):  # fmt: skip
            choices.append(choice)
            job.say(f"Compared {len(choices)} of {len(STRENGTHS)}", len(choices) / len(STRENGTHS))
            yield f"Strength {choice.scale:g}: {in_words(choice.csim).lower()}, look {choice.style:.0%}"
        best = recommend(choices)
        with self.sessions.changing(key) as session:
            rows = [_stored(session, choice, run.settings) for choice in choices]
            for each in session.runs:
                if each.id == run.id:
                    for row in (each.choice or {}).get("rows", ()):
                        Path(row["picture"]).unlink(missing_ok=True)
                    each.choice = {
                        **rows[choices.index(best)], "rows": rows,
                        "judges": _judges_in_words(judges),
                    }  # fmt: skip


def _judges_in_words(judges: Judges) -> str:
    """What measured likeness and style, in words for everybody: no paths and no technical terms."""
    face, _, own = judges.faces.name.partition(" (")
    if own:  # the only one at hand
        face += ", also used in training, so optimistic"
    style = "colours, light and layout" if judges.images.name.startswith("statistics") else judges.images.name
    return f"Likeness by the face recognition {face}; the look by {style}."


def _stored(session: Session, choice: Choice, settings: dict[str, Any]) -> dict[str, Any]:
    """A choice as plain values, its pictures side by side as a shown file."""
    from magicapture_core.provenance import save_picture

    strip = Image.new("RGB", (TILE * len(choice.pictures), TILE))
    for number, picture in enumerate(choice.pictures):
        strip.paste(picture.convert("RGB").resize((TILE, TILE), Image.Resampling.LANCZOS), (TILE * number, 0))
    shown = session.new_shown(".jpg")
    save_picture(strip, shown, prompt=None, seed=None, settings={**settings, "adapter_scale": choice.scale})
    return {
        "checkpoint": choice.checkpoint,
        "step": int(choice.checkpoint.rpartition("-")[2]),
        "scale": choice.scale,
        "likeness": choice.csim,
        "style": choice.style,
        "picture": str(shown),
    }
