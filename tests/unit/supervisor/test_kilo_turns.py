"""Kilo's events are followed whatever they are."""

import asyncio
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import pytest

from services.supervisor.kilo.turns import Turn, Turns
from services.supervisor.runtime import RuntimeEvent

ODD = {"sessionID": "s", "status": {"type": {"not": "a word"}}}


class Api:
    """A server that first says one thing, by default something unheard of."""

    def __init__(
        self, kind: str = "session.status", said: dict[str, Any] | None = None
    ) -> None:
        self.streams = 0
        self._first = {"type": kind, "properties": said or ODD}

    async def events(self) -> AsyncGenerator[dict[str, Any], None]:
        self.streams += 1
        if self.streams == 1:
            yield self._first
        yield {"type": "server.connected", "properties": {}}
        await asyncio.Event().wait()

    async def status(self, session: str) -> dict[str, Any]:
        return {"type": "idle"}


async def test_an_event_of_an_unknown_shape_does_not_end_the_following() -> None:
    """A turn's end would never be heard of again, and its agent wait for ever."""
    heard: list[RuntimeEvent] = []
    turns = Turns(Api(), Path("none.db"), "s", heard.append)  # type: ignore[arg-type]
    follower = asyncio.create_task(turns.follow())

    waiting = asyncio.create_task(turns.connected.wait())
    await asyncio.wait({waiting, follower}, timeout=5, return_when="FIRST_COMPLETED")

    assert turns.connected.is_set()
    assert ["server.connected"] == [event.name for event in heard]
    for task in (waiting, follower):
        task.cancel()
    await asyncio.gather(waiting, follower, return_exceptions=True)


@pytest.mark.parametrize("aborted", [False, True])
async def test_only_an_abort_of_ours_interrupts_before_an_answer(aborted: bool) -> None:
    """The end of an aborted turn may come when the next message is stored already."""
    said = {"sessionID": "s", "reason": "interrupted"}
    heard: list[RuntimeEvent] = []
    turns = Turns(
        Api("session.turn.close", said),  # type: ignore[arg-type]
        Path("none.db"),
        "s",
        heard.append,
    )
    turns.current = Turn("next", "msg_next", aborted=aborted)
    follower = asyncio.create_task(turns.follow())

    await asyncio.wait_for(turns.connected.wait(), 5)

    ends = [event.message_id for event in heard if event.reason is not None]
    assert (["next"] if aborted else []) == ends
    follower.cancel()
    await asyncio.gather(follower, return_exceptions=True)


@pytest.mark.parametrize(
    ("error", "refused"), [("MessageAbortedError", False), ("UnknownError", True)]
)
async def test_the_echo_of_an_abort_refuses_nothing(error: str, refused: bool) -> None:
    """Kilo tells of an abort late: the next message may be on its way by then."""
    said = {"sessionID": "s", "error": {"name": error, "data": {}}}
    turns = Turns(
        Api("session.error", said),  # type: ignore[arg-type]
        Path("none.db"),
        "s",
        lambda event: None,
    )
    turn = turns.current = Turn("next", "msg_next")
    follower = asyncio.create_task(turns.follow())

    await asyncio.wait_for(turns.connected.wait(), 5)

    assert refused is bool(turn.refused)
    follower.cancel()
    await asyncio.gather(follower, return_exceptions=True)
