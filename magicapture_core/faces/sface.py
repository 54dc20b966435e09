"""SFace (Zhong et al. 2021, OpenCV Zoo's MobileFaceNet-like network) as a torch module."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from magicapture_core.faces.protocol import FaceEmbedder
from magicapture_core.languages import _
from magicapture_core.problems import MissingFiles
from magicapture_core.weights import ASSETS

SFACE_SHARDS = tuple(ASSETS / "faces" / f"sface-{i}.safetensors" for i in (1, 2, 3))

# (output channels, stride) of the depthwise-separable blocks after the first convolution of 32 channels.
_BLOCKS = (
    (64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2),
    (512, 1), (512, 1), (512, 1), (512, 1), (512, 1), (1024, 2), (1024, 1),
)  # fmt: skip


class _Slopes(torch.autograd.Function):
    """PReLU with fixed slopes. Torch's own backward also forms the slopes' gradient: half of the network's time."""

    @staticmethod
    def forward(context: Any, x: Tensor, slopes: Tensor) -> Tensor:
        context.save_for_backward(x, slopes)
        return torch.prelu(x, slopes)

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        x, slopes = context.saved_tensors
        (gradient,) = gradients
        below = slopes.view(-1, 1, 1)
        above = torch.ops.aten.threshold_backward(gradient * (1 - below), x, 0)
        return above.addcmul_(gradient, below), None


class _FrozenPReLU(nn.PReLU):
    def forward(self, x: Tensor) -> Tensor:
        return _Slopes.apply(x, self.weight)


class SFace(FaceEmbedder):
    """128-d face recognition. Batch norms are folded into the convolutions, so that it has no mode to be in."""

    name = "SFace"
    size = 112
    dim = 128

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(3, 32, 3, padding=1), _FrozenPReLU(32)]
        channels = 32
        for out, stride in _BLOCKS:
            layers += [
                nn.Conv2d(channels, channels, 3, stride, padding=1, groups=channels),
                _FrozenPReLU(channels),
            ]
            layers += [nn.Conv2d(channels, out, 1), _FrozenPReLU(out)]
            channels = out
        self.layers = nn.Sequential(*layers)
        self.linear = nn.Linear(channels * 7 * 7, self.dim)

    def features(self, aligned: Tensor) -> Tensor:
        self.check_input(aligned)
        x = (aligned.float() * 255 - 127.5) / 128  # b 3 112 112, as the network was trained
        features: Tensor = self.linear(self.layers(x).flatten(1))  # b 128
        return features


def load_sface(shards: tuple[Path, ...] = SFACE_SHARDS) -> SFace:
    """SFace with its weights, frozen, in fp32 (they are stored in fp16). MissingFiles if a shard is not there."""
    from safetensors.torch import load_file

    missing = [str(path) for path in shards if not path.is_file()]
    if missing:
        raise MissingFiles(
            _(
                "The bundled face recognition network is incomplete: {files} not found. These files belong to "
                "MagiCapture; get them back from its repository.",
                files=", ".join(missing),
            )
        )
    state: dict[str, Tensor] = {}
    for path in shards:
        state.update({name: tensor.float() for name, tensor in load_file(path).items()})
    # The last layer is larger than one shard may be, so it is stored in two halves of its outputs.
    state["linear.weight"] = torch.cat([state.pop("linear.weight.0"), state.pop("linear.weight.1")])
    model = SFace()
    model.load_state_dict(state)
    # Its depthwise convolutions run twice as fast on a CPU in this memory format.
    return model.eval().requires_grad_(False).to(memory_format=torch.channels_last)
