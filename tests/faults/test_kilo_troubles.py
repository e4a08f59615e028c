"""A real Kilo mayor through a slow store, then through the death of its supervisor.

The tests of this file share one mayor and tell one story, in order.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import httpx
import pytest

from services.cli.runtimes import install_kilo
from services.cli.stand_in_model import StandInModel
from tests.support.container import Container
from tests.support.kilo_session import AGENT, DATABASE, read_session, start_request
from tests.support.plane import PlaneProcess
from tests.support.slow_proxy import SlowProxy
from tests.support.stop_and_start import stop_and_start
from tests.support.town import Town
from tests.support.waiting import wait_until_sync
from townkeeper.registry.v1 import resources_pb2

pytestmark = [pytest.mark.faults, pytest.mark.kilo, pytest.mark.timeout(300)]

TOWN: Final = "kilo-troubles"
READY_S: Final = 150.0
SETTLE_S: Final = 90.0


@dataclass
class Mayor:
    """The mayor, its container, the way to the store, and the model behind it."""

    town: Town
    container: Container
    way: SlowProxy
    model: StandInModel
    record: dict[str, Any]
    texts: list[str]

    def start(self) -> httpx.Response:
        request = start_request(TOWN, self.model.url)
        return self.town.post("container/agents/start", json=request, timeout=READY_S)

    def tell(self, text: str) -> str:
        """The id of a message that was accepted."""
        self.texts.append(text)
        return self.town.said(AGENT, text)

    def assert_whole(self) -> None:
        """The same session holds each message once, and the model is shown all."""
        self.tell("what did I say so far?")
        self.town.wait_settled(AGENT, limit_s=SETTLE_S)
        session = read_session(self.container.home(AGENT) / DATABASE)
        assert self.texts == session.texts
        assert self.texts == list(self.model.calls[-1].prompts)
        assert self.record["sessionId"] == self.town.status(AGENT)["sessionId"]
        assert [] == self.container.aside(AGENT)


@pytest.fixture(scope="module")
def mayor(
    plane: PlaneProcess, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Mayor]:
    with (
        StandInModel() as model,
        SlowProxy(plane.endpoints.snapshots) as way,
        Container(
            plane,
            tmp_path_factory.mktemp("mayor") / "container",
            town=TOWN,
            slot="one",
            snapshots=way.address,
            TOWNKEEPER_KILO_BIN=str(install_kilo()),
        ) as container,
    ):
        mayor = Mayor(Town(plane, TOWN), container, way, model, {}, [])
        started = mayor.start()
        assert 201 == started.status_code, started.text
        mayor.record = started.json()
        yield mayor


def test_a_start_right_after_a_stop_has_the_whole_history(mayor: Mayor) -> None:
    """D1: stop, then start at once, while the store takes 2 s for everything."""
    mayor.tell("run: echo one")
    mayor.tell("write notes.txt: two")
    mayor.town.wait_settled(AGENT, limit_s=SETTLE_S)

    mayor.way.delay_s = 2.0
    stopped, started, ended = stop_and_start(mayor.town, AGENT, mayor.start)
    mayor.way.delay_s = 0.0

    assert (200, 201) == (stopped.status_code, started.status_code), started.text
    assert ["stop", "start"] == ended
    assert started.json()["resumed"]
    mayor.assert_whole()


def test_a_turn_goes_on_over_the_death_of_the_supervisor(mayor: Mayor) -> None:
    """The same process, the same turn: it ends by itself, once, and what was said
    meanwhile is among the events of the new supervisor."""
    before = mayor.town.status(AGENT)
    kept = ("sessionId", "serverPort", "startedAt")
    key = mayor.tell("run: echo three\nhold")
    wait_until_sync(lambda: mayor.model.holding, what="an answer stands", limit_s=60)

    orphans = mayor.container.kill_supervisor()
    mayor.container.wait_ready()
    after = mayor.tell("and this one waits for it")
    status = mayor.town.wait_status(
        AGENT, "running", epoch=before["epoch"] + 1, limit_s=READY_S
    )
    assert [True] == [one.alive for one in orphans]
    assert [before[name] for name in kept] == [status[name] for name in kept]
    calls = len(mayor.model.calls)
    httpx.post(f"{mayor.model.url.removesuffix('/v1')}/release").raise_for_status()
    mayor.town.wait_settled(AGENT, limit_s=SETTLE_S)

    delivered = resources_pb2.Message.STATE_DELIVERED
    settled = mayor.town.messages(AGENT)
    assert [delivered] * 2 == [settled[each].state for each in (key, after)]
    assert [True] == [one.alive for one in orphans]
    assert not mayor.town.status(AGENT)["interrupted"]
    # The held turn ends with the answer that it had, and one more is begun.
    assert calls + 1 == len(mayor.model.calls)
    mayor.assert_whole()
    assert_events_are_there(mayor)


def assert_events_are_there(mayor: Mayor) -> None:
    """Those of before the death were told by the first supervisor; the second tells
    the whole turn again, as the session holds it, and then goes on."""
    reply = mayor.town.get(f"container/agents/{AGENT}/events")
    events = reply.json()["events"]
    named = [event["event"] for event in events]
    assert "agent.adopted" in named
    parts = [
        event["data"]["part"]
        for event in events
        if event["event"] == "message.part.updated"
    ]
    tools = [part for part in parts if part.get("type") == "tool"]
    assert ["completed"] == [
        part["state"]["status"]
        for part in tools
        if "echo three" in str(part["state"].get("input"))
    ][:1]
    assert "session.turn.close" in named
