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


def test_an_orphan_in_mid_turn_is_saved_ended_and_resumed(mayor: Mayor) -> None:
    """The supervisor alone is killed: the cut turn is marked, not run again."""
    epoch = mayor.town.status(AGENT)["epoch"]
    key = mayor.tell("run: echo three\nhold")
    wait_until_sync(lambda: mayor.model.holding, what="an answer stands", limit_s=60)

    orphans = mayor.container.kill_supervisor()
    assert [True] == [one.alive for one in orphans]
    mayor.container.start()
    status = mayor.town.wait_status(AGENT, "running", epoch=epoch + 1, limit_s=READY_S)
    mayor.town.wait_settled(AGENT, limit_s=SETTLE_S)

    assert [False] == [one.alive for one in orphans]
    assert status["resumed"]
    interrupted = resources_pb2.Message.STATE_INTERRUPTED
    assert interrupted == mayor.town.messages(AGENT)[key].state
    assert mayor.town.status(AGENT)["interrupted"]
    mayor.assert_whole()
