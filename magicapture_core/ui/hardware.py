"""What the server's graphics card holds, asked without torch: the first page must not wait for that."""

from __future__ import annotations

import functools
import shutil
import subprocess


@functools.cache
def gpu_gigabytes() -> float:
    """Memory in GB of the largest NVIDIA card; 0 where there is none or it does not say."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return 0.0
    try:
        answer = subprocess.run(
            [tool, "--query-gpu=memory.total", "--format=csv,noheader,nounits"],
            capture_output=True, text=True, timeout=10, check=True,
        ).stdout  # fmt: skip
        return max(float(line) * 2**20 / 1e9 for line in answer.split())
    except (OSError, subprocess.SubprocessError, ValueError):
        return 0.0
