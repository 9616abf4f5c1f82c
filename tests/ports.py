"""Ports for those who bind them later, or bind them again."""

import secrets
import socket
from pathlib import Path

_FIRST = 16_384


def free_port(kind: socket.SocketKind = socket.SOCK_DGRAM) -> int:
    """A port that nobody has, and that the system gives to nobody who asks for any.

    Between this and the bind others open sockets by the dozen; those get ports of the system's own range.
    """
    own = Path("/proc/sys/net/ipv4/ip_local_port_range")
    end = int(own.read_text().split()[0]) if own.exists() else 32_768
    for _ in range(100):
        port = _FIRST + secrets.randbelow(end - _FIRST) if end > _FIRST + 1000 else 0
        with socket.socket(socket.AF_INET, kind) as probe:
            try:
                probe.bind(("", port))
            except OSError:
                continue  # taken
            return int(probe.getsockname()[1])
    message = f"none of 100 ports from {_FIRST} to {end} is free"
    raise OSError(message)
