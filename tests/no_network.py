"""Runs a program that may talk to this machine alone: python no_network.py LOG -m MODULE ARGS, or LOG FILE ARGS.

Whatever tries to reach another machine, or to ask for its address, is refused and written into LOG.
"""

from __future__ import annotations

import ipaddress
import runpy
import sys
from pathlib import Path
from typing import Any

NAMES = ("localhost", "0.0.0.0", "::", "")


def is_here(host: Any) -> bool:
    """Whether a host, as socket functions take it, is this machine."""
    if host is None:
        return True
    text = host.decode() if isinstance(host, bytes) else str(host)
    try:
        return text in NAMES or ipaddress.ip_address(text).is_loopback
    except ValueError:
        return False


def guard(log: Path) -> None:
    """From now on, for the life of this process."""

    def hook(event: str, values: tuple[Any, ...]) -> None:
        if event in ("socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr"):
            host = values[0]
        elif event in ("socket.connect", "socket.sendto", "socket.sendmsg") and isinstance(values[1], tuple):
            host = values[1][0]
        else:
            return
        if not is_here(host):
            with log.open("a", encoding="utf-8") as file:
                file.write(f"{event} {host}\n")
            raise PermissionError(f"no network here: {event} {host}")

    sys.addaudithook(hook)


if __name__ == "__main__":
    guard(Path(sys.argv[1]))
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
    if sys.argv[2] == "-m":
        sys.argv = sys.argv[3:]
        runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
    else:
        sys.argv = sys.argv[2:]
        runpy.run_path(sys.argv[0], run_name="__main__")
