"""The original's HTTP surface, on a real plane: lists and bodies of any size."""

import hashlib
import json
import random
from collections.abc import Callable, Iterator

import pytest

from services.cli.identity import Identity
from tests.support import notes_agent
from tests.support.plane import PlaneProcess

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(180)]

BODY_MIB = 300
GROWTH_KIB_MAX = 64 * 1024


def memory_kib(process: Identity, line: str) -> int:
    """A line of /proc/pid/status: VmRSS is now, VmHWM the most it ever was."""
    with open(f"/proc/{process.pid}/status", encoding="utf-8") as status:
        return next(int(one.split()[1]) for one in status if one.startswith(line))


def random_body(digest: Callable[[bytes], None]) -> Iterator[bytes]:
    """The same 300 MiB of noise each time, a mebibyte at once."""
    noise = random.Random(7)
    for _ in range(BODY_MIB):
        block = noise.randbytes(1024 * 1024)
        digest(block)
        yield block


def test_a_large_body_comes_back_bit_for_bit_in_bounded_memory(
    plane: PlaneProcess, record_property: Callable[[str, object], None]
) -> None:
    """300 MB of noise are stored and read back equal; no process grows by more than
    64 MiB for it."""
    client = plane.http("container")
    path = f"/api/towns/{plane.town}/rigs/rig-1/agents/big/db-snapshot"
    sent, received = hashlib.sha256(), hashlib.sha256()
    assert 404 == client.get(path).status_code
    before = {one: memory_kib(one, "VmRSS") for one in plane.processes()}

    posted = client.post(path, content=random_body(sent.update), timeout=120)
    with client.stream("GET", path, timeout=120) as answer:
        for block in answer.iter_bytes():
            received.update(block)

    assert {"success": True} == posted.json()
    assert "application/octet-stream" == answer.headers["content-type"]
    assert sent.digest() == received.digest()
    growth = {one.pid: memory_kib(one, "VmHWM") - before[one] for one in before}
    record_property("growth_kib", max(growth.values()))
    assert {} == {pid: grown for pid, grown in growth.items() if grown > GROWTH_KIB_MAX}


def test_a_whole_list_reads_back_equal(shared_plane: PlaneProcess) -> None:
    """What a worker posts is what it gets, by meaning and in order; a new list takes
    the place of the old."""
    client = shared_plane.http("container")
    path = f"/api/towns/{shared_plane.town}/container-registry"
    first = [
        notes_agent.entry("bea", shared_plane.town) | {"extra": [1, None, {"x": 1.5}]},
        notes_agent.entry("ada", shared_plane.town),
    ]
    assert {"success": True, "data": []} == client.get(path).json()

    assert {"success": True} == client.post(path, json=first).json()
    assert {"success": True, "data": first} == client.get(path).json()

    assert client.post(path, json=first[1:]).is_success
    assert first[1:] == client.get(path).json()["data"]


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b"{", id="no JSON"),
        pytest.param(b"{}", id="no list"),
        pytest.param(b"[1]", id="no objects"),
        pytest.param(json.dumps([{"agentId": "a"}]).encode(), id="keys missing"),
    ],
)
def test_a_bad_list_changes_nothing(shared_plane: PlaneProcess, body: bytes) -> None:
    """A list that is wrong in any entry is refused whole."""
    client = shared_plane.http("container")
    path = f"/api/towns/{shared_plane.town}/container-registry"
    before = client.get(path).json()

    answer = client.post(path, content=body)

    assert 400 == answer.status_code
    assert answer.json()["success"] is False
    assert before == client.get(path).json()


@pytest.mark.parametrize(
    ("kind", "claims", "status"),
    [
        pytest.param(None, {}, 401, id="nobody"),
        pytest.param("user", {}, 401, id="a user"),
        pytest.param("agent", {"rig": "rig-1", "agent": "zoe"}, 403, id="other agent"),
        pytest.param("container", {"town": "town-2"}, 403, id="another town"),
        pytest.param("container", {}, 404, id="its container"),
        pytest.param("agent", {"rig": "rig-1", "agent": "ada"}, 404, id="the agent"),
    ],
)
def test_who_may_read_a_session(
    shared_plane: PlaneProcess, kind: str | None, claims: dict[str, str], status: int
) -> None:
    """An agent's session is for itself and its container; nobody else learns even
    whether there is one."""
    client = shared_plane.http(kind, **claims)

    answer = client.get(
        f"/api/towns/{shared_plane.town}/rigs/rig-1/agents/ada/db-snapshot"
    )

    assert status == answer.status_code
    assert answer.json()["success"] is False
