"""One town of a plane as its people see it: over HTTP, with diary agents in it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import grpc
import httpx

from tests.support.diary import Diary, command, parse_diary
from tests.support.plane import PlaneProcess
from tests.support.waiting import wait_until_sync
from townkeeper.registry.v1 import registry_pb2, resources_pb2
from townkeeper.snapshots.v1 import resources_pb2 as snapshots
from townkeeper.snapshots.v1 import snapshots_pb2

RIG = "rig-1"
DATABASE = "agent.db"
SETTLE_S = 60.0
AGAIN_S = 20.0
PENDING = resources_pb2.Message.STATE_PENDING


class Town:
    """Speaks HTTP for what a route exists, and gRPC for the rest."""

    def __init__(self, plane: PlaneProcess, name: str = "") -> None:
        self.plane = plane
        self.name = name or plane.town
        self._clients: dict[str, httpx.Client] = {}

    # agents

    def start(self, agent: str, *options: str, **fields: Any) -> httpx.Response:
        """Asks for a diary agent to be started."""
        body = {
            "agentId": agent,
            "rigId": RIG,
            "townId": self.name,
            "role": "polecat",
            "name": agent,
            "identity": agent,
            "runtime": "exec",
            "command": command(*options),
            "database": DATABASE,
            **fields,
        }
        return self.post("container/agents/start", json=body)

    def started(self, agent: str, *options: str, **fields: Any) -> dict[str, Any]:
        """The record of an agent that was started."""
        reply = self.start(agent, *options, **fields)
        assert 201 == reply.status_code, reply.text
        return dict(reply.json())

    def stop(self, agent: str) -> httpx.Response:
        return self.post(f"container/agents/{agent}/stop")

    def status(self, agent: str) -> dict[str, Any]:
        reply = self._read(f"container/agents/{agent}/status")
        return dict(reply.json())

    def wait_status(
        self, agent: str, status: str, *, limit_s: float = 30.0, **fields: Any
    ) -> dict[str, Any]:
        """The agent's status, once it and these fields are as wanted."""

        def as_wanted() -> dict[str, Any] | None:
            found = self.status(agent)
            wanted = {"status": status, **fields}
            return found if wanted.items() <= found.items() else None

        what = f"{agent} is {status} {fields or ''}"
        found = wait_until_sync(as_wanted, what=what, limit_s=limit_s)
        assert found is not None
        return found

    # messages

    def say(self, agent: str, text: str, key: str = "") -> httpx.Response:
        headers = {"idempotency-key": key} if key else {}
        route = f"container/agents/{agent}/message"
        return self.post(route, json={"prompt": text}, headers=headers)

    def said(self, agent: str, text: str, key: str = "") -> str:
        """The id of a message that was accepted."""
        reply = self.say(agent, text, key)
        assert 200 == reply.status_code, reply.text
        return str(reply.json()["messageId"])

    def messages(self, agent: str) -> dict[str, resources_pb2.Message]:
        """What the inbox still knows, by id, in order of acceptance."""
        found: dict[str, resources_pb2.Message] = {}
        token = ""
        while True:
            request = registry_pb2.ListMessagesRequest(
                parent=self.path_of(agent), page_token=token
            )
            stub = self.plane.registry(town=self.name)
            reply = once_there(stub.ListMessages, request)
            found |= {one.name.rpartition("/")[2]: one for one in reply.messages}
            if not (token := reply.next_page_token):
                return found

    def wait_settled(self, agent: str, *, limit_s: float = SETTLE_S) -> None:
        """Returns when nothing waits in the inbox any more."""

        def settled() -> bool:
            return all(one.state != PENDING for one in self.messages(agent).values())

        wait_until_sync(settled, what=f"{agent}'s inbox is empty", limit_s=limit_s)

    # sessions

    def generations(self, agent: str) -> list[snapshots.Snapshot]:
        """Newest first."""
        request = snapshots_pb2.ListSnapshotsRequest(
            parent=self.path_of(agent), page_size=500
        )
        stub = self.plane.snapshots(town=self.name)
        return list(once_there(stub.ListSnapshots, request).snapshots)

    def saved(self, agent: str) -> Diary:
        """The newest generation, downloaded and checked."""
        route = f"rigs/{RIG}/agents/{agent}/db-snapshot"
        return parse_diary(self._read(route, kind="operator").content)

    # HTTP

    def get(self, route: str, *, kind: str = "user", **options: Any) -> httpx.Response:
        return self.http(kind).get(self.route(route), **options)

    def _read(self, route: str, *, kind: str = "user") -> httpx.Response:
        """An answer, also while a service that came back is not yet called again: for
        two seconds a channel does not even try."""
        replies: list[httpx.Response] = []

        def answered() -> bool:
            replies.append(self.get(route, kind=kind))
            return replies[-1].status_code != 503

        wait_until_sync(answered, what=f"{route} is served", limit_s=AGAIN_S)
        assert 200 == replies[-1].status_code, replies[-1].text
        return replies[-1]

    def post(self, route: str, *, kind: str = "user", **options: Any) -> httpx.Response:
        return self.http(kind).post(self.route(route), **options)

    def http(self, kind: str) -> httpx.Client:
        # The gateway may have a new port since an earlier start.
        key = f"{kind} {self.plane.endpoints.http}"
        if key not in self._clients:
            self._clients[key] = self.plane.http(kind, town=self.name)
        return self._clients[key]

    def route(self, route: str) -> str:
        return f"/api/towns/{self.name}/{route}"

    def path_of(self, agent: str) -> str:
        return f"towns/{self.name}/agents/{agent}"


def once_there(call: Callable[[Any], Any], request: Any) -> Any:
    """An answer over gRPC, also of a service that is on its way back."""
    answers: list[Any] = []

    def answered() -> bool:
        try:
            answers.append(call(request))
        except grpc.RpcError as error:
            if error.code() is not grpc.StatusCode.UNAVAILABLE:
                raise
        return bool(answers)

    wait_until_sync(answered, what="the service answers", limit_s=AGAIN_S)
    return answers[-1]
