"""Photos of adults who do not exist, from the MobileStyleGAN in PyPI random-face (OpenVINO IR, 1024 px).

`style` feeds many places of the synthesis network; each gets its own input here, so that one person's identity can be
mixed with another draw's pose, hair, light and background.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

POSE = slice(0, 2)
"""Places that decide pose, hair and head shape (coarse layers)."""
IDENTITY = slice(2, 9)
"""Places that decide who it is (middle layers)."""
FINE = slice(9, None)
"""Places that decide light, colour, background and clothes' colour (fine layers)."""


class FaceGenerator:
    """z -> w -> picture. Deterministic: a seed is a picture."""

    def __init__(self, folder: Path, threads: int = 2) -> None:
        """`folder` holds MappingNetwork.xml and SynthesisNetwork.xml with their .bin files."""
        import openvino as ov
        from openvino import opset13 as ops

        core = ov.Core()
        core.set_property("CPU", {"INFERENCE_NUM_THREADS": threads})
        self._mapping = core.compile_model(folder / "MappingNetwork.xml", "CPU")
        network = core.read_model(folder / "SynthesisNetwork.xml")
        shared = network.get_parameters()[0]
        takers = {
            t for t in shared.output(0).get_target_inputs() if "Gemm" in t.get_node().get_friendly_name()
        }
        order = sorted(takers, key=lambda t: int(re.findall(r"\d+", t.get_node().get_friendly_name())[0]))
        added = []
        for place, taker in enumerate(order):
            parameter = ops.parameter([1, 512], np.float32, name=f"style_{place:02d}")
            taker.replace_source_output(parameter.output(0))
            added.append(parameter)
        network.add_parameters(added)
        self.places = len(added)
        self._synthesis = core.compile_model(network, "CPU")
        self.mean = np.mean(
            [self._map(z) for z in np.random.default_rng(0).standard_normal((2048, 512))], axis=0
        )

    def _map(self, z: np.ndarray) -> np.ndarray:
        return next(iter(self._mapping([z[None].astype(np.float32)]).values()))[0]

    def style(self, seed: int, psi: float) -> np.ndarray:
        """The style (512,) of a seed, pulled toward the mean face: psi 0 is the mean, 1 the draw itself."""
        return self.mean + psi * (self._map(np.random.default_rng(seed).standard_normal(512)) - self.mean)

    def everywhere(self, style: np.ndarray) -> np.ndarray:
        return np.repeat(style[None], self.places, axis=0)

    def picture(self, styles: np.ndarray) -> np.ndarray:
        """Styles (places, 512) -> (1024, 1024, 3) uint8 RGB."""
        inputs = [np.zeros((1, 512), np.float32), *(row[None].astype(np.float32) for row in styles)]
        image = next(iter(self._synthesis(inputs).values()))[0]
        return np.clip(np.round((image.transpose(1, 2, 0) + 1) * 127.5), 0, 255).astype(np.uint8)
