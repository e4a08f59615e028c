"""Kilo's HTTP interface, as far as we use it. Every call has a time-out; a failure is
RUNTIME_UNREACHABLE, or FIELD_INVALID where Kilo says that the request was wrong."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from typing import Any

import httpx

from services.chassis.errors import Reason, ServiceError
from services.supervisor.kilo.env import USERNAME

CONNECT_S = 2.0
CALL_S = 30.0  # a busy machine's first call loads half of Kilo
PROBE_S = (1.0, 2.0, 4.0, 8.0)  # short: a first request can hang for ever
STREAM_S = 35.0  # three of its heartbeats
EVENT_BYTES_MAX = 64 << 20  # a tool's whole output can be in one event
ERROR_LENGTH_MAX = 300

Json = Mapping[str, Any]


class KiloApi:
    """One server on loopback, reached with its random password."""

    def __init__(self, port: int, password: str) -> None:
        self._base = f"http://127.0.0.1:{port}"
        self._auth = httpx.BasicAuth(USERNAME, password)
        self._client = self._new_client(CALL_S)

    async def close(self) -> None:
        await self._client.aclose()

    async def probe(self, attempt: int) -> bool:
        """Whether it answers a real query, on a fresh connection and in short time."""
        limit_s = PROBE_S[min(attempt, len(PROBE_S) - 1)]
        try:
            async with self._new_client(limit_s) as client, asyncio.timeout(limit_s):
                answer = await client.get("/session", params={"limit": 1})
        except (httpx.HTTPError, TimeoutError):
            return False
        return answer.status_code == httpx.codes.OK

    async def session_exists(self, session_id: str) -> bool:
        answer = await self._send("GET", f"/session/{session_id}", known={404})
        return answer.status_code == httpx.codes.OK and bool(answer.content)

    async def create_session(self, title: str) -> str:
        """A new session's id. With a title no model is asked to find one."""
        answer = await self._send("POST", "/session", {"title": title})
        found = _parse(answer).get("id")
        if not isinstance(found, str) or not found:
            raise _unreachable("it made a session without an id")
        return found

    async def status(self, session_id: str) -> Json:
        """`{"type": "idle" | "busy" | "retry" | "offline", ...}` of one session."""
        statuses = _parse(await self._send("GET", "/session/status"))
        found = statuses.get(session_id)
        return found if isinstance(found, Mapping) else {"type": "idle"}

    async def prompt(self, session_id: str, body: Json) -> None:
        """Hands a prompt over; it is stored a little later, or not at all."""
        await self._send("POST", f"/session/{session_id}/prompt_async", body)

    async def has_message(self, session_id: str, message_id: str) -> bool:
        path = f"/session/{session_id}/message/{message_id}"
        answer = await self._send("GET", path, known={404})
        return answer.status_code == httpx.codes.OK and bool(answer.content)

    async def newest_messages(self, session_id: str, limit: int) -> list[Json]:
        """`[{"info": …, "parts": […]}]`, the oldest of them first."""
        path = f"/session/{session_id}/message"
        answer = await self._send("GET", path, params={"limit": limit})
        try:
            found = answer.json()
        except ValueError as error:
            raise _unreachable(f"{path} gave no JSON") from error
        return [each for each in found if isinstance(each, Mapping)]

    async def abort(self, session_id: str) -> None:
        await self._send("POST", f"/session/{session_id}/abort", {})

    async def retry_network(self, request_id: str) -> None:
        """Tells a session that waits for the network to try again."""
        await self._send("POST", f"/network/{request_id}/reply", {}, known={404})

    async def events(self) -> AsyncGenerator[Json, None]:
        """Its events from now on, until the stream ends. There is no replay."""
        timeout = httpx.Timeout(STREAM_S, connect=CONNECT_S)
        try:
            async with self._client.stream("GET", "/event", timeout=timeout) as answer:
                answer.raise_for_status()
                async for line in _lines(answer.aiter_bytes()):
                    if line.startswith(b"data:"):
                        event = json.loads(line[5:])
                        if isinstance(event, dict):
                            yield event
        except (httpx.HTTPError, ValueError) as error:
            raise _unreachable(str(error) or type(error).__name__) from error

    async def _send(
        self,
        method: str,
        path: str,
        body: Json | None = None,
        known: frozenset[int] | set[int] = frozenset(),
        params: Mapping[str, int] | None = None,
    ) -> httpx.Response:
        try:
            async with asyncio.timeout(CALL_S):
                answer = await self._client.request(
                    method, path, json=body, params=params
                )
        except (httpx.HTTPError, TimeoutError) as error:
            raise _unreachable(str(error) or type(error).__name__) from error
        if answer.is_success or answer.status_code in known:
            return answer
        text = answer.text[:ERROR_LENGTH_MAX]
        if answer.status_code == httpx.codes.BAD_REQUEST:
            raise ServiceError(
                Reason.FIELD_INVALID, f"cannot give this to kilo, it says: {text}"
            )
        raise _unreachable(f"{path} answered {answer.status_code}: {text}")

    def _new_client(self, timeout_s: float) -> httpx.AsyncClient:
        return httpx.AsyncClient(
            base_url=self._base,
            auth=self._auth,
            timeout=httpx.Timeout(timeout_s, connect=CONNECT_S),
            trust_env=False,  # a proxy has no business on loopback
        )


def _parse(answer: httpx.Response) -> Json:
    try:
        found = answer.json()
    except ValueError as error:
        raise _unreachable(f"{answer.url.path} gave no JSON") from error
    if not isinstance(found, dict):
        raise _unreachable(f"{answer.url.path} gave no JSON object")
    return found


async def _lines(chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    line = bytearray()
    async for chunk in chunks:
        *whole, rest = chunk.split(b"\n")
        for piece in whole:
            line += piece
            yield bytes(line)
            line.clear()
        line += rest
        if len(line) > EVENT_BYTES_MAX:
            raise ValueError(f"an event beyond {EVENT_BYTES_MAX} bytes")


def _unreachable(what: str) -> ServiceError:
    return ServiceError(
        Reason.RUNTIME_UNREACHABLE,
        f"cannot talk to the agent's kilo server: {what[:ERROR_LENGTH_MAX]}; if it "
        "goes on, stop the agent and start it again",
    )
