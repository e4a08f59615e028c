"""The socket that HTTP clients reach."""

from __future__ import annotations

import socket

import pytest

from services.chassis.server import BindError
from services.chassis.tls import TlsSettings
from services.gateway.listener import Listener, _bind


def test_answers_do_not_wait_for_nagle():
    """asyncio turns it off only on sockets that say they are TCP."""
    with _bind("127.0.0.1", 0) as bound:
        assert socket.IPPROTO_TCP == bound.proto


def test_a_free_port_is_told():
    """Port 0 asks for one."""
    listener = Listener("127.0.0.1:0", TlsSettings())

    assert f"http://127.0.0.1:{listener.port}" == listener.url
    listener.close()


def test_a_taken_port_is_an_error_at_once():
    """Before anything else starts."""
    with (
        socket.create_server(("127.0.0.1", 0)) as taken,
        pytest.raises(BindError, match="cannot listen on"),
    ):
        Listener(f"127.0.0.1:{taken.getsockname()[1]}", TlsSettings())
