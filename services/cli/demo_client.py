"""What a person does over HTTP: starts the mayor, talks to it, looks at it."""

from __future__ import annotations

import asyncio
import time
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import httpx

from services.chassis.channels import StaticToken, open_channel
from services.chassis.errors import rpc_errors
from services.cli.layout import Endpoints
from services.cli.problems import Problem
from townkeeper.registry.v1 import registry_pb2
from townkeeper.registry.v1.registry_pb2_grpc import RegistryServiceStub
from townkeeper.supervisor.v1 import supervisor_pb2
from townkeeper.supervisor.v1.supervisor_pb2_grpc import SupervisorServiceStub

AGENT: Final = "mayor"
START_S: Final = 120.0
TURN_S: Final = 120.0
CALL_S: Final = 30.0
_LOOK_EVERY_S: Final = 0.1


@dataclass(slots=True)
class Answer:
    """What the agent did in one turn."""

    text: str = ""
    tools: list[str] = field(default_factory=list)


class TownClient:
    """One town's gateway, with a user's token; an operator's for exports."""

    def __init__(self, endpoints: Endpoints, user: str, operator: str) -> None:
        town = endpoints.town
        self._http = httpx.AsyncClient(base_url=endpoints.http, timeout=CALL_S)
        self._registry = endpoints.registry
        self._token = StaticToken(user)
        self._container = f"/api/towns/{town}/container"
        self._snapshot = (
            f"/api/towns/{town}/rigs/mayor-{town}/agents/{AGENT}/db-snapshot"
        )
        self._town = town
        self._user = {"authorization": f"Bearer {user}"}
        self._operator = {"authorization": f"Bearer {operator}"}
        self._seen = 0

    async def aclose(self) -> None:
        await self._http.aclose()

    async def start(self, model: str, environment: dict[str, str]) -> dict[str, Any]:
        """Starts the mayor in an empty workspace; returns when it is ready."""
        request = {
            "agentId": AGENT,
            "rigId": f"mayor-{self._town}",
            "townId": self._town,
            "role": "mayor",
            "name": "Mayor",
            "identity": AGENT,
            "prompt": "",
            "model": model,
            "gitUrl": "",
            "branch": "",
            "defaultBranch": "",
            "lightweight": True,
            "envVars": environment,
        }
        return await self._call("POST", "/agents/start", json=request, timeout=START_S)

    async def status(self) -> dict[str, Any]:
        return await self._call("GET", f"/agents/{AGENT}/status")

    async def until_running(self, limit_s: float) -> dict[str, Any]:
        """The status, once the mayor runs; whatever fails meanwhile is asked again."""
        deadline = time.monotonic() + limit_s
        last = "nothing yet"
        while time.monotonic() < deadline:
            try:
                status = await self.status()
                if status["status"] == "running":
                    return status
                last = str(status.get("error") or status["status"])
            except (Problem, httpx.HTTPError) as error:
                last = str(error)
            await asyncio.sleep(_LOOK_EVERY_S)
        raise Problem(
            f"cannot see the mayor back within {limit_s:g} s ({last}): look into the "
            "supervisor's log"
        )

    async def say(self, text: str) -> Answer:
        """Sends a message; the answer, when its turn is over and saved."""
        key = uuid.uuid4().hex
        await self._call(
            "POST",
            f"/agents/{AGENT}/message",
            json={"prompt": text},
            headers={"idempotency-key": key},
        )
        return await self._answer(key)

    async def save(self) -> None:
        """Done means that all the mayor has written is durable. HTTP has no such call:
        this one is gRPC, as the command line makes it."""
        name = f"towns/{self._town}/agents/{AGENT}"
        with rpc_errors():
            async with open_channel(self._registry, self._token) as channel:
                resolve = registry_pb2.ResolveAgentRequest(name=name)
                found = await RegistryServiceStub(channel).ResolveAgent(resolve)
            async with open_channel(found.instance.address, self._token) as channel:
                save = supervisor_pb2.SaveAgentRequest(name=name)
                await SupervisorServiceStub(channel).SaveAgent(save, timeout=CALL_S)

    async def export(self, file: Path) -> None:
        """The newest saved state as a file."""
        async with self._http.stream(
            "GET", self._snapshot, headers=self._operator
        ) as answer:
            _check(answer.status_code, "export the session")
            with file.open("wb") as target:
                async for part in answer.aiter_bytes():
                    target.write(part)

    def forget_events(self) -> None:
        """A new container counts its events from one."""
        self._seen = 0

    async def _answer(self, key: str) -> Answer:
        answer, assistant = Answer(), set[str]()
        texts: dict[str, str] = {}
        deadline = time.monotonic() + TURN_S
        while time.monotonic() < deadline:
            for event in await self._events():
                data = event["data"]
                kind, part, info = (
                    event["event"],
                    data.get("part") or {},
                    data.get("info") or {},
                )
                if kind == "message.updated" and info.get("role") == "assistant":
                    assistant.add(info["id"])
                elif kind == "message.part.updated":
                    _note(part, assistant, texts, answer)
                elif kind == "message.delivered" and data.get("message") == key:
                    answer.text = "\n".join(text for text in texts.values() if text)
                    return answer
            await asyncio.sleep(_LOOK_EVERY_S)
        raise Problem(
            f"cannot see the end of a turn within {TURN_S:g} s: look into the log of "
            "the supervisor"
        )

    async def _events(self) -> list[dict[str, Any]]:
        path = f"/agents/{AGENT}/events?after={self._seen}"
        events: list[dict[str, Any]] = (await self._call("GET", path))["events"]
        if events:
            self._seen = int(events[-1]["id"])
        return events

    async def _call(self, method: str, path: str, **options: Any) -> dict[str, Any]:
        headers = self._user | options.pop("headers", {})
        try:
            answer = await self._http.request(
                method, self._container + path, headers=headers, **options
            )
        except httpx.HTTPError as error:
            raise Problem(
                f"cannot reach the gateway: {error or type(error).__name__}"
            ) from error
        content = answer.json()
        _check(answer.status_code, f"{method} {path}", content.get("error", ""))
        return dict(content)


def _note(
    part: dict[str, Any], assistant: set[str], texts: dict[str, str], answer: Answer
) -> None:
    if part.get("messageID") not in assistant:
        return
    state = part.get("state") or {}
    if part.get("type") == "text":
        texts[part["id"]] = part.get("text", "")
    elif part.get("type") == "tool" and state.get("status") == "completed":
        answer.tools.append(str(part.get("tool")))


def _check(status: int, what: str, said: str = "") -> None:
    if status >= 400:
        raise Problem(f"cannot {what}: the gateway answered {status} {said}".rstrip())
