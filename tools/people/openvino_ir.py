"""Reads the networks of PyPI random-face (OpenVINO IR: an .xml of layers, a .bin of constants) as torch functions.

Only what those two networks use is known: static graphs of one input and one output, about twenty kinds of layers.
Unlike OpenVINO's own runtime this takes batches, any device and any floating type.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

Settings = dict[str, str]
Value = tuple[str, str]
"""(layer's id, its output port)."""

_TYPES = {"f32": np.float32, "f16": np.float16, "i64": np.int64, "i32": np.int32}


@dataclass(frozen=True)
class Layer:
    id: str
    kind: str
    name: str
    settings: Settings
    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]


# --- kinds of layers: (inputs, settings) -> output, or outputs of a split ---------------------------


def _numbers(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]


def _axes(axes: Tensor) -> list[int]:
    return [int(axis) for axis in axes.reshape(-1)]


def _gather(inputs: list[Tensor], _settings: Settings) -> Tensor:
    values, places, axis = inputs
    taken = values.index_select(int(axis), places.reshape(-1))
    return taken.reshape(()) if places.ndim == 0 else taken


def _unsqueeze(inputs: list[Tensor], _settings: Settings) -> Tensor:
    value, axes = inputs
    for axis in sorted(_axes(axes)):
        value = value.unsqueeze(axis)
    return value


def _broadcast(inputs: list[Tensor], _settings: Settings) -> Tensor:
    """Both ways: a 1 in the shape keeps the value's own side."""
    value, shape = inputs
    return value.broadcast_to(torch.broadcast_shapes(value.shape, shape.tolist()))


def _squeeze(inputs: list[Tensor], _settings: Settings) -> Tensor:
    value, axes = inputs
    return value.squeeze(tuple(_axes(axes)))


def _reshape(inputs: list[Tensor], _settings: Settings) -> Tensor:
    """A 0 in the shape keeps that side (special_zero)."""
    value, shape = inputs
    return value.reshape([side or value.shape[place] for place, side in enumerate(shape.tolist())])


def _matmul(inputs: list[Tensor], settings: Settings) -> Tensor:
    one, other = inputs
    one = one.mT if settings["transpose_a"] == "true" else one
    return one @ (other.mT if settings["transpose_b"] == "true" else other)


def _mean(inputs: list[Tensor], settings: Settings) -> Tensor:
    return inputs[0].mean(_axes(inputs[1]), keepdim=settings["keep_dims"] == "true")


def _convolution(inputs: list[Tensor], settings: Settings) -> Tensor:
    """Grouped weights are (groups, out, in, h, w), plain ones (out, in, h, w)."""
    value, weight = inputs
    groups = 1
    if weight.ndim == 5:
        groups, weight = len(weight), weight.flatten(0, 1)
    return F.conv2d(
        value,
        weight,
        stride=_numbers(settings["strides"]),
        padding=_numbers(settings["pads_begin"]),
        groups=groups,
    )


def _transposed(inputs: list[Tensor], settings: Settings) -> Tensor:
    """The wavelets' transposed convolution: each pixel becomes a block of its own, so that nothing is summed.

    As a product this is many times faster on a CPU than a grouped transposed convolution.
    """
    value, weight = inputs
    batch, channels, height, width = value.shape
    tall, wide = _numbers(settings["strides"])
    if weight.shape != (channels, 1, 1, tall, wide):
        raise NotImplementedError(f"transposed convolution of weights {tuple(weight.shape)}")
    blocks = value[:, :, :, None, :, None] * weight.reshape(1, channels, 1, tall, 1, wide)
    return blocks.reshape(batch, channels, height * tall, width * wide)


def _split(inputs: list[Tensor], _settings: Settings) -> tuple[Tensor, ...]:
    """One of the lengths may be -1: the rest."""
    value, axis, lengths = inputs
    sizes = lengths.tolist()
    rest = value.shape[int(axis)] - sum(size for size in sizes if size >= 0)
    return value.split([size if size >= 0 else rest for size in sizes], int(axis))


KINDS: Mapping[str, Callable[[list[Tensor], Settings], Tensor | tuple[Tensor, ...]]] = {
    "Add": lambda inputs, _: inputs[0] + inputs[1],
    "Broadcast": _broadcast,
    "Concat": lambda inputs, settings: torch.cat(inputs, int(settings["axis"])),
    "Convolution": _convolution,
    "Gather": _gather,
    "GroupConvolution": _convolution,
    "GroupConvolutionBackpropData": _transposed,
    "MatMul": _matmul,
    "Multiply": lambda inputs, _: inputs[0] * inputs[1],
    "PReLU": lambda inputs, _: F.prelu(inputs[0], inputs[1].reshape(-1)),
    "Power": lambda inputs, _: inputs[0] ** inputs[1],
    "ReduceMean": _mean,
    "Reshape": _reshape,
    "ShapeOf": lambda inputs, _: torch.tensor(inputs[0].shape),
    "Squeeze": _squeeze,
    "Tile": lambda inputs, _: inputs[0].repeat(inputs[1].tolist()),
    "Unsqueeze": _unsqueeze,
    "VariadicSplit": _split,
}


# --- graphs -----------------------------------------------------------------------------------------


class Graph:
    """The network of an .xml file and the .bin beside it."""

    def __init__(
        self, path: Path, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
    ) -> None:
        layers = _read_layers(path)
        unknown = {layer.kind for layer in layers} - set(KINDS) - {"Const", "Parameter", "Result"}
        if unknown:
            raise NotImplementedError(f"{path} holds layers of unknown kinds: {sorted(unknown)}")
        data = path.with_suffix(".bin").read_bytes()
        self._constants = {
            layer.outputs[0]: _constant(layer.settings, data, device, dtype)
            for layer in layers
            if layer.kind == "Const"
        }
        self.input = next(layer.outputs[0] for layer in layers if layer.kind == "Parameter")
        self._result = next(layer.inputs[0] for layer in layers if layer.kind == "Result")
        self._layers = [layer for layer in layers if layer.kind in KINDS]
        last = {value: layer.id for layer in self._layers for value in layer.inputs}
        # what no later layer reads is let go of: at 1024 px the values of a batch fill a memory
        self._finished: dict[str, list[Value]] = {}
        for value, reader in last.items():
            if value not in self._constants and value not in (self._result, self.input):
                self._finished.setdefault(reader, []).append(value)

    def readers(self) -> list[str]:
        """Names of the matrix products that read the input."""
        return [
            layer.name for layer in self._layers if layer.kind == "MatMul" and layer.inputs[0] == self.input
        ]

    @torch.no_grad()
    def __call__(self, given: Tensor, own: Mapping[str, Tensor] | None = None) -> Tensor:
        """`given` is the input; the readers named in `own` read that instead of it."""
        values: dict[Value, Tensor] = {**self._constants, self.input: given}
        for layer in self._layers:
            inputs = [values[value] for value in layer.inputs]
            if own and layer.name in own:
                inputs[0] = own[layer.name]
            made = KINDS[layer.kind](inputs, layer.settings)
            values.update(zip(layer.outputs, made if isinstance(made, tuple) else (made,), strict=True))
            for value in self._finished.get(layer.id, ()):
                del values[value]
        return values[self._result]


def _read_layers(path: Path) -> list[Layer]:
    """All layers of the .xml, in its order, which is one to compute in."""
    root = ElementTree.parse(path).getroot()
    sources = {
        (edge.attrib["to-layer"], edge.attrib["to-port"]): (
            edge.attrib["from-layer"],
            edge.attrib["from-port"],
        )
        for edge in root.iterfind("edges/edge")
    }
    layers = []
    for layer in root.iterfind("layers/layer"):
        number, data = layer.attrib["id"], layer.find("data")
        layers.append(
            Layer(
                number,
                layer.attrib["type"],
                layer.attrib["name"],
                {} if data is None else dict(data.attrib),
                tuple(sources[number, port.attrib["id"]] for port in layer.iterfind("input/port")),
                tuple((number, port.attrib["id"]) for port in layer.iterfind("output/port")),
            )
        )
    return layers


def _constant(settings: Settings, data: bytes, device: torch.device | str, dtype: torch.dtype) -> Tensor:
    """Floats on the device in its type; whole numbers (shapes, axes) stay on the CPU, where they are read."""
    kind = np.dtype(_TYPES[settings["element_type"]])
    shape = _numbers(settings["shape"]) if settings["shape"].strip() else []
    count, start = int(settings["size"]) // kind.itemsize, int(settings["offset"])
    value = torch.from_numpy(np.frombuffer(data, kind, count, start).reshape(shape).copy())
    return value.to(device, dtype) if value.is_floating_point() else value
