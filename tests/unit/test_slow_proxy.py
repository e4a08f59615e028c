"""The proxy that makes a service slow, since other tests stand on it."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import suppress

import pytest

from tests.support.slow_proxy import SlowProxy


@pytest.fixture
def echo() -> Iterator[str]:
    """Sends back whatever it gets."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        connection, _ = listener.accept()
        with connection, suppress(ConnectionResetError):
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


@pytest.fixture
def proxy(echo: str) -> Iterator[SlowProxy]:
    with SlowProxy(echo) as proxy:
        yield proxy


def connect(proxy: SlowProxy) -> socket.socket:
    host, _, port = proxy.address.rpartition(":")
    return socket.create_connection((host, int(port)), 5)


@pytest.mark.parametrize("way", ["to_server", "to_client"])
def test_each_way_can_be_silent(proxy: SlowProxy, way: str) -> None:
    """Nothing comes back while either way is a hole; then all of it does."""
    with connect(proxy) as client:
        client.sendall(b"before")
        assert b"before" == client.recv(100)
        getattr(proxy, way).hole = True
        client.sendall(b"meanwhile")
        client.settimeout(0.1)
        with pytest.raises(TimeoutError):
            client.recv(100)
        proxy.hole = False
        client.settimeout(5)

        assert b"meanwhile" == client.recv(100)


def test_a_way_can_close_in_the_middle(proxy: SlowProxy) -> None:
    """So many bytes pass, the rest waits until there is room again."""
    with connect(proxy) as client:
        proxy.to_server.room_bytes = 3
        client.sendall(b"before")
        assert b"bef" == client.recv(100)
        client.settimeout(0.1)
        with pytest.raises(TimeoutError):
            client.recv(100)
        proxy.to_server.room_bytes = None
        client.settimeout(5)

        assert b"ore" == client.recv(100)


def test_a_cut_connection_is_reset(proxy: SlowProxy) -> None:
    """The client hears of it, and may connect again unless it is refused."""
    with connect(proxy) as client:
        client.sendall(b"before")
        assert b"before" == client.recv(100)
        proxy.refusing = True
        proxy.cut()
        with pytest.raises(ConnectionResetError):
            client.recv(100)
    with pytest.raises(ConnectionResetError), connect(proxy) as client:
        client.recv(100)
