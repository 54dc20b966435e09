"""What goes to the device before a step and comes back after it: a copy each, and nothing waits for the first."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from magicapture_core.models.placeholders import token_positions
from magicapture_core.prompts import Task
from magicapture_core.training.draws import StepDraw, TaskDraw

ALIGNED = 16
"""Bytes; every tensor in the copy begins at a multiple, which suits all dtypes."""


@dataclass(frozen=True)
class Sent:
    """What one optimizer step computes with, on the device. Nothing of it has to be read back."""

    draw: StepDraw
    """`prompts` are rows of `input_ids` here."""
    input_ids: Tensor
    """(p, tokens): each prompt of the step once."""
    positions: Tensor
    """(p, 2) where [V1] and [V2] stand in them, -1 where they do not."""
    places: tuple[int, ...]
    """The style photo of each of Eq. 7's items, for the host, which decides by it how a face is sampled."""

    def part(self, where: slice) -> Sent:
        """The items `where` of every task."""
        return replace(self, draw=self.draw.part(where), places=self.places[where])


def sent(
    draw: StepDraw, prompt_ids: dict[Task, Tensor], token_ids: tuple[int, int], device: torch.device
) -> Sent:
    """The draw on `device`. prompt_ids: each task's tokenized templates, on the CPU as the draw is."""
    ids = torch.cat([prompt_ids[task.task][task.prompts] for task in draw.tasks])
    unique, inverse = ids.unique(dim=0, return_inverse=True)
    rows = dict(zip((task.task for task in draw.tasks), inverse.chunk(len(draw.tasks)), strict=True))
    drawn = [*draw.tasks, *([draw.identity] if draw.identity is not None else [])]
    tensors = [part for each in drawn for part in (each.items, rows[each.task], each.timesteps, each.noise)]
    tensors += [unique, token_positions(unique, token_ids)]
    if draw.compared_with is not None:
        tensors.append(draw.compared_with)
    moved = iter(in_one_copy(tensors, device))
    there = [_moved(each, moved) for each in drawn]
    input_ids, positions = next(moved), next(moved)
    identity = there.pop() if draw.identity is not None else None
    places = tuple(draw.identity.items.tolist()) if draw.identity is not None else ()
    return Sent(StepDraw(tuple(there), identity, next(moved, None)), input_ids, positions, places)


def _moved(draw: TaskDraw, tensors: Iterator[Tensor]) -> TaskDraw:
    items, prompts, timesteps, noise = (next(tensors) for _ in range(4))
    return replace(draw, items=items, prompts=prompts, timesteps=timesteps, noise=noise)


def in_one_copy(tensors: Sequence[Tensor], device: torch.device) -> list[Tensor]:
    """CPU tensors on `device`, in the order given; from pinned memory to a CUDA GPU, so that the host goes on."""
    if device.type != "cuda":
        return [tensor.to(device) for tensor in tensors]
    return unpacked(packed(tensors, pinned=True).to(device, non_blocking=True), tensors)


def packed(tensors: Sequence[Tensor], *, pinned: bool = False) -> Tensor:
    """All bytes of CPU tensors in one tensor of bytes."""
    whole = torch.empty(_ends(tensors)[-1], dtype=torch.uint8, pin_memory=pinned)
    for tensor, start in zip(tensors, _ends(tensors), strict=False):
        whole[start : start + tensor.nbytes].copy_(tensor.contiguous().view(-1).view(torch.uint8))
    return whole


def unpacked(whole: Tensor, like: Sequence[Tensor]) -> list[Tensor]:
    """The tensors that `packed` took, as views of `whole`. like: of the same shapes and dtypes."""
    starts = zip(like, _ends(like), strict=False)
    return [whole[start : start + each.nbytes].view(each.dtype).view(each.shape) for each, start in starts]


def _ends(tensors: Sequence[Tensor]) -> list[int]:
    """Where each begins, and where the last one ends."""
    ends = [0]
    for tensor in tensors:
        ends.append(-(-(ends[-1] + tensor.nbytes) // ALIGNED) * ALIGNED)
    return ends


class Arrival:
    """A few numbers on their way to the host. Asking for them waits; nothing else does."""

    def __init__(self, numbers: Tensor) -> None:
        """numbers: (n,) on any device."""
        self._numbers = numbers.detach()
        if numbers.device.type == "cuda":
            pinned = torch.empty(numbers.shape, dtype=numbers.dtype, pin_memory=True)
            self._numbers = pinned.copy_(self._numbers, non_blocking=True)
        self._there = Mark(numbers.device)
        self._values: list[float] | None = None

    def values(self) -> list[float]:
        """The numbers."""
        if self._values is None:
            self._there.wait()
            self._values = self._numbers.tolist()
        return self._values


class Mark:
    """A moment in a device's work: on CUDA, when all that was launched before is done."""

    def __init__(self, device: torch.device) -> None:
        self.moment = time.monotonic()
        self.event: torch.cuda.Event | None = None
        if device.type == "cuda":
            self.event = torch.cuda.Event(enable_timing=True)
            self.event.record(torch.cuda.current_stream(device))

    def wait(self) -> None:
        """Until that moment."""
        if self.event is not None:
            self.event.synchronize()

    def since(self, earlier: Mark) -> float:
        """Seconds from `earlier` on; waits for this one."""
        if self.event is None or earlier.event is None:
            return self.moment - earlier.moment
        self.wait()
        return earlier.event.elapsed_time(self.event) / 1000
