"""Bodies on their way through: bit for bit, a chunk at a time, whole or not at all."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
from blake3 import blake3

from services.chassis.errors import Reason, ServiceError
from services.gateway.app import TRANSFERS_MAX
from services.gateway.stream import CHUNK_BYTES
from tests.contract.gateway.fake_plane import FakePlane
from tests.contract.gateway.gateway_process import GatewayProcess
from tests.support.tokens import RIG, TOWN
from tests.support.waiting import wait_until_sync

MIB = 1024 * 1024


def snapshot_of(agent: str) -> str:
    return f"/api/towns/{TOWN}/rigs/{RIG}/agents/{agent}/db-snapshot"


SNAPSHOT = snapshot_of("one")
# What may lie between the two ends of a stalled transfer: buffers of the kernel, of
# HTTP, of gRPC, and a few chunks. Without backpressure it would be all of the body.
ON_THE_WAY_BYTES_MAX = 48 * MIB
BODY_BYTES = 160 * MIB


def post(plane: FakePlane, content: bytes | Iterator[bytes]) -> httpx.Response:
    return plane.request("POST", SNAPSHOT, plane.tokens.container(), content=content)


def get(plane: FakePlane) -> httpx.Response:
    return plane.request("GET", SNAPSHOT, plane.tokens.container())


def connect(
    plane: FakePlane, method: str, *headers: str, agent: str = "one"
) -> socket.socket:
    """A connection on which the head of a request was sent."""
    host, _, port = plane.url.removeprefix("http://").rpartition(":")
    connection = socket.create_connection((host, int(port)), timeout=10)
    lines = [
        f"{method} {snapshot_of(agent)} HTTP/1.1",
        "host: gateway",
        f"authorization: Bearer {plane.tokens.container()}",
        *headers,
    ]
    connection.sendall(("\r\n".join(lines) + "\r\n\r\n").encode())
    return connection


def send_until_stuck(connection: socket.socket) -> int:
    """Bytes of a body that were taken before nobody took any more."""
    connection.settimeout(1.0)
    sent = 0
    with suppress(TimeoutError):
        while sent < BODY_BYTES:
            sent += connection.send(bytes(min(MIB, BODY_BYTES - sent)))
    return sent


def settled(count: Callable[[], int], still_s: float = 0.5) -> int:
    """A number that has stopped growing."""
    last, since = count(), time.monotonic()

    def still() -> bool:
        nonlocal last, since
        if count() != last:
            last, since = count(), time.monotonic()
        return time.monotonic() - since > still_s

    wait_until_sync(still, limit_s=15)
    return last


def pieces(*sizes: int) -> Iterator[bytes]:
    for size in sizes:
        yield os.urandom(size)


@pytest.mark.parametrize(
    "size",
    [1, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, 3 * MIB + 7],
    ids=["one byte", "below a chunk", "a chunk", "above a chunk", "chunks"],
)
def test_bytes_come_back_as_they_went(plane: FakePlane, size: int):
    """Chunks are cut anew, none of them empty or too large, and nothing is lost."""
    content = os.urandom(size)

    written, read = post(plane, content), get(plane)

    assert (200, 200) == (written.status_code, read.status_code)
    assert content == read.content
    assert size == sum(plane.snapshots.chunk_sizes)
    assert {CHUNK_BYTES} >= set(plane.snapshots.chunk_sizes[:-1])


def test_a_body_of_unknown_length_is_taken(plane: FakePlane):
    """Chunked encoding, in pieces of any size."""
    sizes = (1, 100_000, 3, 2 * MIB, 70_000)

    written = post(plane, pieces(*sizes))

    assert 200 == written.status_code
    assert sum(sizes) == len(plane.snapshots.bytes_of("one") or b"")


@pytest.mark.parametrize(
    "headers",
    [
        pytest.param((f"content-length: {10 * MIB}",), id="length"),
        pytest.param(("transfer-encoding: chunked",), id="chunked"),
    ],
)
def test_a_client_that_leaves_commits_nothing(
    plane: FakePlane, headers: tuple[str, ...]
):
    """A body that was cut is no snapshot: the upload is thrown away at once."""
    plane.snapshots.keep("one", b"before")
    connection = connect(plane, "POST", *headers)
    framed = f"{3 * MIB:x}\r\n".encode() if "chunked" in headers[0] else b""
    connection.sendall(framed + bytes(3 * MIB))
    wait_until_sync(lambda: plane.snapshots.chunk_sizes)

    connection.close()

    wait_until_sync(lambda: plane.snapshots.aborted)
    assert not plane.snapshots.paused
    assert b"before" == plane.snapshots.bytes_of("one")


def test_a_refused_body_is_answered_before_its_end(plane: FakePlane):
    """The client hears why at once, though most of its body was never read."""
    plane.snapshots.fail = ServiceError(Reason.STORAGE_FULL, "cannot store: make room")
    with connect(plane, "POST", f"content-length: {BODY_BYTES}") as connection:
        connection.sendall(bytes(2 * MIB))
        answer = b""
        while b"make room" not in answer and (data := connection.recv(64 * 1024)):
            answer += data

    assert answer.startswith(b"HTTP/1.1 507 ")
    assert b"cannot store: make room" in answer


def test_a_client_that_may_not_write_is_not_asked_for_its_body(plane: FakePlane):
    """`Expect: 100-continue`: refused without a byte of it."""
    host, _, port = plane.url.removeprefix("http://").rpartition(":")
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        head = (
            f"POST {SNAPSHOT} HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\n"
            f"content-length: {BODY_BYTES}\r\n\r\n"
        )
        connection.sendall(head.encode())

        assert connection.recv(1024).startswith(b"HTTP/1.1 401 ")


def test_a_slow_store_slows_the_client_down(plane: FakePlane):
    """What the service does not take stays with the client, not in our memory."""
    plane.snapshots.hold = True
    connection = connect(plane, "POST", f"content-length: {BODY_BYTES}")

    sent = send_until_stuck(connection)

    assert sent < ON_THE_WAY_BYTES_MAX
    plane.snapshots.hold = False
    connection.close()
    wait_until_sync(lambda: plane.snapshots.aborted)


def test_a_slow_client_slows_the_store_down(plane: FakePlane):
    """What the client does not read stays in the store; its leaving ends the call."""
    plane.snapshots.keep("one", bytes(BODY_BYTES))
    connection = connect(plane, "GET")
    connection.recv(1)

    sent = settled(lambda: plane.snapshots.sent_chunks)

    assert sent * MIB < ON_THE_WAY_BYTES_MAX
    connection.close()
    wait_until_sync(lambda: plane.snapshots.downloads_ended == 1)


def test_more_transfers_than_there_is_memory_for_are_put_off(plane: FakePlane):
    """429, try again; what is small goes on."""
    plane.snapshots.hold = True
    head = (plane, "POST", f"content-length: {MIB}")
    with ExitStack() as connections:
        for _ in range(TRANSFERS_MAX):
            connection = connections.enter_context(connect(*head))
            connection.sendall(bytes(CHUNK_BYTES))
        wait_until_sync(lambda: len(plane.snapshots.paused) == TRANSFERS_MAX)

        refused, small = get(plane), plane.request("GET", "/healthz")

        assert (429, "1") == (refused.status_code, refused.headers["retry-after"])
        assert 200 == small.status_code
        plane.snapshots.hold = False

    wait_until_sync(lambda: len(plane.snapshots.aborted) == TRANSFERS_MAX, limit_s=15)
    assert 404 == get(plane).status_code


class TestBrokenDownloads:
    def test_before_the_first_byte_it_is_an_error(self, plane: FakePlane):
        """With status and reason, as long as they can still be said."""
        plane.snapshots.keep("one", bytes(3 * MIB))
        plane.snapshots.cut_after = 0

        response = get(plane)

        assert 500 == response.status_code
        assert "SNAPSHOT_CORRUPT" == response.headers["x-townkeeper-reason"]

    @pytest.mark.parametrize("size", [MIB, 3 * MIB])
    def test_bytes_that_fail_their_proof_are_never_complete(
        self, plane: FakePlane, size: int
    ):
        """The last chunk waits for the trailer: no client takes it for a whole one."""
        plane.snapshots.keep("one", bytes(size))
        plane.snapshots.rot = True

        with pytest.raises((httpx.RemoteProtocolError, AssertionError)):
            assert 200 == get(plane).status_code

    def test_in_the_middle_the_connection_ends(self, plane: FakePlane):
        """Short of the length that was promised."""
        plane.snapshots.keep("one", bytes(8 * MIB))
        plane.snapshots.cut_after = 4 * MIB

        with pytest.raises(httpx.RemoteProtocolError):
            get(plane)

        wait_until_sync(lambda: plane.snapshots.downloads_ended == 1)


@pytest.mark.timeout(90)
@pytest.mark.integration
def test_300_mb_go_through_a_gateway_that_does_not_grow(tmp_path: Path):
    """Bit for bit in both directions, in at most 64 MiB more than at rest."""
    size, most = 300 * MIB, 0
    sent, received = blake3(), blake3()

    def body() -> Iterator[bytes]:
        nonlocal most
        for _ in range(size // MIB):
            piece = os.urandom(MIB)
            sent.update(piece)
            most = max(most, process.rss_bytes())
            yield piece

    with FakePlane(tmp_path, apart=True) as plane:
        assert plane.process is not None
        process = plane.process
        # Once with a small one, so that what is only loaded when used is there.
        post(plane, bytes(MIB))
        get(plane)
        rest = process.rss_bytes()

        assert 200 == post(plane, body()).status_code
        for piece in plane.stream("GET", SNAPSHOT, plane.tokens.container()):
            received.update(piece)
            most = max(most, process.rss_bytes())

    assert sent.digest() == received.digest()
    assert most - rest <= 64 * MIB


@pytest.mark.timeout(90)
@pytest.mark.integration
def test_100_transfers_at_once_fit_into_256_mib(tmp_path: Path):
    """Clients that send what they can, and clients that read slowly."""
    count, size = 100, 4 * MIB

    def send(plane: FakePlane, agent: str) -> bytes:
        connection = connect(plane, "POST", f"content-length: {size}", agent=agent)
        with connection:
            connection.sendall(bytes(size))
            return connection.recv(64)

    def read(plane: FakePlane, agent: str) -> int:
        received = 0
        with connect(plane, "GET", "connection: close", agent=agent) as connection:
            while data := connection.recv(64 * 1024):
                received += len(data)
                time.sleep(0.02)  # what makes it slow
        return received

    with FakePlane(tmp_path, apart=True) as plane, ThreadPoolExecutor(count) as pool:
        assert plane.process is not None
        names = [f"agent-{number}" for number in range(count)]
        sent = [pool.submit(send, plane, name) for name in names]
        most = watch_until_done(plane.process, sent)
        read_ = [pool.submit(read, plane, name) for name in names]
        most = max(most, watch_until_done(plane.process, read_))

    assert all(one.result().startswith(b"HTTP/1.1 200 ") for one in sent)
    assert all(one.result() > size for one in read_)
    assert most <= 256 * MIB


def watch_until_done(process: GatewayProcess, work: Sequence[Future[Any]]) -> int:
    """The most memory that the process took meanwhile."""
    most = 0
    while not all(one.done() for one in work):
        most = max(most, process.rss_bytes())
        wait(work, timeout=0.05)
    return most
