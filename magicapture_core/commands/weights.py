"""python -m magicapture_core weights: list, download and verify weight files."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import tyro
from rich.markup import escape

from magicapture_core.commands.console import BAD_INPUT, DONE, console
from magicapture_core.problems import Problem
from magicapture_core.progress import Progress

if TYPE_CHECKING:
    from rich.progress import Progress as ProgressBar
    from rich.progress import TaskID


@dataclass
class Weights:
    """List, get or verify the weight files that MagiCapture can use."""

    action: tyro.conf.Positional[Literal["list", "get", "verify"]]
    """list: all files, with licence, and whether they are on this computer. get: download. verify: compare with the
    published sha256 sums."""
    names: tyro.conf.Positional[tuple[str, ...]] = ()
    """Names of weight files, as in list. For verify, no name means all files on this computer."""

    def run(self) -> int:
        """get exits 1 if a file cannot be downloaded, verify if one is missing or differs from the published one."""
        return {"list": self._list, "get": self._get, "verify": self._verify}[self.action]()

    def _list(self) -> int:
        from magicapture_core.weights import WEIGHTS, find_weight, weight, weights_dir

        console.print(f"Folder: {escape(str(weights_dir()))}", soft_wrap=True)
        for name in self.names or WEIGHTS:
            entry, path = weight(name), find_weight(name)
            where = f"[green]here[/]: {escape(str(path))}" if path else "[yellow]not here[/]"
            console.print(f"\n[bold]{name}[/]  {entry.readable_size}  {where}", soft_wrap=True)
            for line in (entry.purpose, f"Licence: {entry.licence}", f"From: {entry.url}"):
                console.print(f"  {escape(line)}", soft_wrap=True)
        return DONE

    def _get(self) -> int:
        from rich.progress import DownloadColumn, TextColumn, TransferSpeedColumn
        from rich.progress import Progress as ProgressBar

        from magicapture_core.weights import WEIGHTS, fetch_weight, weight

        if not self.names:
            raise Problem(f"Say which weight files to get. Known: {', '.join(WEIGHTS)}.")
        entries = [weight(name) for name in self.names]  # reports a wrong name before anything is downloaded
        for entry in entries:
            columns = (TextColumn("{task.description}"), DownloadColumn(), TransferSpeedColumn())
            with ProgressBar(*columns, console=console, transient=True) as bar:
                task = bar.add_task(entry.filename, total=entry.size)
                path = fetch_weight(entry.name, _follower(bar, task))
            console.print(f"{escape(str(path))}  Licence: {escape(entry.licence)}", soft_wrap=True)
        return DONE

    def _verify(self) -> int:
        from magicapture_core.weights import WEIGHTS, find_weight, verify_weight

        wrong = 0
        names = self.names or tuple(name for name in WEIGHTS if find_weight(name))
        for name in names:
            path, same = find_weight(name), verify_weight(name)
            if path is None:
                word = "[red]not here[/]"
            elif same is None:
                word = f"[yellow]not the published file, so there is no sum to compare with[/]: {escape(str(path))}"
            else:
                word = (
                    f"[green]as published[/]: {path}"
                    if same
                    else f"[red]differs from what was published[/]: {path}"
                )
            wrong += path is None or same is False
            console.print(f"{name}: {word}", soft_wrap=True)
        if not names:
            console.print("No weight file is here yet.")
        return BAD_INPUT if wrong else DONE


def _follower(bar: ProgressBar, task: TaskID) -> Progress:
    return lambda _what, done, total: bar.update(task, completed=done, total=total)
