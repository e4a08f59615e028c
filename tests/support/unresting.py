"""An agent that never rests while things break around it, and what must hold then.

Messages are posted, saves are asked for, and the agent commits all the while. After
each trouble it must be well again by itself, and then

- each message that was accepted is stored once, answered, in the order of acceptance,
- what a `SaveAgent` had answered OK for is there, written by whom it was written,
- the newest generation is sound, without a gap, and epochs only ever rose.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import apsw
import grpc

from tests.support.diary import Diary, read_diary
from tests.support.poster import Poster, keys
from tests.support.town import DATABASE, Town
from townkeeper.registry.v1 import resources_pb2
from townkeeper.supervisor.v1 import supervisor_pb2
from townkeeper.supervisor.v1.supervisor_pb2_grpc import SupervisorServiceStub

AGENT: Final = "a"
OPTIONS: Final = ("--tick-s", "0.03", "--think-s", "0.02", "--stubborn")
WELL_S: Final = 90.0
SAVE_EVERY_S: Final = 0.2
SAVE_S: Final = 10.0


@dataclass
class Unresting:
    """The agent `a` of a town; where its supervisor answers and its disk lies now."""

    town: Town
    supervisor: Callable[[], SupervisorServiceStub]
    container: Callable[[], Path]
    _names: Iterator[str] = field(default_factory=keys)
    _accepted: list[str] = field(default_factory=list)
    _promised: dict[int, int] = field(default_factory=dict)

    def start(self) -> None:
        self.town.started(AGENT, *OPTIONS)

    def through(self, trouble: Callable[[], object], name: str, after_s: float) -> None:
        """Has a trouble come after a while, waits until it is over, and checks all."""
        town = self.town
        with (
            _Savings(self) as savings,
            Poster(town, AGENT, self._names, patient=True) as poster,
        ):
            time.sleep(after_s)  # the instant, not a wait
            trouble()
            struck = time.monotonic()
            poster.wait_for_more(WELL_S)
            town.wait_status(AGENT, "running", limit_s=WELL_S)
            poster.wait_for_more(WELL_S)
            well_s = time.monotonic() - struck
        self._accepted += poster.accepted
        self._promised |= savings.promised
        town.wait_settled(AGENT, limit_s=WELL_S)
        sys.stderr.write(
            f"{name}: well after {well_s:.1f} s, {len(poster.accepted)} messages,"
            f" {len(savings.promised)} ticks were promised\n"
        )
        assert [] == poster.unsure
        self._check(town.saved(AGENT))

    def read(self) -> Diary:
        """The database on the container's disk."""
        return read_diary(self.container() / "agents" / AGENT / "home" / DATABASE)

    def _check(self, saved: Diary) -> None:
        messages = self.town.messages(AGENT)
        assert self._accepted == list(messages) == saved.ids
        assert [] == saved.unanswered
        delivered = resources_pb2.Message.STATE_DELIVERED
        assert {delivered} == {one.state for one in messages.values()}
        assert [] == saved.gaps
        promised = self._promised.items()
        lost = [one for one, by in promised if saved.written.get(one) != by]
        assert [] == lost
        epochs = [one.epoch for one in reversed(self.town.generations(AGENT))]
        assert sorted(epochs) == epochs


class _Savings:
    """Asks for saves all the while, and remembers what the last OK stands for."""

    def __init__(self, agent: Unresting) -> None:
        self.promised: dict[int, int] = {}
        self._agent = agent
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="savings")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()
        self._thread.join(60)

    def _run(self) -> None:
        name = self._agent.town.path_of(AGENT)
        request = supervisor_pb2.SaveAgentRequest(name=name)
        while not self._stop.wait(SAVE_EVERY_S):
            try:
                # Read before the call: all of this must be durable when it answers.
                before = self._agent.read().written
                self._agent.supervisor().SaveAgent(request, timeout=SAVE_S)
            except (grpc.RpcError, apsw.Error, AssertionError):
                continue  # nothing was promised
            self.promised = before
