"""A small U-Net that learns from MediaPipe's measurements and then labels all faces on the device, in seconds.

Mask, five points, box, age, gender, smile and open jaw of 256 px faces, seen at 128 px.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tools.mini import stage
from tools.mini.clock import RunClock
from tools.mini.faces import FACES, Drawn
from tools.mini.measuring import AGE, BOX, MASCULINE, MASK_SIDE, MEASURED, NUMBERS, POINTS, SMILE
from tools.mini.settings import SIDE, Settings

MIDDLE = SIDE / 2
YEARS = (35.0, 12.0)
"""Mean and spread of ages, to bring them near to 0 and 1."""
MIRRORED_POINTS = [1, 0, 2, 4, 3]
"""Which point takes the place of which in a mirrored picture: eye, eye, nose, mouth corner, mouth corner."""
WEIGHTS = (4.0,) * 10 + (2.0,) * 4 + (1.0,) * 4
"""Of the 18 numbers in the loss: glasses are drawn at the points."""
LEARNING = 0.6
"""Share of the labels' time in which is learned; the rest is for labelling and embedding all faces."""
CHUNK = 256
TESTED = 20
"""One of so many measured faces is not learned from, to see how far off the labels are."""


def scaled(numbers: Tensor) -> Tensor:
    """The 18 numbers (b, 18) as the network tells them: pixels and years brought to about -1 to 1."""
    result = numbers.clone()
    result[:, : BOX.stop] = numbers[:, : BOX.stop] / MIDDLE - 1
    result[:, AGE] = (numbers[:, AGE] - YEARS[0]) / YEARS[1]
    return result


def unscaled(numbers: Tensor) -> Tensor:
    """The inverse of `scaled`."""
    result = numbers.clone()
    result[:, : BOX.stop] = (numbers[:, : BOX.stop] + 1) * MIDDLE
    result[:, AGE] = numbers[:, AGE] * YEARS[1] + YEARS[0]
    return result


def mirrored(numbers: Tensor) -> Tensor:
    """The 18 numbers (b, 18), in pixels, of the faces seen in a mirror: the column x becomes 255 - x."""
    result = numbers.clone()
    points = numbers[:, POINTS].reshape(-1, 5, 2)[:, MIRRORED_POINTS].clone()
    points[..., 0] = SIDE - 1 - points[..., 0]
    result[:, POINTS] = points.flatten(1)
    left, right = BOX.start, BOX.start + 2
    result[:, left], result[:, right] = SIDE - 1 - numbers[:, right], SIDE - 1 - numbers[:, left]
    return result


def _convolution(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, stride, 1), nn.GroupNorm(8, outputs), nn.SiLU())


class Labeller(nn.Module):
    """Pictures (b, 3, 128, 128) in [-1, 1] -> mask logits (b, 128, 128) and 18 numbers (b, 18), `scaled`."""

    def __init__(self, channels: tuple[int, ...]) -> None:
        """channels: of the levels, from 128 px down, halved each time."""
        super().__init__()
        downward = pairwise(channels)
        self.down = nn.ModuleList(
            [_convolution(3, channels[0])]
            + [nn.Sequential(_convolution(a, b, 2), _convolution(b, b)) for a, b in downward]
        )
        upward = zip(channels[:0:-1], channels[-2::-1], strict=True)
        self.up = nn.ModuleList([_convolution(below + skip, skip) for below, skip in upward])
        self.mask = nn.Conv2d(channels[0], 1, 1)
        smallest = MASK_SIDE >> (len(channels) - 1)
        self.numbers = nn.Sequential(
            nn.Flatten(), nn.Linear(channels[-1] * smallest**2, 512), nn.SiLU(), nn.Dropout(0.2),
            nn.Linear(512, NUMBERS),
        )  # fmt: skip

    def forward(self, pictures: Tensor) -> tuple[Tensor, Tensor]:
        levels, x = [], pictures
        for down in self.down:
            x = down(x)
            levels.append(x)
        numbers = self.numbers(x)
        for up, skip in zip(self.up, levels[-2::-1], strict=True):
            x = up(torch.cat([F.interpolate(x, scale_factor=2, mode="bilinear"), skip], dim=1))
        return self.mask(x)[:, 0], numbers


def small(faces: np.ndarray, device: torch.device) -> Tensor:
    """Faces (b, 256, 256, 3) uint8 -> (b, 3, 128, 128) float32 in [-1, 1]."""
    pixels = torch.from_numpy(np.array(faces)).to(device).permute(0, 3, 1, 2).float()
    return F.interpolate(pixels, size=(MASK_SIDE, MASK_SIDE), mode="area") / 127.5 - 1


def loss_of(made: tuple[Tensor, Tensor], masks: Tensor, numbers: Tensor) -> Tensor:
    """masks (b, 128, 128) 0..1; numbers (b, 18), `scaled`, NaN where unknown: those do not count."""
    known = ~numbers.isnan()
    off = F.smooth_l1_loss(made[1].float(), numbers.nan_to_num(), reduction="none", beta=0.05)
    weights = known * torch.tensor(WEIGHTS, device=off.device)
    return F.binary_cross_entropy_with_logits(made[0].float(), masks) + (off * weights).mean()


class Teaching:
    """One step of the labeller's training."""

    def __init__(
        self, network: Labeller, pictures: Tensor, masks: Tensor, numbers: Tensor, batch: int, seed: int
    ) -> None:
        """pictures (n, 3, 128, 128), masks (n, 128, 128) 0..1, numbers (n, 18) in pixels and years, NaN: unknown."""
        self.network, self.pictures, self.masks, self.numbers = network, pictures, masks, numbers
        self.batch, self.seed, self.device = batch, seed, pictures.device
        self.adam = torch.optim.AdamW(network.parameters(), 2e-3, weight_decay=0.02)

    def step(self, number: int, progress: float) -> dict[str, Tensor]:
        draws = stage.draws(self.device, self.seed, number)
        count = min(self.batch, len(self.pictures))
        chosen = torch.randint(len(self.pictures), (count,), generator=draws, device=self.device)
        pictures, masks, numbers = self.pictures[chosen], self.masks[chosen], self.numbers[chosen]
        flip = torch.rand(count, generator=draws, device=self.device) < 0.5
        pictures = torch.where(flip[:, None, None, None], pictures.flip(-1), pictures)
        masks = torch.where(flip[:, None, None], masks.flip(-1), masks)
        numbers = torch.where(flip[:, None], mirrored(numbers), numbers)
        shade = torch.rand(count, 4, 1, 1, generator=draws, device=self.device) - 0.5
        pictures = pictures * (1 + 0.2 * shade[:, :1]) + 0.2 * shade[:, 1:]
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type == "cuda"):
            made = self.network(pictures)
        loss = loss_of(made, masks, scaled(numbers))
        for group in self.adam.param_groups:
            group["lr"] = stage.learning_rate(2e-3, number, progress, 50, 0.2)
        self.adam.zero_grad()
        loss.backward()
        self.adam.step()
        return {"loss": loss.detach()}


def taught(settings: Settings, clock: RunClock, drawn: Drawn) -> Labeller:
    """The labeller, trained on what MediaPipe measured and on the manifest's ages and genders."""
    device = torch.device(settings.device)
    with np.load(settings.work / MEASURED) as measured:
        numbers, masks = measured["numbers"], measured["masks"]
    numbers[:, AGE], numbers[:, MASCULINE] = drawn.age[: len(numbers)], drawn.masculine[: len(numbers)]
    seen = np.flatnonzero(~np.isnan(numbers[:, 0]))
    if len(seen) == 0:
        raise SystemExit("MediaPipe sees no face in what was generated: is --generator what it should be?")
    faces = np.load(settings.work / FACES, mmap_mode="r")
    pictures = torch.cat([small(faces[seen[at : at + CHUNK]], device) for at in range(0, len(seen), CHUNK)])
    wanted = torch.from_numpy(numbers[seen]).to(device)
    soft = torch.from_numpy(masks[seen]).to(device).float() / 255
    tested = torch.arange(len(seen), device=device) % TESTED == TESTED - 1
    torch.manual_seed(settings.seed)
    network = Labeller(settings.sizes.labeller_channels).to(device)
    teaching = Teaching(
        network,
        pictures[~tested],
        soft[~tested],
        wanted[~tested],
        settings.sizes.labeller_batch,
        settings.seed,
    )
    parts = {"network": network, "adam": teaching.adam}
    stage.train(settings.work / "labeller.pt", parts, teaching.step, seconds=LEARNING * clock.left("labels"),
                steps=settings.sizes.labeller_steps, say=clock.say)  # fmt: skip
    network.eval()
    if tested.any():
        _, made = label(network, pictures[tested])
        off = (made - wanted[tested]).abs().nanmean(0)
        clock.say(
            f"labels of {int(tested.sum())} faces that were not learned from are off by {off[POINTS].mean():.1f} px at "
            f"the points, {off[AGE]:.1f} years, {off[MASCULINE]:.2f} in gender, {off[SMILE]:.2f} in smile"
        )
    return network


@torch.no_grad()
def label(network: Labeller, pictures: Tensor) -> tuple[Tensor, Tensor]:
    """Pictures (b, 3, 128, 128) in [-1, 1] -> masks (b, 128, 128) 0..1 and the 18 numbers in pixels and years."""
    with torch.autocast(pictures.device.type, torch.bfloat16, enabled=pictures.is_cuda):
        masks, numbers = network(pictures)
    return masks.float().sigmoid(), unscaled(numbers.float())
