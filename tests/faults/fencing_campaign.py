"""A writer is paused for longer than its lease; another goes on; then it wakes up.

Two containers share an agent that writes all the time. In each round the one that has
it is stopped with SIGSTOP at a random instant, in half of the rounds with a save of it
on the way. When its lease has ended, the other one claims the agent, restores it and
saves. Then the first one wakes up, cut off from the registry, so that nothing but its
next save can tell it what happened. That save must be refused, and

- nothing is committed under its epoch any more, then or later,
- it ends its agent and keeps the database aside,
- the history is one: no tick of the new owner is missing, every epoch only rose.

Then the roles change. Run it whole: `make fencing ROUNDS=200 SEED=1`.
"""

from __future__ import annotations

import json
import random
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from services.chassis.errors import Reason
from tests.faults.campaign import Rows, Say, in_lanes, percentile, run
from tests.support.container import Container
from tests.support.diary import read_diary
from tests.support.plane import PlaneProcess
from tests.support.slow_proxy import SlowProxy
from tests.support.town import DATABASE, Town
from tests.support.waiting import wait_until_sync

LANES: Final = 4
AGENT: Final = "a"
LEASES: Final = {"TOWNKEEPER_LEASE_TTL": "3s", "TOWNKEEPER_HEARTBEAT_INTERVAL": "1s"}
# Saves come each second: pauses fall before, between, and within them.
PAUSE_WITHIN_S: Final = 1.5
# Where a save is cut, on the wire: before the end of its header, or after it.
ROOM_BYTES: Final = (200, 900)
# More than this was received of a save whose header had been accepted.
HEADER_BYTES: Final = 300
LIMIT_S: Final = 60.0


@dataclass
class Round:
    """What one pause did."""

    number: int
    held: bool  # a save was on its way
    paused_s: float = 0.0
    refused_s: float = 0.0  # from the wakening to the refusal
    received_bytes: int = 0  # of the save that was refused
    stale: int = 0
    complaints: list[str] = field(default_factory=list)


class Log:
    """What the snapshot service writes from now on about one town."""

    def __init__(self, plane: PlaneProcess, town: str) -> None:
        self._path = plane.data.logs / "snapshots.log"
        self._town = town
        self._start = self._path.stat().st_size

    def refusals(self) -> list[dict[str, Any]]:
        """Uploads that were refused to somebody who lost the agent."""
        with self._path.open("rb") as file:
            file.seek(self._start)
            lines = file.read().split(b"\n")[:-1]
        wanted = [line for line in lines if b'"LEASE_FENCED"' in line]
        return [
            call
            for call in map(json.loads, wanted)
            if "UploadSnapshot" in call.get("method", "")
            and call["towns"] == [self._town]
        ]


class Side:
    """One of the two containers, and its ways to the registry and to the store."""

    def __init__(self, stack: ExitStack, plane: PlaneProcess, root: Path, town: str):
        self.registry = stack.enter_context(SlowProxy(plane.endpoints.registry))
        self.snapshots = stack.enter_context(SlowProxy(plane.endpoints.snapshots))
        self.container = stack.enter_context(
            Container(
                plane,
                root,
                town=town,
                slot=root.name,
                snapshots=self.snapshots.address,
                TOWNKEEPER_REGISTRY_ADDR=self.registry.address,
                # Else it would wake up, stand still at once, and have nothing to save.
                TOWNKEEPER_ON_LEASE_UNKNOWN="continue",
            )
        )

    @contextmanager
    def paused(self) -> Iterator[None]:
        """SIGSTOP to all of it; it wakes up without a way to the registry."""
        with self.container.paused():
            yield
            self.registry.hole = True
            self.snapshots.to_server.room_bytes = None

    def pid(self) -> int:
        """The agent's process."""
        return read_diary(self.container.home(AGENT) / DATABASE).writers[-1]

    def ended(self, pid: int, shelves: int) -> bool:
        """Whether that process is gone and its database is kept aside."""
        pids = {one.pid for one in self.container.processes()}
        return pid not in pids and len(self.container.aside(AGENT)) == shelves + 1


class Lane:
    """A town of its own, with two containers and one agent."""

    def __init__(self, plane: PlaneProcess, folder: Path, number: int, seed: int):
        self._plane = plane
        self._folder = folder
        self._name = f"lane-{number}"
        self._dice = random.Random(f"{seed} {number}")
        self._town = Town(plane, self._name)

    def play(self, numbers: range, report: Say) -> list[Round]:
        with ExitStack() as stack:
            one, two = (
                Side(stack, self._plane, self._folder / f"{self._name}-{n}", self._name)
                for n in (1, 2)
            )
            self._town.started(AGENT, "--tick-s", "0.02")
            if self._town.status(AGENT)["instanceId"] == two.container.slot:
                one, two = two, one
            rounds = []
            for number in numbers:
                rounds.append(self._round(number, one, two))
                report(_told(rounds[-1]))
                one, two = two, one
            return rounds

    def _round(self, number: int, old: Side, new: Side) -> Round:
        result = Round(number, held=self._dice.random() < 0.5)
        town, complain = self._town, result.complaints.append
        epoch = town.status(AGENT)["epoch"]
        self._wait_saved(epoch)
        pid, shelves = old.pid(), len(old.container.aside(AGENT))
        if result.held:
            # Cut somewhere in the next save: before its header, or well after it.
            old.snapshots.to_server.room_bytes = self._dice.randint(*ROOM_BYTES)
        time.sleep(self._dice.uniform(0.0, PAUSE_WITHIN_S))  # the instant of the pause
        with old.paused():
            begun = time.monotonic()
            refusals = new.container.start_when_free(AGENT, LIMIT_S)
            self._wait_saved(town.status(AGENT)["epoch"])
            before = town.generations(AGENT)[0].generation
            log = Log(self._plane, self._name)
        result.paused_s = time.monotonic() - begun
        wait_until_sync(log.refusals, what="it is refused", limit_s=LIMIT_S)
        result.refused_s = time.monotonic() - begun - result.paused_s
        result.received_bytes = log.refusals()[0]["received_bytes"]
        wait_until_sync(
            lambda: old.ended(pid, shelves), what="it ends its agent", limit_s=LIMIT_S
        )
        old.registry.hole = False
        self._wait_saved(town.status(AGENT)["epoch"], after=before)
        if refusals != {Reason.LEASE_HELD}:
            complain(f"the lease was not waited for: {refusals}")
        self._check(result, epoch, before)
        return result

    def _wait_saved(self, epoch: int, after: int = 0) -> None:
        def saved() -> bool:
            head = next(iter(self._town.generations(AGENT)), None)
            return head is not None and (
                head.epoch == epoch and head.generation > after
            )

        what = f"a save of epoch {epoch} after {after}"
        wait_until_sync(saved, what=what, limit_s=LIMIT_S)

    def _check(self, result: Round, epoch: int, before: int) -> None:
        complain = result.complaints.append
        generations = self._town.generations(AGENT)
        result.stale = sum(
            one.epoch <= epoch for one in generations if one.generation > before
        )
        if result.stale:
            complain(f"{result.stale} stale commits")
        epochs = [one.epoch for one in reversed(generations)]
        if sorted(epochs) != epochs:
            complain(f"epochs fell: {epochs}")
        if gaps := self._town.saved(AGENT).gaps:
            complain(f"{len(gaps)} ticks are missing")


def _told(one: Round) -> str:
    return (
        f"round {one.number}: paused {one.paused_s:.1f} s"
        f"{' with a save on its way' if one.held else ''}, refused LEASE_FENCED after"
        f" {one.refused_s:.2f} s and {one.received_bytes} bytes,"
        f" {one.stale} stale commits: {'; '.join(one.complaints) or 'ok'}"
    )


def play(rounds: int, seed: int, report: Say) -> list[Round]:
    """The whole campaign, in lanes side by side; says how each round went."""
    with (
        tempfile.TemporaryDirectory(prefix="tk-fencing-") as folder,
        PlaneProcess(Path(folder) / "d", **LEASES) as plane,
    ):

        def one(lane: int, numbers: range) -> list[Round]:
            return Lane(plane, Path(folder), lane, seed).play(numbers, report)

        return in_lanes(LANES, rounds, one)


def rows(rounds: list[Round]) -> Rows:
    """The figures, as they stand in docs/proof.md."""
    return [
        ("paused with a save on its way", sum(one.held for one in rounds)),
        ("refused saves of the old owner", sum(bool(one.refused_s) for one in rounds)),
        (
            "of these, after their header had been accepted",
            sum(one.received_bytes > HEADER_BYTES for one in rounds),
        ),
        ("stale commits", sum(one.stale for one in rounds)),
        ("paused, shortest", f"{min(one.paused_s for one in rounds):.1f} s"),
        (
            "from waking up to the refusal, median",
            f"{percentile([one.refused_s for one in rounds], 50):.2f} s",
        ),
    ]


if __name__ == "__main__":
    sys.exit(run(__doc__, 200, play, rows))
