"""Ports for servers that a test starts."""

from __future__ import annotations

import random
import socket
from contextlib import ExitStack
from typing import Final

# Where nodes of a cluster speak to each other, and SeaweedFS speaks gRPC.
_ABOVE: Final = 10_000
# Both of a pair below those that the kernel gives to connections.
_FIRST, _LAST = 20_000, 22_700


def free_ports(count: int) -> list[str]:
    """Ports that are free, as are those 10,000 above; held until all are found."""
    found: list[str] = []
    with ExitStack() as stack:
        while len(found) < count:
            port = random.randint(_FIRST, _LAST)
            try:
                for each in (port, port + _ABOVE):
                    taken = stack.enter_context(socket.socket())
                    taken.bind(("127.0.0.1", each))
            except OSError:
                continue
            found.append(str(port))
    return found
