"""The run folder: what a training leaves on disk, and how it is found again.

RUN/config.json            settings, model, photos' digests
RUN/losses.jsonl           a row per optimizer step
RUN/attention.jsonl        how much of each token's attention falls outside its region, and how much it has
RUN/likeness.jsonl         likeness of the sample pictures to the person, a row per sample
RUN/identity.safetensors   embeddings of the subject's face ("mean", "photos")
RUN/attention/, samples/   pictures made along the way
RUN/checkpoint-NNNNNN/     everything needed to go on, bit for bit
RUN/adapter/               what diffusers loads
RUN/README.md              model card
RUN/training.lock          locked by the process that trains in this folder; its content is not used
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from magicapture_core.adapters.files import ADAPTER_FILES, FOLDER, copy_adapter
from magicapture_core.config import to_dict
from magicapture_core.files import atomic_file, atomic_folder, writing
from magicapture_core.languages import _
from magicapture_core.problems import RunProblem
from magicapture_core.run_facts import FREE_ON_RESUME, RunFacts, in_last_phase

CHECKPOINT = "checkpoint-"
"""What the name of a checkpoint's folder begins with; its step follows."""


@dataclass(frozen=True)
class Checkpoint:
    """Everything that decides how a run goes on."""

    step: int
    """Optimizer steps done, over both phases."""
    items_per_call: int
    """How the steps were split; another split gives the same gradient only up to rounding."""
    trainable: dict[str, Tensor]
    """The trained weights by name, fp32."""
    state: dict[str, Any]
    """State dicts of optimizer and learning rate, and the generator's state."""


@dataclass(frozen=True)
class Run:
    """One run folder."""

    folder: Path

    @classmethod
    def create(cls, folder: Path, facts: RunFacts) -> Run:
        """Make a new run folder. Raises RunProblem where one is already."""
        if (folder / "config.json").exists():
            raise RunProblem(_(
                "{folder} already holds a run. Resume it (--resume), or choose another folder for a new one.",
                folder=folder,
            ))  # fmt: skip
        run = cls(folder)
        run._write_facts(facts)
        return run

    @classmethod
    def open(cls, folder: Path | str) -> Run:
        """Open an existing run folder. Raises RunProblem if it has no config.json."""
        folder = Path(folder)
        if not (folder / "config.json").is_file():
            raise RunProblem(_(
                "No run in {folder}: it has no config.json. Give the folder that training wrote (its --out).",
                folder=folder,
            ))  # fmt: skip
        return cls(folder)

    @classmethod
    @contextmanager
    def claimed(cls, folder: Path) -> Iterator[None]:
        """Lock `folder` for training; it is made if necessary. Raises RunProblem if it is locked already.

        This is the operating system's file lock: it is released when the process ends, also after a crash.
        """
        if folder.exists() and not folder.is_dir():
            raise RunProblem(
                _("{folder} is a file; expected a folder for the run. Choose another name.", folder=folder)
            )
        # Not bound to a thread: a generator may be closed in another one than it was begun in.
        lock = FileLock(folder / "training.lock", timeout=0, thread_local=False)
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
            try:
                lock.acquire()
            except Timeout as error:
                raise RunProblem(_(
                    "{folder} is being trained already, by this or another program. Wait until that has ended, "
                    "or stop it first; then resume. For a new training choose another folder.",
                    folder=folder,
                )) from error  # fmt: skip
        try:
            yield
        finally:
            lock.release()

    @property
    def adapter(self) -> Path:
        """Folder that diffusers loads from."""
        return self.folder / FOLDER

    def facts(self) -> RunFacts:
        """What the run was started with. Raises RunProblem if config.json cannot be read."""
        path = self.folder / "config.json"
        try:
            values = json.loads(
                path.read_text(encoding="utf-8-sig")
            )  # Windows' Notepad writes a byte-order mark
        except (OSError, ValueError, RecursionError) as error:
            raise RunProblem(_unreadable(path, error)) from error
        if not isinstance(values, dict):
            raise RunProblem(_(
                "{path} must hold an object, got {type}. Start a new run.", path=path, type=type(values).__name__,
            ))  # fmt: skip
        return RunFacts.from_dict(values)

    def go_on_with(self, facts: RunFacts) -> None:
        """Take over what may differ when a run goes on: FREE_ON_RESUME. `check_same` says whether it may."""
        before = self.facts()
        free = {name: getattr(facts.config, name) for name in FREE_ON_RESUME}
        self._write_facts(replace(before, config=replace(before.config, **free)))

    def _write_facts(self, facts: RunFacts) -> None:
        with atomic_file(self.folder / "config.json") as path:
            path.write_text(json.dumps(facts.as_dict(), indent=2) + "\n", encoding="utf-8")

    def check_same(self, facts: RunFacts) -> None:
        """Raise RunProblem that names what differs, unless the run may go on with `facts`."""
        before, now = self.facts(), facts
        old, new = to_dict(before.config), to_dict(now.config)
        differing = [
            _("{name} was {old}, now {new}", name=name, old=repr(old[name]), new=repr(new[name]))
            for name in new
            if name not in FREE_ON_RESUME and old[name] != new[name]
        ]
        if before.model_fingerprint != now.model_fingerprint:
            differing.append(
                _("the model was {before}, now {now} (other weights)", before=before.model, now=now.model)
            )
        if before.likeness != now.likeness:
            differing.append(_(
                "likeness was judged by {before}, now by {now} (--faces)", before=before.likeness, now=now.likeness,
            ))  # fmt: skip
        if before.subject != now.subject:
            differing.append(_("the subject photos or their masks changed"))
        if before.style != now.style:
            differing.append(_("the style photos or their masks changed"))
        if differing:
            raise RunProblem(_(
                "{folder} cannot be resumed: {reasons}. Resume with the same settings and photos, or start a new "
                "run in another folder.",
                folder=self.folder, reasons="; ".join(differing),
            ))  # fmt: skip

    # --- what was measured on the way -------------------------------------------------------------

    def append_losses(self, row: Mapping[str, Any]) -> None:
        """Add one row to losses.jsonl. Raises RunProblem if the disk is full."""
        self._append("losses.jsonl", row)

    def append_attention(self, row: Mapping[str, Any]) -> None:
        """Add one row to attention.jsonl: step, task, token, the share of its attention outside its region, and its
        mean."""
        self._append("attention.jsonl", row)

    def append_likeness(self, row: Mapping[str, Any]) -> None:
        """Add one row to likeness.jsonl: step, and the mean cosine of its sample pictures to the person."""
        self._append("likeness.jsonl", row)

    def losses(self) -> list[dict[str, Any]]:
        """The rows so far; a line that a killed program left unfinished is dropped."""
        return self._rows("losses.jsonl")

    def attention(self) -> list[dict[str, Any]]:
        """The rows of attention.jsonl so far."""
        return self._rows("attention.jsonl")

    def likeness(self) -> list[dict[str, Any]]:
        """The rows of likeness.jsonl so far."""
        return self._rows("likeness.jsonl")

    def best_step(self) -> int | None:
        """The step whose checkpoint is used: of the highest likeness, where the run keeps that; else the newest one.

        None before the first checkpoint.
        """
        config = self.facts().config
        saved = [int(path.name.removeprefix(CHECKPOINT)) for path in self.checkpoints()]
        rows = [row for row in self.likeness() if row["step"] in saved and in_last_phase(row["step"], config)]
        if config.keep_best and rows:
            return int(max(rows, key=lambda row: (row["likeness"], row["step"]))["step"])
        return saved[-1] if saved else None

    def rewind(self, step: int) -> None:
        """Drop the rows after `step`: a resumed run computes them again."""
        for name in ("losses.jsonl", "attention.jsonl", "likeness.jsonl"):
            kept = [row for row in self._rows(name) if row["step"] <= step]
            with atomic_file(self.folder / name) as path:
                path.write_text("".join(json.dumps(row) + "\n" for row in kept), encoding="utf-8")

    def _append(self, name: str, row: Mapping[str, Any]) -> None:
        path = self.folder / name
        with writing(path), path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")

    def _rows(self, name: str) -> list[dict[str, Any]]:
        path = self.folder / name
        rows = []
        for line in path.read_text(encoding="utf-8-sig").splitlines() if path.exists() else []:
            try:
                row = json.loads(line)
            except ValueError:
                break  # cut off by a kill
            if not isinstance(row, dict) or type(row.get("step")) is not int:
                break  # edited by hand
            rows.append(row)
        return rows

    # --- checkpoints ------------------------------------------------------------------------------

    def checkpoints(self) -> list[Path]:
        """Checkpoint folders, oldest first. A copy that somebody made beside them, by another name, is none."""
        return sorted(
            path
            for path in self.folder.glob(f"{CHECKPOINT}*")
            if path.is_dir() and re.fullmatch(r"[0-9]+", path.name.removeprefix(CHECKPOINT))
        )

    def save_checkpoint(
        self, checkpoint: Checkpoint, write_adapter: Callable[[Path], None], keep: int
    ) -> Path:
        """Write a checkpoint and bring adapter/ up to date; the `keep` newest checkpoints stay, and the one in use.

        write_adapter puts the files of ADAPTER_FILES that exist so far into the folder it is given.
        """
        path = self.folder / f"{CHECKPOINT}{checkpoint.step:06d}"
        with atomic_folder(path) as folder:
            save_file(checkpoint.trainable, folder / "trainable.safetensors")
            with (folder / "state.pt").open("wb") as file:  # given a path, torch hides why the system refuses
                torch.save(checkpoint.state, file)
            position = {"step": checkpoint.step, "items_per_call": checkpoint.items_per_call}
            (folder / "position.json").write_text(json.dumps(position), encoding="utf-8")
            write_adapter(folder)
        used = self._publish_best()
        for old in [each for each in self.checkpoints()[:-keep] if each != used]:
            # Renamed first: a half-deleted folder must not be taken for a checkpoint.
            doomed = old.with_name(f".{old.name}.old")
            old.rename(doomed)
            shutil.rmtree(doomed, ignore_errors=True)
        return path

    def publish_best(self) -> None:
        """Repair what a killed program left: adapter/ as in the checkpoint in use, temporary folders deleted."""
        for leftover in self.folder.glob(".checkpoint-*"):
            shutil.rmtree(leftover, ignore_errors=True)
        self._publish_best()

    def _publish_best(self) -> Path | None:
        """Let adapter/ hold the checkpoint of `best_step`. Returns that checkpoint, if there is one."""
        step = self.best_step()
        if step is None:
            return None
        path = self.folder / f"{CHECKPOINT}{step:06d}"
        self._publish(path)
        return path

    def publish(self, checkpoint: str) -> None:
        """Copy a checkpoint's adapter files into adapter/. Raises RunProblem if there is no checkpoint of that name."""
        found = next((path for path in self.checkpoints() if path.name == checkpoint), None)
        if found is None:
            raise RunProblem(_(
                "{folder} no longer has {checkpoint}. Choose another one.",
                folder=self.folder, checkpoint=checkpoint,
            ))  # fmt: skip
        self._publish(found)

    def _publish(self, checkpoint: Path) -> None:
        """Make adapter/ hold exactly a checkpoint's adapter files. In phase 1 these are the embeddings alone."""
        published = {path.name for path in copy_adapter(checkpoint, self.adapter)}
        for name in set(ADAPTER_FILES) - published:
            (self.adapter / name).unlink(missing_ok=True)

    def load_checkpoint(self) -> Checkpoint | None:
        """The newest whole checkpoint, or None. Raises RunProblem if it was damaged."""
        found = self.checkpoints()
        if not found:
            return None
        path = found[-1]
        try:
            position = json.loads((path / "position.json").read_text(encoding="utf-8-sig"))
            return Checkpoint(
                int(position["step"]),
                int(position["items_per_call"]),
                load_file(path / "trainable.safetensors"),
                # The optimizer moves its state to the weights' device, which may be another one than it was.
                torch.load(path / "state.pt", weights_only=True, map_location="cpu"),
            )
        except (OSError, ValueError, KeyError, RuntimeError, EOFError, SafetensorError) as error:
            raise RunProblem(_(
                "{path} cannot be read: {error}. Delete that folder to go on from an older checkpoint.",
                path=path, error=error,
            )) from error  # fmt: skip
        except Exception as error:
            raise RunProblem(_(
                "{path} is damaged ({error}). Delete that checkpoint's folder to go on from an older one.",
                path=path / "state.pt", error=type(error).__name__,
            )) from error  # fmt: skip

    # --- who the subject is -----------------------------------------------------------------------

    def save_identity(self, photos: Tensor, embedder: str) -> None:
        """Keep the subject's face embeddings (n, dim), for scoring portraits later."""
        mean = torch.nn.functional.normalize(photos.mean(0), dim=0)
        with atomic_file(self.folder / "identity.safetensors") as path:
            tensors = {"mean": mean.cpu().contiguous(), "photos": photos.cpu().contiguous()}
            save_file(tensors, path, metadata={"embedder": embedder})

    def identity(self) -> tuple[Tensor, str] | None:
        """The subject's mean embedding (dim,) and its network's name; None for an object. RunProblem if damaged."""
        path = self.folder / "identity.safetensors"
        if not path.exists():
            return None
        try:
            with safe_open(path, framework="pt") as file:
                return file.get_tensor("mean"), (file.metadata() or {})["embedder"]
        except (SafetensorError, KeyError, OSError) as error:
            raise RunProblem(_unreadable(path, error)) from error


def _unreadable(path: Path, error: Exception) -> str:
    return _("{path} cannot be read: {error}. Start a new run.", path=path, error=error)
