"""A TCP proxy that makes whatever is behind it slow: every answer comes late.

with SlowProxy("127.0.0.1:50052", delay_s=2.0) as slow:
    ... call slow.address in place of the service's own
"""

from __future__ import annotations

import queue
import socket
import threading
import time
from contextlib import suppress
from types import TracebackType
from typing import Final, Self

_READ_BYTES: Final = 1 << 16
# Bytes under way in one direction: bounded, so that a slow peer holds the other back.
_PARTS_MAX: Final = 256


class SlowProxy:
    """Requests pass at once, answers after `delay_s`; it may change at any time."""

    def __init__(self, target: str, delay_s: float = 2.0) -> None:
        host, _, port = target.rpartition(":")
        self.delay_s = delay_s
        self._target = (host, int(port))
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._sockets: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self._closed = False

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self._listener.getsockname()[1]}"

    def __enter__(self) -> Self:
        self._spawn(self._accept)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._closed = True
        # Only a shutdown wakes a thread that is in accept.
        _shut(self._listener)
        for each in self._sockets:
            _shut(each)
        for thread in self._threads:
            thread.join(10)

    def _spawn(self, work: object, *args: object) -> None:
        thread = threading.Thread(target=work, args=args, daemon=True)  # type: ignore[arg-type]
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while not self._closed:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            try:
                server = socket.create_connection(self._target, 5)
            except OSError:
                _shut(client)
                continue
            server.settimeout(None)
            self._sockets += [client, server]
            answers: queue.Queue[tuple[float, bytes]] = queue.Queue(_PARTS_MAX)
            self._spawn(self._pass_on, client, server)
            self._spawn(self._hold_back, server, answers)
            self._spawn(self._let_go, answers, client)

    def _pass_on(self, source: socket.socket, target: socket.socket) -> None:
        while data := _received(source):
            if not _sent(target, data):
                return
        _shut(target)

    def _hold_back(
        self, source: socket.socket, answers: queue.Queue[tuple[float, bytes]]
    ) -> None:
        while data := _received(source):
            answers.put((time.monotonic(), data))
        answers.put((0.0, b""))

    def _let_go(
        self, answers: queue.Queue[tuple[float, bytes]], target: socket.socket
    ) -> None:
        while True:
            arrived_at, data = answers.get()
            if not data:
                _shut(target)
                return
            while not self._closed:
                left_s = arrived_at + self.delay_s - time.monotonic()
                if left_s <= 0:
                    break
                time.sleep(min(left_s, 0.05))
            _sent(target, data)


def _received(source: socket.socket) -> bytes:
    try:
        return source.recv(_READ_BYTES)
    except OSError:
        return b""


def _sent(target: socket.socket, data: bytes) -> bool:
    try:
        target.sendall(data)
    except OSError:
        return False
    return True


def _shut(each: socket.socket) -> None:
    with suppress(OSError):
        each.shutdown(socket.SHUT_RDWR)
    each.close()
