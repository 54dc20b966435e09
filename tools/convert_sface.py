"""Make assets/faces/sface-*.safetensors from OpenCV Zoo's face_recognition_sface_2021dec.onnx.

    python tools/convert_sface.py face_recognition_sface_2021dec.onnx

Reads the graph's initializers, folds every batch normalisation into the layer before it in float64, and writes
fp16 shards below 9.5 MB. Then compares the result with onnxruntime on random pictures. Needs onnx and onnxruntime.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

from magicapture_core.faces.sface import SFACE_SHARDS, load_sface

MAX_SHARD_BYTES = 9_500_000
SOURCE = "OpenCV Zoo face_recognition_sface_2021dec.onnx, Apache-2.0; batch norms folded, fp16"


def batch_norm(weights: dict[str, np.ndarray], name: str, epsilon: float) -> tuple[np.ndarray, np.ndarray]:
    """(scale, shift) that the normalisation `name` amounts to."""
    gamma, beta = weights[f"{name}_gamma"], weights[f"{name}_beta"]
    mean, variance = weights[f"{name}_moving_mean"], weights[f"{name}_moving_var"]
    scale = gamma / np.sqrt(variance + epsilon)
    return scale, beta - mean * scale


def folded_state(path: Path) -> dict[str, torch.Tensor]:
    """The state of magicapture_core's SFace, from the ONNX file."""
    import onnx
    from onnx import numpy_helper

    graph = onnx.load(str(path)).graph
    weights = {i.name: numpy_helper.to_array(i).astype(np.float64) for i in graph.initializer}
    epsilons = {n.name: a.f for n in graph.node for a in n.attribute if a.name == "epsilon"}
    convolutions = [n.name.removesuffix("_conv2d") for n in graph.node if n.op_type == "Conv"]
    state: dict[str, np.ndarray] = {}
    for i, name in enumerate(convolutions):
        scale, shift = batch_norm(weights, f"{name}_batchnorm", epsilons[f"{name}_batchnorm"])
        state[f"layers.{2 * i}.weight"] = weights[f"{name}_conv2d_weight"] * scale[:, None, None, None]
        state[f"layers.{2 * i}.bias"] = shift
        state[f"layers.{2 * i + 1}.weight"] = weights[f"{name}_relu_gamma"].reshape(-1)
    before, after = batch_norm(weights, "bn1", epsilons["bn1"]), batch_norm(weights, "fc1", epsilons["fc1"])
    matrix = weights["pre_fc1_weight"].reshape(128, 1024, 49)
    bias = weights["pre_fc1_bias"] + np.einsum("ocp,c->o", matrix, before[1])
    matrix = (matrix * before[0][:, None]).reshape(128, -1) * after[0][:, None]
    state["linear.weight.0"], state["linear.weight.1"] = np.split(matrix, 2)
    state["linear.bias"] = bias * after[0] + after[1]
    return {name: torch.from_numpy(value).half().contiguous() for name, value in state.items()}


def write_shards(state: dict[str, torch.Tensor]) -> None:
    halves = ("linear.weight.0", "linear.weight.1")
    parts: list[dict[str, torch.Tensor]] = [
        {name: value for name, value in state.items() if name not in halves},
        *({name: state[name]} for name in halves),
    ]
    for part, path in zip(parts, SFACE_SHARDS, strict=True):
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(part, path, metadata={"format": "pt", "source": SOURCE})
        assert path.stat().st_size < MAX_SHARD_BYTES, path
        print(f"{path.name}: {path.stat().st_size:,} bytes")


def compare(path: Path) -> None:
    import onnxruntime

    pictures = np.random.default_rng(0).integers(0, 256, (8, 3, 14, 14)).repeat(8, 2).repeat(8, 3)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # it warns once for every initializer
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    theirs = np.concatenate([session.run(None, {"data": p[None].astype(np.float32)})[0] for p in pictures])
    theirs /= np.linalg.norm(theirs, axis=1, keepdims=True)
    with torch.no_grad():
        ours = load_sface()(torch.from_numpy(pictures).float() / 255).numpy()
    print(f"least cosine to onnxruntime: {(ours * theirs).sum(1).min():.6f}")


if __name__ == "__main__":
    source = Path(sys.argv[1])
    write_shards(folded_state(source))
    compare(source)
