"""The app as on ZeroGPU, on a computer that has none: python -m tools.zero_gpu [options of app.py]

The package `spaces` is the real one: its emulation of CUDA, its weights on the disk, its forked processes, its queues.
Two things are stand-ins, as only Hugging Face has them: the service that lends GPUs (an HTTP server that counts
seconds), and the GPU itself, which is the CPU. ZEROGPU_STAND_IN_QUOTA says how many seconds it lends in all.
"""

from __future__ import annotations

import atexit
import json
import os
import shutil
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from tempfile import mkdtemp
from typing import Any
from urllib.parse import parse_qs, urlsplit


class Lender(ThreadingHTTPServer):
    """A stand-in of the service that lends GPUs. quota: seconds that it lends in all."""

    def __init__(self, quota: int) -> None:
        super().__init__(("127.0.0.1", 0), Answers)
        self.left = quota
        self.asked: list[dict[str, str]] = []
        """What each loan was asked with."""


class Answers(BaseHTTPRequestHandler):
    """The service's answers, as spaces/zero/api.py reads them."""

    server: Lender

    def log_message(self, *_: Any) -> None:
        """Silent."""

    def do_POST(self) -> None:
        """/startup-report, /schedule, /allow and /release."""
        address = urlsplit(self.path)
        if address.path != "/schedule":
            return self._answer(200, {})
        asked = {name: values[0] for name, values in parse_qs(address.query).items()}
        self.server.asked.append(asked)
        seconds = int(asked["durationSeconds"])
        who = "a visitor" if "token" in asked else "nobody"
        print(f"ZeroGPU stand-in: {seconds} s asked for by {who}, {self.server.left} s left", flush=True)
        if seconds > self.server.left:
            return self._answer(429, {"left": self.server.left, "wait": 3600})
        self.server.left -= seconds
        return self._answer(
            200, {"idle": True, "nvidiaIndex": 0, "nvidiaUUID": "GPU-stand-in", "allowToken": "stand-in"}
        )

    def _answer(self, status: int, body: Any) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


def pretend(quota: int = 2400) -> Lender:
    """Make this process one of a ZeroGPU Space. Call it before torch and gradio are imported."""
    lender, weights = Lender(quota), mkdtemp(prefix="zerogpu-")
    atexit.register(shutil.rmtree, weights, ignore_errors=True)
    threading.Thread(target=lender.serve_forever, daemon=True).start()
    os.environ |= {
        "SYSTEM": "spaces", "SPACE_ID": "ada/magicapture", "SPACES_ZERO_GPU": "true",
        "SPACES_ZERO_DEVICE_API_URL": f"http://127.0.0.1:{lender.server_port}",
        "ZEROGPU_OFFLOAD_DIR": weights,
    }  # fmt: skip
    import spaces.zero.torch as lent_torch

    lent_torch.init = _no_gpu
    lent_torch.move = _to_cpu
    return lender


def _no_gpu(_uuid: str) -> None:
    """In the lent process: there is no GPU to begin to use."""


def _to_cpu(callback: Any = None) -> None:  # noqa: ARG001 - told how far the weights are
    """In the lent process: read the weights that stand on the disk, as spaces does, but onto the CPU."""
    import gc

    import torch
    from spaces.zero.torch import patching

    from magicapture_core.models import ModelBundle
    from magicapture_core.models.kernels import kernels_for

    for pack in patching.tensor_packs:
        with Path(pack.path()).open("rb") as file:
            for tensor, size, aligned in [
                *(each for batch in pack.batches for each in batch),
                *pack.big_tensors,
            ]:
                data = bytearray(file.read(aligned)[:size])
                storage = torch.frombuffer(data, dtype=torch.uint8).untyped_storage()
                real = torch.tensor([], dtype=tensor.dtype).set_(storage, 0, tensor.shape, tensor.stride())
                for fake in pack.fakes[tensor]:
                    fake.data = real
    for bundle in gc.get_objects():
        if isinstance(bundle, ModelBundle) and bundle.device.type == "cuda":
            bundle.device = torch.device("cpu")
            kernels_for(bundle.device).apply(bundle)


if __name__ == "__main__":
    pretend(int(os.environ.get("ZEROGPU_STAND_IN_QUOTA", "2400")))
    import app

    sys.exit(app.main())
