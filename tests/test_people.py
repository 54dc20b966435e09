"""The tools that make the sample people: the face generator's file format at toy size."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from magicapture_core.weights import ASSETS
from tools.people import make_benchmark
from tools.people.generator import to_bytes
from tools.people.openvino_ir import Graph


class Toy:
    """Writes an .xml and .bin as OpenVINO does."""

    def __init__(self) -> None:
        self.layers, self.edges, self.data = list[str](), list[str](), b""

    def layer(
        self, kind: str, inputs: tuple[str, ...] = (), outputs: int = 1, name: str = "", **data: str
    ) -> str:
        number = str(len(self.layers))
        for port, source in enumerate(inputs):
            layer, out = source.split(":")
            self.edges.append(
                f'<edge from-layer="{layer}" from-port="{out}" to-layer="{number}" to-port="{port}"/>'
            )
        settings = " ".join(f'{key}="{value}"' for key, value in data.items())
        taken = "".join(f'<port id="{port}"/>' for port in range(len(inputs)))
        given = "".join(f'<port id="{len(inputs) + port}"/>' for port in range(outputs))
        self.layers.append(
            f'<layer id="{number}" name="{name or kind + number}" type="{kind}"><data {settings}/>'
            f"<input>{taken}</input><output>{given}</output></layer>"
        )
        return f"{number}:{len(inputs)}"

    def const(self, array: np.ndarray) -> str:
        kind = {"f": "f32", "i": "i64"}[array.dtype.kind]
        shape, start = ", ".join(map(str, array.shape)), len(self.data)
        self.data += array.tobytes()
        return self.layer("Const", element_type=kind, shape=shape, offset=str(start), size=str(array.nbytes))

    def write(self, path: Path) -> Path:
        path.write_text(
            f"<net><layers>{''.join(self.layers)}</layers><edges>{''.join(self.edges)}</edges></net>"
        )
        path.with_suffix(".bin").write_bytes(self.data)
        return path


def ints(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


@pytest.fixture
def weights() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    shapes = {"dense": (32, 8), "kernel": (2, 1, 1, 3, 3), "up": (2, 1, 1, 2, 1), "slope": (1,)}
    return {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}


@pytest.fixture
def graph(weights: dict[str, np.ndarray], tmp_path: Path) -> Graph:
    """Dense, reshaped to 2 channels of 4×4 for any batch, grouped convolution, PReLU, each row doubled, channel 0."""
    toy = Toy()
    style = toy.layer("Parameter", shape="1, 8")
    x = toy.layer("MatMul", (style, toy.const(weights["dense"])), name="Gemm_3", transpose_a="false",
                  transpose_b="true")  # fmt: skip
    x = toy.layer("Reshape", (x, toy.const(ints(0, 2, 4, 4))), special_zero="true")
    x = toy.layer("GroupConvolution", (x, toy.const(weights["kernel"])), strides="1, 1", pads_begin="1, 1")
    x = toy.layer("PReLU", (x, toy.const(weights["slope"])))
    x = toy.layer(
        "GroupConvolutionBackpropData", (x, toy.const(weights["up"])), strides="2, 1", pads_begin="0, 0"
    )
    x = toy.layer("VariadicSplit", (x, toy.const(np.array(1)), toy.const(ints(1, -1))), outputs=2)
    toy.layer("Result", (x,))
    return Graph(toy.write(tmp_path / "toy.xml"))


def expected(weights: dict[str, np.ndarray], style: torch.Tensor) -> torch.Tensor:
    w = {name: torch.from_numpy(value) for name, value in weights.items()}
    x = (style @ w["dense"].T).reshape(-1, 2, 4, 4)
    x = F.prelu(F.conv2d(x, w["kernel"][:, 0], padding=1, groups=2), w["slope"])
    return F.conv_transpose2d(x, w["up"][:, 0], stride=(2, 1), groups=2)[:, :1]


def test_a_graph_computes_batches(graph: Graph, weights: dict[str, np.ndarray]) -> None:
    style = torch.randn(3, 8, generator=torch.Generator().manual_seed(0))
    assert graph(style).shape == (3, 1, 8, 4)
    assert torch.allclose(graph(style), expected(weights, style), atol=1e-5)


def test_a_reader_may_have_an_input_of_its_own(graph: Graph, weights: dict[str, np.ndarray]) -> None:
    style, other = torch.randn(2, 3, 8, generator=torch.Generator().manual_seed(0))
    assert graph.readers() == ["Gemm_3"]
    assert torch.allclose(graph(style, {"Gemm_3": other}), expected(weights, other), atol=1e-5)


def test_unknown_layers_are_refused(tmp_path: Path) -> None:
    toy = Toy()
    toy.layer("Result", (toy.layer("Erf", (toy.layer("Parameter"),)),))
    with pytest.raises(NotImplementedError, match="Erf"):
        Graph(toy.write(tmp_path / "toy.xml"))


def test_pictures_become_bytes() -> None:
    assert to_bytes(torch.tensor([-1.0, 0.0, 1.0]).reshape(1, 3, 1, 1)).tolist() == [[[[0, 128, 255]]]]


def test_the_benchmark_s_facts_are_written_as_they_are_shipped(tmp_path: Path) -> None:
    """Its neutral styles and its parts, too: without them its columns and its `--part` would be gone."""
    make_benchmark.write_facts(tmp_path)
    shipped = json.loads((ASSETS / "benchmark" / "benchmark.json").read_text(encoding="utf-8"))
    assert json.loads((tmp_path / "benchmark.json").read_text(encoding="utf-8")) == shipped
