"""The gateway as a process: how it starts, refuses to start, and ends."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from services.chassis.keys import KeyRing
from tests.contract.gateway.fake_plane import FakePlane
from tests.contract.gateway.gateway_process import GatewayProcess
from tests.support.tokens import RIG, TOWN
from tests.support.waiting import wait_until_sync

SNAPSHOT = f"/api/towns/{TOWN}/rigs/{RIG}/agents/one/db-snapshot"
NOWHERE = "127.0.0.1:1"

pytestmark = pytest.mark.integration


@pytest.fixture
def process(tmp_path: Path) -> Iterator[GatewayProcess]:
    KeyRing.create(tmp_path / "keys")
    gateway = GatewayProcess(NOWHERE, NOWHERE, tmp_path / "keys")
    yield gateway
    if gateway.started:
        gateway.stop()


def test_starts_without_the_services_and_says_so(process: GatewayProcess):
    """Alive, not ready: order of starting does not matter."""
    url = process.start()

    with httpx.Client(base_url=url, trust_env=False) as client:
        alive, ready = client.get("/healthz"), client.get("/readyz")

    assert (200, 503) == (alive.status_code, ready.status_code)
    assert {"registry", "snapshots"} == set(ready.json()["failing"])


def test_ends_in_order_on_sigterm(process: GatewayProcess):
    """Exit code 0, JSON lines only."""
    process.start()

    assert 0 == process.stop()
    events = [json.loads(line)["event"] for line in process.log().splitlines()]
    # Without a token for it nobody tells this one what was revoked.
    assert "revocations.unknown" == events.pop(0)
    assert ["server.started", "server.stopping", "server.stopped"] == events


def test_finishes_what_is_on_its_way(tmp_path: Path):
    """A body that was half sent when SIGTERM came is committed all the same."""
    with FakePlane(tmp_path, apart=True) as plane:
        assert plane.process is not None
        process, told = plane.process, threading.Event()

        def body() -> Iterator[bytes]:
            yield b"a" * 2 * 1024 * 1024
            wait_until_sync(lambda: plane.snapshots.chunk_sizes)
            process.child.terminate()
            told.set()
            yield b"b"

        response = plane.request(
            "POST", SNAPSHOT, plane.tokens.container(), content=body()
        )

        assert told.is_set()
        assert 200 == response.status_code
        assert 0 == process.stop()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"TOWNKEEPER_GATEWAY_ADDR": "8080", "TOWNKEEPER_REGISTRY_ADDR": "<host>"},
            ["TOWNKEEPER_GATEWAY_ADDR", "TOWNKEEPER_REGISTRY_ADDR"],
        ),
        (
            {"TOWNKEEPER_SNAPSHOTS_ADDR": None, "TOWNKEEPER_KEYS_DIR": None},
            ["TOWNKEEPER_SNAPSHOTS_ADDR", "TOWNKEEPER_KEYS_DIR"],
        ),
        ({"TOWNKEEPER_KEYS_DIR": "/proc/nowhere"}, ["TOWNKEEPER_KEYS_DIR"]),
        ({"TOWNKEEPER_TLS_CERT": "/nowhere.pem"}, ["TOWNKEEPER_TLS_CERT"]),
    ],
)
def test_bad_settings_are_all_named(
    process: GatewayProcess, changes: dict[str, Any], said: list[str]
):
    """One message, exit code 1, nothing started."""
    for name, value in changes.items():
        process.environ.pop(name, None)
        if value is not None:
            process.environ[name] = value

    code, text = process.run_to_its_end()

    assert 1 == code
    assert "Traceback" not in text
    assert [] == [name for name in said if name not in text]


def test_a_taken_port_is_said(process: GatewayProcess):
    """With the address, and what to do."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        process.environ["TOWNKEEPER_GATEWAY_ADDR"] = address

        code, text = process.run_to_its_end()

    assert 1 == code
    assert text.startswith(f"cannot listen on {address}: ")


def test_empty_keys_are_said(process: GatewayProcess, tmp_path: Path):
    """A gateway that could let nobody in does not start."""
    (tmp_path / "none").mkdir()
    process.environ["TOWNKEEPER_KEYS_DIR"] = str(tmp_path / "none")

    code, text = process.run_to_its_end()

    assert 1 == code
    assert "Traceback" not in text
    assert str(tmp_path / "none") in text
