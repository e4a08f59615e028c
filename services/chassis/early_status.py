"""A stream that the server ends early ends with the server's status, not with ours.

grpc.aio answers a write that comes too late by overwriting the status with INTERNAL,
although the refusal has arrived or is about to (grpc issue 36066).
"""

from __future__ import annotations

import asyncio
from typing import Any, Final

# The status is on its way when a write fails; without one gRPC's own is right.
STATUS_WAIT_S: Final = 2.0


class _Core:
    """gRPC's inner call, whose failed writes wait for the status of the server."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def set_internal_error(self, text: str) -> None:
        if not self._inner.done():
            loop = asyncio.get_running_loop()
            loop.call_later(STATUS_WAIT_S, self._give_up, text)

    def _give_up(self, text: str) -> None:
        if not self._inner.done():
            self._inner.set_internal_error(text)


def keep_early_status(call: Any) -> Any:
    """The same call of a stream of requests, mended."""
    inner = getattr(call, "_cython_call", None)
    if inner is not None:
        call._cython_call = _Core(inner)
    return call
