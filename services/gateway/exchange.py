"""One HTTP request on its way through a handler: who asks, about what, of whom."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, fields
from enum import StrEnum
from functools import cached_property
from typing import Any, Final, Protocol

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from services.chassis.auth import Caller, Verifier
from services.chassis.names import AgentName, TownName
from services.gateway import json_body
from services.gateway.json_body import Fields
from services.gateway.problems import Issue, Problem
from services.gateway.registry_client import RegistryClient
from services.gateway.snapshots_client import SnapshotsClient
from services.gateway.supervisor_client import SupervisorClient

# A whole list has at most 3 MiB of entries; with its spaces it stays below this.
JSON_BYTES_MAX: Final = 4 * 1024 * 1024
# A client that sends nothing for so long in the middle of a body is gone.
STALL_S: Final = 60.0
NUMBER_MAX: Final = 10**18
_NUMBER: Final = re.compile(r"[0-9]{1,18}", re.ASCII)


class Style(StrEnum):
    """How a route answers: as the worker did, or as the container behind it did."""

    ENVELOPE = "envelope"
    BARE = "bare"


class Calls(Protocol):
    """The services, for one caller's token."""

    def registry(self, token: str) -> RegistryClient: ...

    def snapshots(self, token: str) -> SnapshotsClient: ...

    def supervisor(
        self, address: str, token: str
    ) -> AbstractAsyncContextManager[SupervisorClient]: ...

    async def failing(self) -> dict[str, str]: ...


@dataclass(slots=True)
class Report:
    """What the log line and the metrics of a request say when it is over."""

    method: str
    route: str = "-"
    town: str = ""
    agent: str = ""
    caller_kind: str = ""
    status: int = 0
    reason: str = ""
    received_bytes: int = 0
    sent_bytes: int = 0
    caller: Caller | None = None

    def told(self) -> dict[str, Any]:
        """What the log line says; of the caller the kind alone."""
        return {
            each.name: getattr(self, each.name)
            for each in fields(self)
            if each.name != "caller"
        }


@dataclass
class Exchange:
    """A request that was let in. `caller` and `token` are unset on open routes only."""

    request: Request
    ids: Mapping[str, str]
    services: Calls
    verifier: Verifier
    report: Report
    token: str = ""
    caller: Caller | None = None
    loaded: bytes = b""

    @property
    def headers(self) -> Mapping[str, str]:
        return self.request.headers

    @cached_property
    def town(self) -> str:
        """The town's resource name."""
        return str(TownName(self.ids["town"]))

    @cached_property
    def agent(self) -> str:
        """The agent's resource name."""
        return self.agent_name(self.ids["agent"])

    def agent_name(self, agent: str) -> str:
        return str(AgentName(self.ids["town"], agent))

    @cached_property
    def registry(self) -> RegistryClient:
        return self.services.registry(self.token)

    @cached_property
    def snapshots(self) -> SnapshotsClient:
        return self.services.snapshots(self.token)

    @asynccontextmanager
    async def supervisor_of(
        self, agent: str
    ) -> AsyncIterator[tuple[SupervisorClient, bool]]:
        """The supervisor to call about an agent, and whether it holds its lease."""
        address, holds_lease = await self.registry.resolve(agent)
        async with self.services.supervisor(address, self.token) as supervisor:
            yield supervisor, holds_lease

    async def body(self) -> AsyncIterator[bytes]:
        """The body as it comes; it waits while nobody takes it."""
        try:
            async for data in _with_limit(self.request.stream(), STALL_S):
                self.report.received_bytes += len(data)
                yield data
        except TimeoutError as error:
            raise Problem(
                408,
                f"cannot wait longer than {STALL_S:g} s for the body: send it again",
            ) from error

    async def load(self) -> None:
        """Reads a body that is small enough to be looked at whole; 413 if it is not."""
        declared = self.headers.get("content-length", "")
        if declared.isdecimal() and int(declared) > JSON_BYTES_MAX:
            raise _too_large()
        body = bytearray()
        async for part in self.body():
            body += part
            if len(body) > JSON_BYTES_MAX:
                raise _too_large()
        self.loaded = bytes(body)

    def json_fields(self, absent: bytes = b"") -> Fields:
        """The body as an object; `absent` stands for an empty one."""
        return Fields(json_body.parse(self.loaded or absent))

    def query_number(
        self, name: str, least: int = 0, most: int = NUMBER_MAX
    ) -> int | None:
        """A whole number of the query; None when it is not there, else 400."""
        return _number(self.request.query_params.get(name), name, least, most)

    def header_number(self, name: str, least: int = 0) -> int | None:
        return _number(self.headers.get(name), name, least)


async def _with_limit(
    source: AsyncIterator[bytes], limit_s: float
) -> AsyncIterator[bytes]:
    while True:
        async with asyncio.timeout(limit_s):
            data = await anext(source, None)
        if data is None:
            return
        if data:
            yield data


def _number(
    text: str | None, name: str, least: int, most: int = NUMBER_MAX
) -> int | None:
    if text is None:
        return None
    if not _NUMBER.fullmatch(text) or not least <= int(text) <= most:
        end = f"to {most}" if most < NUMBER_MAX else "on"
        message = f"must be a whole number from {least} {end}"
        raise Problem(
            400, f"cannot use {name}: it {message}", issues=[Issue((name,), message)]
        )
    return int(text)


def _too_large() -> Problem:
    return Problem(
        413,
        f"cannot take more than {JSON_BYTES_MAX} bytes of JSON: send less",
        reason="REQUEST_TOO_LARGE",
    )


def data(value: Any, status: int = 200) -> Response:
    """An answer in the worker's envelope."""
    return JSONResponse({"success": True, "data": value}, status)


def bare(value: Mapping[str, Any], status: int = 200) -> Response:
    """An answer as the container gives it, or with its fields at the top."""
    return JSONResponse(dict(value), status)
