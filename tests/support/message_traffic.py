"""Senders that bear with anything, the agents that they speak to, and what must hold.

Each agent has two senders, one over HTTP and one by gRPC. A sender has one message at a
time accepted, and repeats it under its id until it is. The agent's program knows by the
id what it has, and notes in a file outside what was new to it. When all is sent

- each accepted message was processed, once, with its text, and nothing else was,
- those of one sender in the order in which they were accepted,
- all of them are settled as delivered, and no program was ever started anew.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import grpc
import httpx

from tests.support.diary import Entry
from tests.support.poster import text_of
from tests.support.town import PENDING, Town, once_there
from tests.support.waiting import wait_until_sync
from townkeeper.registry.v1 import registry_pb2, resources_pb2

AGENTS: Final = ("ada", "bob")  # of each town
# Nobody may be held up for longer, whatever dies.
LIMIT_S: Final = 60.0
AGAIN_S: Final = 0.05
# Between two messages of a sender. Agents keep up with that: who waits for an agent has
# nothing on its way when something dies.
PAUSE_S: Final = 0.2
# Where agents do not keep up: senders far ahead would be done before most things die.
WAITING_MAX: Final = 50
# How many more accepted messages show that a sender goes on: the first of them may
# have been accepted before, and its answer on the way.
MORE: Final = 2
PASSING_STATUSES: Final = frozenset({429, 503, 504})
PASSING_CODES: Final = frozenset(
    {
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
    }
)
DELIVERED: Final = resources_pb2.Message.STATE_DELIVERED


@dataclass(frozen=True, slots=True)
class Heard:
    """All that there is of one agent's messages in the end."""

    sent: Sequence[Sequence[str]]  # ids that were accepted from each sender, in order
    listed: Mapping[str, int]  # id → its state in the inbox
    entries: Sequence[Entry]  # of the newest saved session, in order of processing
    noted: Sequence[tuple[int, str]]  # pid and id, as noted outside

    def complaints(self) -> list[str]:
        """What is wrong with it."""
        accepted = [key for keys in self.sent for key in keys]
        stored = [one.id for one in self.entries]
        noted = Counter(key for _, key in self.noted)
        place = {key: number for number, key in enumerate(stored)}
        mixed = []
        for keys in self.sent:
            places = [place[key] for key in keys if key in place]
            if places != sorted(places):
                mixed.append(keys[0].partition("-")[0])
        found: dict[str, Sequence[object]] = {
            "accepted and not processed": sorted(set(accepted) - set(stored)),
            "processed and never accepted": sorted(set(stored) - set(accepted)),
            "processed more than once": [key for key, n in noted.items() if n > 1],
            "processed and not noted": sorted(set(stored) - set(noted)),
            "noted and not saved": sorted(set(noted) - set(stored)),
            "not answered": [one.id for one in self.entries if not one.answered],
            "with another text": [
                one.id for one in self.entries if one.text != text_of(one.id)
            ],
            "not settled": [k for k in accepted if self.listed.get(k) != DELIVERED],
            "more starts of the program": list({pid for pid, _ in self.noted})[1:],
            "senders whose order is broken": mixed,
        }
        return [
            f"{len(which)} {what}, such as {which[0]}"
            for what, which in found.items()
            if which
        ]


class Ear:
    """An agent, and its notes outside."""

    def __init__(self, town: Town, agent: str, folder: Path) -> None:
        self.town = town
        self.agent = agent
        self.name = f"{town.name}-{agent}"
        self.senders: list[Sender] = []
        self._notes = folder / f"{self.name}.notes"
        self._count = self._read_bytes = 0
        self._reading = threading.Lock()

    def start(self) -> None:
        self._notes.touch()
        self.town.started(self.agent, "--notes", str(self._notes))

    def keeps_up(self) -> bool:
        """Whether few enough messages wait for it that it may be sent more."""
        accepted = sum(len(one.accepted) for one in self.senders)
        return accepted - self._processed() < WAITING_MAX

    def _processed(self) -> int:
        with self._reading, self._notes.open("rb") as notes:
            notes.seek(self._read_bytes)
            news = notes.read()
            self._read_bytes += len(news)
            self._count += news.count(b"\n")
            return self._count

    def wait_empty(self) -> None:
        """Returns when nothing waits in its inbox."""
        request = registry_pb2.ListMessagesRequest(
            parent=self.town.path_of(self.agent), page_size=1, state=PENDING
        )
        stub = self.town.plane.registry(town=self.town.name)

        def empty() -> bool:
            return not once_there(stub.ListMessages, request).messages

        wait_until_sync(empty, what=f"{self.name}'s inbox is empty", limit_s=LIMIT_S)

    def heard(self) -> Heard:
        """All of it; asked when nothing dies any more."""
        messages = self.town.messages(self.agent)
        lines = (line.split() for line in self._notes.read_text("ascii").splitlines())
        return Heard(
            [sender.accepted for sender in self.senders],
            {key: one.state for key, one in messages.items()},
            self.town.saved(self.agent).entries,
            [(int(pid), key) for pid, key in lines],
        )


class Sender(threading.Thread):
    """Has its messages accepted, one after the other; ends early when that fails."""

    def __init__(self, ear: Ear, way: str, keys: Sequence[str], pause_s: float) -> None:
        super().__init__(name=f"{way}-to-{ear.name}")
        self.way = way
        self.accepted: list[str] = []
        self.repeated = 0
        self.failed = ""
        self._ear = ear
        self._keys = keys
        self._pause_s = pause_s
        self._stopped = threading.Event()
        self._try: Callable[[str], str] = {"http": self._post, "grpc": self._call}[way]
        self._stub = ear.town.plane.registry("user", town=ear.town.name)

    def run(self) -> None:
        try:
            for key in self._keys:
                if self._stopped.wait(self._pause_s):
                    return
                self._wait_turn()
                self._send(key)
        except (AssertionError, grpc.RpcError) as error:
            self.failed = f"{self.name}: {error}"

    def end(self) -> None:
        """It sends no more; returns when it is gone."""
        self._stopped.set()
        self.join(LIMIT_S)

    def goes_on(self) -> Callable[[], bool]:
        """Whether it has had more accepted since this was called, or has no more."""
        wanted = len(self.accepted) + MORE
        return lambda: not self.is_alive() or len(self.accepted) >= wanted

    def _wait_turn(self) -> None:
        wait_until_sync(
            lambda: self._stopped.is_set() or self._ear.keeps_up(),
            what=f"{self._ear.name} processes what it was sent",
            limit_s=LIMIT_S,
        )

    def _send(self, key: str) -> None:
        deadline = time.monotonic() + LIMIT_S
        while refused := self._try(key):
            assert time.monotonic() < deadline, f"{key} is not accepted: {refused}"
            assert not self._stopped.wait(AGAIN_S), f"ended before {key} was accepted"
            self.repeated += 1
        self.accepted.append(key)

    def _post(self, key: str) -> str:
        """Over HTTP: why the message was not accepted, empty if it was."""
        try:
            reply = self._ear.town.say(self._ear.agent, text_of(key), key)
        except httpx.TransportError as error:
            return repr(error)
        if reply.status_code in PASSING_STATUSES:
            return f"{reply.status_code} {reply.text}"
        assert 200 == reply.status_code, f"{reply.status_code} {reply.text}"
        return ""

    def _call(self, key: str) -> str:
        """The same by gRPC."""
        request = registry_pb2.EnqueueMessageRequest(
            parent=self._ear.town.path_of(self._ear.agent),
            message_id=key,
            text=text_of(key),
        )
        try:
            self._stub.EnqueueMessage(request)
        except grpc.RpcError as error:
            if error.code() not in PASSING_CODES:
                raise
            return str(error.code())
        return ""


class Traffic:
    """All senders of all agents of some towns, while the block lasts."""

    def __init__(
        self,
        towns: Sequence[Town],
        folder: Path,
        messages: int,
        pause_s: float = PAUSE_S,
    ) -> None:
        self._ears = [Ear(town, agent, folder) for town in towns for agent in AGENTS]
        ways = list(itertools.product(self._ears, ("http", "grpc")))
        for number, (ear, way) in enumerate(ways):
            numbers = range(number, messages, len(ways))
            keys = [f"{way}-{n}" for n in numbers]
            ear.senders.append(Sender(ear, way, keys, pause_s))
            ear.town.http("user")  # made before the threads that share it
        self._senders = [sender for ear in self._ears for sender in ear.senders]

    def __enter__(self) -> Self:
        with ThreadPoolExecutor(len(self._ears)) as pool:
            list(pool.map(Ear.start, self._ears))
        for sender in self._senders:
            sender.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._end_senders()

    @property
    def over(self) -> bool:
        """Whether nobody sends any more."""
        return not any(sender.is_alive() for sender in self._senders)

    @property
    def repeated(self) -> int:
        """How often a message was sent again."""
        return sum(sender.repeated for sender in self._senders)

    def accepted(self, *ways: str) -> int:
        """How many messages were accepted so far, in one way or in all."""
        wanted = ways or ("http", "grpc")
        return sum(len(one.accepted) for one in self._senders if one.way in wanted)

    def wait_goes_on(self) -> None:
        """Returns when every sender has had more accepted since now."""
        going = [sender.goes_on() for sender in self._senders]
        what = "all senders go on"
        wait_until_sync(lambda: all(one() for one in going), what=what, limit_s=LIMIT_S)

    def wait_over(self, limit_s: float) -> None:
        """Returns when all is sent, or everybody has given up."""
        wait_until_sync(lambda: self.over, what="all is sent", limit_s=limit_s)

    def end(self) -> tuple[int, list[str]]:
        """Once nothing dies any more: how often a message was given again to a program
        that had it, and what is wrong."""
        self._end_senders()
        self._wait_served()
        complaints = [sender.failed for sender in self._senders if sender.failed]
        given = 0
        for ear in self._ears:
            try:
                ear.wait_empty()
            except AssertionError as late:
                complaints.append(str(late))
            heard = ear.heard()
            complaints += [f"{ear.name}: {what}" for what in heard.complaints()]
            given += sum(one.given for one in heard.entries) - len(heard.entries)
        return given, complaints

    def _end_senders(self) -> None:
        for sender in self._senders:
            sender.end()

    def _wait_served(self) -> None:
        """What died last may yet be on its way back."""
        client = self._ears[0].town.http("user")

        def served() -> bool:
            try:
                return client.get("/readyz").status_code == 200
            except httpx.TransportError:
                return False

        wait_until_sync(served, what="the gateway serves", limit_s=LIMIT_S)
