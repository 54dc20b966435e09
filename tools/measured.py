"""Time and memory of a command of ours, in a process of its own."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# VmHWM, for ru_maxrss of a new process is at least what its parent held when it was started.
PEAK = (
    "import runpy, sys; sys.argv = sys.argv[1:]\n"
    "try: runpy.run_module('magicapture_core', run_name='__main__', alter_sys=True)\n"
    "finally: print(next(line for line in open('/proc/self/status') if line.startswith('VmHWM')), file=sys.stderr)"
)


# What a CPU without bfloat16 does, on one that has it.
FLOAT32 = (
    "import magicapture_core.models as models, torch; models.best_dtype = lambda device: torch.float32\n"
)


def measured(*command: str, float32: bool = False) -> tuple[float, float]:
    """Seconds and peak memory in bytes of `python -m magicapture_core COMMAND`. Linux only.

    float32: whatever the machine could do. Raises CalledProcessError where the command fails.
    """
    started = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", FLOAT32 * float32 + PEAK, "magicapture_core", *command],
        cwd=ROOT, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    peak = next(line for line in done.stderr.splitlines() if line.startswith("VmHWM"))
    return time.perf_counter() - started, float(peak.split()[1]) * 1024
