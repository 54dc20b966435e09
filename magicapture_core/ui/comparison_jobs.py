"""Comparisons of strengths as jobs: which checkpoint and strength of a run gives the best likeness and style."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from magicapture_core.checkpoints import Run
from magicapture_core.languages import N_, _
from magicapture_core.problems import Problem
from magicapture_core.ui.cards import LIKENESS
from magicapture_core.ui.jobs import Job, Stream
from magicapture_core.ui.lent_gpu import lending
from magicapture_core.ui.session_jobs import SessionJobs
from magicapture_core.ui.stored_session import Session, StoredRun

if TYPE_CHECKING:
    from magicapture_core.evaluation.choose import Choice
    from magicapture_core.evaluation.judges import Judges
    from magicapture_core.photos import Photo

COMPARISON = N_("comparison of strengths")
STRENGTHS = (0.3, 0.7, 1.1)
"""So far from each other that pictures of one seed differ by 10 to 19 of 255 grey levels (three seeds of dana in
golden-hour, by the mini model's quick schedule; other seeds differ by 12). It took 25 s on one core."""
PICTURES = 3
"""For each strength: enough to see a difference, few enough for a minute on two CPU cores."""
COMPARED = (
    N_("Strength {scale}: strong likeness ({likeness}), look {look}"),
    N_("Strength {scale}: fair likeness ({likeness}), look {look}"),
    N_("Strength {scale}: weak likeness ({likeness}), look {look}"),
)
"""What is said of a strength: a sentence for each level of LIKENESS, and last the one for less."""
TILE = 192
"""Pixels of a picture in the evidence."""


class ComparisonJobs(SessionJobs):
    """Compare a run's checkpoints and strengths, and take the best."""

    kind = COMPARISON

    def lacking(self, session: Session) -> str | None:
        """Why the chosen run cannot be compared, or None."""
        run = session.chosen_run()
        if run is None or not Run(session.run_folder(run)).checkpoints():
            return _("There is no trained run yet. Go back to the step “Learn”.")
        if run.settings.get("subject_kind") != "person":
            return _("Only portraits of people can be compared, by their faces.")
        if lending():
            return _("A comparison needs a GPU for longer than this Space lends it.")
        if run.fingerprint != session.fingerprint(run.look):
            return _(
                "Photos, masks or style were changed since this training, so there is nothing to compare with."
            )
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
                raise Problem(_("Something is still under way. Wait for it, or stop it first."))
            run = session.chosen_run()
            if run is None or run.choice is None:
                raise Problem(_("Nothing was compared yet. Press “Compare strengths” first."))
            Run.open(session.run_folder(run)).publish(run.choice["checkpoint"])
            run.adapter_scale = run.choice["scale"]
        return session

    def photos_of(self, session: Session, run: StoredRun) -> dict[str, list[Photo]]:
        """What a run's portraits are compared with, by role: the person's photos, and those of the run's look."""
        return {
            role: [self.photos.read(session, photo) for photo in session.usable(role, run.look)]  # type: ignore[arg-type]
            for role in ("subject", "style")
        }

    def _stream(self, job: Job, key: str, run: StoredRun) -> Stream:
        from magicapture_core.evaluation.choose import recommend, score_run
        from magicapture_core.evaluation.judges import Judges

        session = self.sessions.find(key)
        folder = session.run_folder(run)
        models = self.models.load(run.model, job)
        photos = self.photos_of(session, run)
        judges = Judges.chosen(Run.open(folder).facts().likeness)
        used = [f"checkpoint-{Run.open(folder).best_step():06d}"]
        choices = []
        job.say(_("Drawing the same portraits at each strength"))
        for choice in score_run(
            models, folder, photos["subject"], photos["style"], checkpoints=used, scales=STRENGTHS, pictures=PICTURES,
            judges=judges,
        ):  # fmt: skip
            choices.append(choice)
            done = len(choices)
            job.say(_("Compared {n} of {all}", n=done, all=len(STRENGTHS)), done / len(STRENGTHS))
            yield strength_in_words(choice.scale, choice.csim, choice.style)
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


def strength_in_words(scale: float, likeness: float, style: float) -> str:
    """ "Strength 0.7: fair likeness (45), look 34%". likeness: a cosine by face recognition; style: up
    to 1. Below 0 either is shown as 0."""
    level = next((number for number, least in enumerate(LIKENESS) if likeness >= least), -1)
    number, look = max(round(100 * likeness), 0), max(round(100 * style), 0)
    return _(COMPARED[level], scale=f"{scale:g}", likeness=number, look=f"{look}%")


def _judges_in_words(judges: Judges) -> str:
    """What measured likeness and style, in words for everybody: no paths and no technical terms."""
    face, _bracket, own = judges.faces.name.partition(" (")
    look = judges.images.name
    if look.startswith("statistics"):
        return (
            _(
                "Likeness by the face recognition {face}, also used in training, so optimistic; the look by colours, "
                "light and layout.",
                face=face,
            )
            if own  # the only one at hand
            else _(
                "Likeness by the face recognition {face}; the look by colours, light and layout.", face=face
            )
        )
    return (
        _(
            "Likeness by the face recognition {face}, also used in training, so optimistic; the look by {look}.",
            face=face,
            look=look,
        )
        if own
        else _("Likeness by the face recognition {face}; the look by {look}.", face=face, look=look)
    )


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
