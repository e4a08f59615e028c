"""A Kilo that does what a test says: its HTTP calls and its database, no process."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import apsw

from services.chassis.errors import Reason, ServiceError

SESSION = "ses_fake"
LOST = object()  # put in the stream: the connection breaks


class FakeKilo:
    """Stores prompts unless told not to; says nothing of its own accord."""

    def __init__(self, database: Path) -> None:
        self.stream: asyncio.Queue[object] = asyncio.Queue()
        self.state: dict[str, Any] = {"type": "idle"}
        self.prompts: list[Mapping[str, Any]] = []
        self.retried: list[str] = []
        self.connections = 0
        self.stores = True
        self.tells_of_aborts = False
        self.unreachable = False
        self._database = database
        with closing(apsw.Connection(str(database))) as connection:
            connection.execute(
                "create table message (id text primary key, session_id text,"
                " time_created integer, data text)"
            )

    def say(self, name: str, **properties: object) -> None:
        """An event of our session."""
        data = {"sessionID": SESSION} | properties
        self.stream.put_nowait({"type": name, "properties": data})

    def store(self, message_id: str, **info: object) -> None:
        """A message in the database, nothing said of it."""
        with closing(apsw.Connection(str(self._database))) as connection:
            connection.execute(
                "insert or replace into message"
                " select ?, ?, 1000 + count(*), ? from message",
                (message_id, SESSION, json.dumps(info)),
            )

    def answer(self, number: int, **info: object) -> None:
        """An assistant message of the prompt with this number."""
        parent = self.prompts[number]["messageID"]
        self.store(f"msg_answer{number}", role="assistant", parentID=parent, **info)

    def finish(self, number: int) -> None:
        """A whole answer."""
        self.answer(number, finish="stop", time={"created": 1, "completed": 2})

    async def events(self) -> AsyncGenerator[Mapping[str, Any], None]:
        self.connections += 1
        yield {"type": "server.connected", "properties": {}}
        while (event := await self.stream.get()) is not LOST:
            assert isinstance(event, dict)
            yield event
        raise ServiceError(Reason.RUNTIME_UNREACHABLE, "cannot read: connection lost")

    async def status(self, session_id: str) -> Mapping[str, Any]:
        self._check()
        return self.state

    async def prompt(self, session_id: str, body: Mapping[str, Any]) -> None:
        self._check()
        self.prompts.append(body)
        if self.stores:
            self.store(body["messageID"], role="user")
            self.say("message.updated", info={"id": body["messageID"], "role": "user"})

    async def has_message(self, session_id: str, message_id: str) -> bool:
        self._check()
        with closing(apsw.Connection(str(self._database))) as connection:
            found = connection.execute(
                "select 1 from message where id = ?", (message_id,)
            ).fetchone()
        return found is not None

    async def abort(self, session_id: str) -> None:
        self._check()
        if self.tells_of_aborts:
            self.say("session.turn.close", reason="interrupted")

    async def retry_network(self, request_id: str) -> None:
        self.retried.append(request_id)

    async def close(self) -> None:
        self.stream.put_nowait(LOST)

    def _check(self) -> None:
        if self.unreachable:
            raise ServiceError(Reason.RUNTIME_UNREACHABLE, "cannot reach: no answer")
