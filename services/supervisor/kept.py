"""What a supervisor and its keeper tell each other (see keeper.py)."""

from __future__ import annotations

import asyncio
import json
import os
import socket
from collections.abc import Callable, Mapping
from contextlib import suppress

from services.supervisor.keeper import GOOD_UNTIL, KEPT_VARIABLE, TOKEN


class KeeperLink:
    """Of a supervisor that has no keeper it does nothing."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._socket: socket.socket | None = None
        self._token = ""
        if environ.get(KEPT_VARIABLE):
            self._socket = socket.socket(fileno=os.dup(0))
            self._socket.setblocking(False)

    def on_end(self, call: Callable[[], None]) -> None:
        """Calls when the keeper has ended; then nobody keeps us."""
        if self._socket is not None:
            asyncio.get_running_loop().add_reader(self._socket, self._gone, call)

    def tell_serving(self) -> None:
        """From now on we end well when we are told to."""
        self._tell({})

    def tell_good_until(self, until: float | None) -> None:
        """Until when the leases are good on the monotonic clock; None: for ever."""
        self._tell({GOOD_UNTIL: until})

    def tell_token(self, token: str) -> None:
        """The container's token, for whoever comes after us."""
        self._token = token
        self._tell({})

    def _gone(self, call: Callable[[], None]) -> None:
        assert self._socket is not None
        asyncio.get_running_loop().remove_reader(self._socket)
        call()

    def _tell(self, message: Mapping[str, object]) -> None:
        if self._socket is not None:
            # One that does not listen now, and is told of nothing, hears the next.
            token = {TOKEN: self._token} if self._token else {}
            with suppress(OSError):
                self._socket.send(json.dumps({**message, **token}).encode())
