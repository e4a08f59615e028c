"""Today's containers and clients, over HTTP, on the real services."""

from __future__ import annotations

import os
import sqlite3
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.children import AGENT
from tests.support.documents import ROOT, run_blocks, shell_blocks
from tests.support.plane import PlaneProcess
from tests.support.waiting import wait_until_sync

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(120)]

MIB = 1024 * 1024
START: dict[str, Any] = {
    "role": "polecat",
    "rigId": "rig-1",
    "name": "Pole",
    "identity": "pole",
    "prompt": "",
    "lightweight": True,
    "runtime": "exec",
    "command": [sys.executable, "-c", AGENT],
    "database": "heard.db",
}


@pytest.fixture
def container(shared_plane: PlaneProcess) -> httpx.Client:
    return shared_plane.http("container")


@pytest.fixture
def user(shared_plane: PlaneProcess) -> httpx.Client:
    return shared_plane.http("user")


def snapshot(plane: PlaneProcess, agent: str) -> str:
    return f"/api/towns/{plane.town}/rigs/rig-1/agents/{agent}/db-snapshot"


def agents(plane: PlaneProcess, rest: str) -> str:
    return f"/api/towns/{plane.town}/container/agents/{rest}"


def database(folder: Path, rows: int) -> bytes:
    path = folder / f"{rows}.db"
    with sqlite3.connect(path) as connection:
        connection.execute("create table t (x)")
        connection.executemany("insert into t values (?)", [("x" * 999,)] * rows)
    connection.close()
    return path.read_bytes()


def heard(content: bytes, folder: Path) -> list[str]:
    """What the exec agent of these tests was told, by its own database."""
    path = folder / "heard.db"
    path.write_bytes(content)
    connection = sqlite3.connect(path)
    try:
        return [text for (text,) in connection.execute("select text from heard")]
    finally:
        connection.close()


def test_a_list_of_agents_reads_back_equal(
    shared_plane: PlaneProcess, container: httpx.Client
):
    """POST then GET: every entry, in order, fields we do not know included; a list
    with a wrong entry changes nothing."""
    path = f"/api/towns/{shared_plane.town}/container-registry"
    entries = [
        {
            "agentId": f"listed-{number}",
            "request": {**START, "agentId": f"listed-{number}", "later": [1.5, None]},
            "workdir": f"/w/{number}",
            "env": {"KEY": f"välue-{number}"},
        }
        for number in (2, 1, 3)
    ]

    posted = container.post(path, json=entries)
    assert (200, {"success": True}) == (posted.status_code, posted.json())
    assert {"success": True, "data": entries} == container.get(path).json()

    wrong = [*entries, {"agentId": "x"}]
    refused = container.post(path, json=wrong)
    assert (400, False) == (refused.status_code, refused.json()["success"])
    twice = container.post(path, json=[entries[0], entries[0]])
    assert (400, False) == (twice.status_code, twice.json()["success"])
    assert entries == container.get(path).json()["data"]

    assert 200 == container.post(path, json=[]).status_code
    assert [] == container.get(path).json()["data"]


@pytest.mark.parametrize(
    "content", [b"", b"x", b"no database", os.urandom(3 * MIB + 1)], ids=len
)
def test_any_bytes_are_a_snapshot(
    shared_plane: PlaneProcess, container: httpx.Client, content: bytes
):
    """As with the original; they come back as they are."""
    path = snapshot(shared_plane, f"bytes-{len(content)}")
    absent = container.get(path)
    assert (404, b'{"success":false,"error":"Snapshot not found"}') == (
        absent.status_code,
        absent.content,
    )

    posted = container.post(path, content=content)

    assert (200, {"success": True}) == (posted.status_code, posted.json())
    read = container.get(path)
    assert (200, content) == (read.status_code, read.content)
    assert posted.headers["etag"] == read.headers["etag"]


def test_a_database_is_kept_as_pages(
    shared_plane: PlaneProcess, container: httpx.Client, tmp_path: Path
):
    """Told in order: generations, conditions, ranges, delete."""
    path = snapshot(shared_plane, "pages")
    first, second = database(tmp_path, 10), database(tmp_path, 3000)

    assert '"1"' == container.post(path, content=first).headers["etag"]
    stale = container.post(path, content=second, headers={"if-none-match": "*"})
    assert 412 == stale.status_code
    kept = container.post(path, content=second, headers={"if-match": '"1"'})
    assert '"2"' == kept.headers["etag"]
    lost = container.post(path, content=first, headers={"if-match": '"1"'})
    assert (412, 2) == (lost.status_code, lost.json()["generation"])

    assert second == container.get(path).content
    assert first == container.get(path, params={"generation": 1}).content
    unchanged = container.get(path, headers={"if-none-match": '"2"'})
    assert 304 == unchanged.status_code
    part = container.get(path, headers={"range": "bytes=5000-2000000"})
    assert (206, second[5000:2000001]) == (part.status_code, part.content)
    beyond = container.get(path, headers={"range": f"bytes={len(second)}-"})
    assert 416 == beyond.status_code

    listed = container.get(f"{path}/generations").json()["data"]
    assert [(2, "sqlite"), (1, "sqlite")] == [
        (one["generation"], one["format"]) for one in listed
    ]
    assert 200 == container.delete(path).status_code
    assert 404 == container.get(path).status_code
    assert 200 == container.delete(path).status_code
    assert '"3"' == container.post(path, content=first).headers["etag"]


def test_the_life_of_an_agent(
    shared_plane: PlaneProcess,
    container: httpx.Client,
    user: httpx.Client,
    tmp_path: Path,
):
    """Started, spoken to, watched, given a model, stopped; its session is a file."""

    def status() -> Any:
        return user.get(agents(shared_plane, "pole/status")).json()

    started = user.post(
        agents(shared_plane, "start"),
        json={**START, "agentId": "pole", "townId": shared_plane.town},
    )
    assert 201 == started.status_code, started.text
    assert ("running", "Pole", "polecat") == (
        started.json()["status"],
        started.json()["name"],
        started.json()["role"],
    )

    sent = [
        user.post(
            agents(shared_plane, "pole/message"),
            json={"prompt": "hello"},
            headers={"idempotency-key": "hello-1"},
        )
        for _ in range(2)
    ]
    assert [{"sent": True, "messageId": "hello-1"}] * 2 == [one.json() for one in sent]
    shared_plane.wait_settled("pole", "hello-1")
    # The registry has it settled before the supervisor has its answer.
    wait_until_sync(lambda: status()["messageCount"], what="it is counted")
    now = status()
    assert ("running", 1) == (now["status"], now["messageCount"])
    assert now["generation"] > 0
    assert now["lastSavedAt"]
    assert now["instanceId"]

    events = user.get(agents(shared_plane, "pole/events")).json()["events"]
    assert "message.delivered" in [event["event"] for event in events]
    after = {"after": events[-1]["id"]}
    later = user.get(agents(shared_plane, "pole/events"), params=after).json()
    assert all(event["id"] > after["after"] for event in later["events"])
    health = user.get(f"/api/towns/{shared_plane.town}/container/health").json()
    assert ("ok", True) == (health["status"], health["agents"] >= 1)

    stopped = user.post(agents(shared_plane, "pole/stop"))
    assert (200, {"stopped": True}) == (stopped.status_code, stopped.json())
    assert "exited" == status()["status"]
    assert ["hello"] == heard(
        container.get(snapshot(shared_plane, "pole")).content, tmp_path
    )
    model = user.patch(agents(shared_plane, "pole/model"), json={"model": "p/m"})
    assert (200, {"updated": True}) == (model.status_code, model.json())

    assert 404 == user.get(agents(shared_plane, "nobody/status")).status_code
    assert 404 == user.post(agents(shared_plane, "nobody/stop")).status_code
    assert {"events": []} == user.get(agents(shared_plane, "nobody/events")).json()


def test_a_file_does_not_replace_the_session_of_a_run(
    shared_plane: PlaneProcess, container: httpx.Client, user: httpx.Client
):
    """Whoever writes without the epoch is told who holds the agent."""
    request = {**START, "agentId": "held"}
    assert 201 == user.post(agents(shared_plane, "start"), json=request).status_code
    path = snapshot(shared_plane, "held")
    wait_until_sync(lambda: container.head(path).is_success, limit_s=15)
    epoch = container.head(path).headers["x-townkeeper-epoch"]

    refused = container.post(path, content=b"mine")

    assert 409 == refused.status_code
    assert "instances/" in refused.json()["holder"]
    assert epoch == str(refused.json()["epoch"])
    assert 409 == container.delete(path).status_code
    user.post(agents(shared_plane, "held/stop"))


def test_the_life_of_a_mayor(
    shared_plane: PlaneProcess, user: httpx.Client, container: httpx.Client
):
    """Unknown, configured, spoken to while it rests, destroyed, ensured."""
    path = f"/api/towns/{shared_plane.town}/mayor"
    assert 409 == user.post(f"{path}/ensure").status_code
    assert 409 == user.post(f"{path}/message", json={"message": "hi"}).status_code
    assert user.get(f"{path}/status").json()["data"]["configured"] is False

    request = {k: v for k, v in START.items() if k not in ("role", "rigId")}
    configured = user.post(f"{path}/configure", json=request)
    assert 200 == configured.status_code, configured.text
    mayor = configured.json()["data"]["agentId"]
    assert user.get(f"{path}/status").json()["data"]["session"] is None

    headers = {"idempotency-key": "hi-1"}
    sent = user.post(f"{path}/message", json={"message": "hi"}, headers=headers)
    assert 200 == sent.status_code, sent.text
    assert {"agentId": mayor, "sessionStatus": "starting", "messageId": "hi-1"} == (
        sent.json()["data"]
    )
    shared_plane.wait_settled(mayor, "hi-1")
    session = user.get(f"{path}/status").json()["data"]["session"]
    assert (mayor, "idle") == (session["agentId"], session["status"])
    again = user.post(f"{path}/message", json={"message": "ho"}).json()["data"]
    assert "active" == again["sessionStatus"]
    shared_plane.wait_settled(mayor, again["messageId"])

    assert {"destroyed": True} == user.post(f"{path}/destroy").json()["data"]
    assert user.get(f"{path}/status").json()["data"]["session"] is None
    ensured = user.post(f"{path}/ensure")
    assert 200 == ensured.status_code, ensured.text
    assert "idle" == ensured.json()["data"]["sessionStatus"]
    assert {"destroyed": True} == user.post(f"{path}/destroy").json()["data"]


def test_what_is_refused_says_why(shared_plane: PlaneProcess, user: httpx.Client):
    """By the services' own rules, in HTTP's words."""
    start = agents(shared_plane, "start")
    no_command = user.post(start, json={**START, "agentId": "bad", "command": []})
    no_role = user.post(start, json={**START, "agentId": "bad", "role": None})

    assert [400] * 2 == [r.status_code for r in (no_command, no_role)]
    assert ["command"] == no_command.json()["issues"][0]["path"]
    assert ["role"] == no_role.json()["issues"][0]["path"]
    assert 404 == user.get(agents(shared_plane, "bad/status")).status_code


def test_a_drain_over_http(plane: PlaneProcess):
    """Announced by its container, seen, cleared by its nonce; starts wait for that."""
    container, user = plane.http("container"), plane.http("user")
    path = f"/api/towns/{plane.town}"

    nonce = container.post(f"{path}/container-eviction").json()["data"]["drainNonce"]
    assert {"draining": True, "drainNonce": nonce} == (
        container.get(f"{path}/drain-status").json()["data"]
    )
    refused = user.post(agents(plane, "start"), json={**START, "agentId": "pole"})
    assert 503 == refused.status_code
    assert {"error": "Container is draining, cannot start new agents"} == refused.json()
    cleared = container.post(f"{path}/container-ready", json={"nonce": nonce})
    assert {"cleared": True} == cleared.json()["data"]
    started = user.post(agents(plane, "start"), json={**START, "agentId": "pole"})
    assert 201 == started.status_code


def test_the_document_can_be_typed(tmp_path: Path):
    """docs/http.md, from top to bottom, against a fresh plane."""
    with PlaneProcess(tmp_path / ".townkeeper", town="town") as plane:
        said = run_blocks(shell_blocks(ROOT / "docs" / "http.md"), plane, tmp_path)

    assert '"messageId":"m1"' in said
    assert '"holder":' in said
    assert '{"stopped":true}' in said
