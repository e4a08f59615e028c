"""The proxy that makes a service slow, since other tests stand on it."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator

import pytest

from tests.support.slow_proxy import SlowProxy


@pytest.fixture
def echo() -> Iterator[str]:
    """Sends back whatever it gets."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        connection, _ = listener.accept()
        with connection:
            while data := connection.recv(65536):
                connection.sendall(data)

    thread = threading.Thread(target=serve)
    thread.start()
    yield f"127.0.0.1:{listener.getsockname()[1]}"
    thread.join(5)
    listener.close()


def test_answers_come_late_and_whole(echo: str) -> None:
    """Every byte arrives, in order, and not before the delay is over."""
    sent = bytes(range(256)) * 2000
    with SlowProxy(echo, delay_s=0.2) as slow:
        host, _, port = slow.address.rpartition(":")
        with socket.create_connection((host, int(port)), 5) as client:
            began = time.monotonic()
            writer = threading.Thread(target=client.sendall, args=(sent,))
            writer.start()
            received = b""
            while len(received) < len(sent):
                received += client.recv(65536)
                first_after_s = time.monotonic() - began
                assert first_after_s >= 0.2
            writer.join(5)

    assert sent == received
