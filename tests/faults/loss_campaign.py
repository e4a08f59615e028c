"""SIGKILL of a container, disk wiped, at random instants; how much had not been saved?

Two programs write all the time in each container, and log each commit with its time to
a file outside. Nothing but the supervisor's own triggers saves the first; a `SaveAgent`
in a loop saves the second as well. At a random instant the supervisor and both die and
their disk is wiped. In what the next container restored

- the first lacks at most what it committed in the last moments: that is measured,
- the second has every commit that was there before a `SaveAgent` which answered OK,
- both have a state that they once had: no gap, nothing changed.

Run it whole: `make losses ROUNDS=500 SEED=1`.
"""

from __future__ import annotations

import random
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import grpc

from tests.faults.campaign import Rows, Say, in_lanes, percentile, run
from tests.support.container import Container
from tests.support.diary import Diary, Tick, Witness, read_diary
from tests.support.plane import PlaneProcess
from tests.support.town import DATABASE, Town
from tests.support.waiting import wait_until_sync
from townkeeper.supervisor.v1 import supervisor_pb2
from townkeeper.supervisor.v1.supervisor_pb2_grpc import SupervisorServiceStub

LANES: Final = 3
# Saves come each second: kills fall before, between, and within them.
KILL_WITHIN_S: Final = 5.0
BACK_S: Final = 60.0
TICK_S: Final = 0.02
# What is promised for 99 of 100 instants, and what no instant may exceed.
LOSS_P99_S: Final = 2.0
LOSS_MAX_S: Final = 4.0
SAVE_EVERY_S: Final = 0.1


@dataclass
class Round:
    """What one kill did."""

    number: int
    killed_at_s: float
    lost_s: float = 0.0
    lost_commits: int = 0
    promises: int = 0  # saves that were answered OK
    back_s: float = 0.0
    complaints: list[str] = field(default_factory=list)


class Writer:
    """One agent, and all that it ever committed, as its log outside tells."""

    def __init__(self, town: Town, container: Container, agent: str) -> None:
        self.agent = agent
        self.path = town.path_of(agent)
        self._town = town
        self._container = container
        self.witness = Witness(container.root.with_name(f"{container.slot}-{agent}"))
        self._history: dict[int, int] = {}
        self._kept = 0

    def start(self) -> None:
        options = ("--tick-s", str(TICK_S), "--witness", str(self.witness.path))
        self._town.started(self.agent, *options)

    def wait_alive(self) -> None:
        """Returns when a new process of it has committed something."""
        what = f"{self.agent} is back"
        wait_until_sync(self.witness.first_news, what=what, limit_s=BACK_S)

    def compare(self, ticks: list[Tick]) -> tuple[list[Tick], list[str]]:
        """What the next container restored against what was committed until the kill:
        commits that are lost, and what is wrong beyond that."""
        home = self._container.home(self.agent)
        restored = self._restored(read_diary(home / DATABASE))
        self._history |= {tick.number: tick.pid for tick in ticks}
        kept = max(restored, default=0)
        complaints = []
        if kept < self._kept:
            complaints.append(f"{self.agent}: went back from {self._kept} to {kept}")
        self._kept = kept
        if set(restored) != set(range(1, kept + 1)):
            complaints.append(f"{self.agent}: commits are missing before {kept}")
        # The last one may have died between its commit and its log.
        newest = max(self._history, default=0) + 1
        changed = [
            number
            for number, pid in restored.items()
            if number > newest or self._history.get(number, pid) != pid
        ]
        if changed:
            complaints.append(f"{self.agent}: never had {changed[:5]} like this")
        self._history = restored
        return [tick for tick in ticks if tick.number > kept], complaints

    def _restored(self, diary: Diary) -> dict[int, int]:
        """Without what the new process added: pids may come again, numbers do not."""
        first = self.witness.first_news()
        assert first is not None, "it is alive"
        return {n: pid for n, pid in diary.written.items() if n < first.number}


class Saving:
    """Asks for saves in a loop, and remembers what the last OK stands for."""

    def __init__(self, container: Container, writer: Writer) -> None:
        self.promised = 0
        self.answers = 0
        self._container = container
        self._writer = writer
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="saving")

    def __enter__(self) -> Saving:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(60)

    def _run(self) -> None:
        request = supervisor_pb2.SaveAgentRequest(name=self._writer.path)
        with self._container.channel() as channel:
            stub = SupervisorServiceStub(channel)
            while not self._stop.wait(SAVE_EVERY_S):
                # Read before the call: all of this must be durable when it answers.
                before = self._writer.witness.last()
                try:
                    stub.SaveAgent(request, timeout=5.0)
                except grpc.RpcError:
                    return  # killed: what was promised stands
                self.answers += 1
                self.promised = before.number if before else 0


class Lane:
    """One container of a town of its own, killed again and again."""

    def __init__(self, plane: PlaneProcess, folder: Path, number: int, seed: int):
        name = f"lane-{number}"
        self._dice = random.Random(f"{seed} {number}")
        town = Town(plane, name)
        self._container = Container(plane, folder / name, town=name, slot=name)
        self._alone = Writer(town, self._container, "alone")
        self._asked = Writer(town, self._container, "asked")

    def play(self, numbers: range, report: Say) -> list[Round]:
        with self._container:
            for writer in (self._alone, self._asked):
                writer.start()
                writer.wait_alive()
            return [self._round(number, report) for number in numbers]

    def _round(self, number: int, report: Say) -> Round:
        result = Round(number, self._dice.uniform(0.0, KILL_WITHIN_S))
        with Saving(self._container, self._asked) as saving:
            time.sleep(result.killed_at_s)  # the instant of death, not a wait
            struck = time.monotonic()
            self._container.kill(wipe=True)
        result.promises = saving.answers
        alone, asked = self._alone.witness.news(), self._asked.witness.news()
        self._container.start()
        for writer in (self._alone, self._asked):
            writer.wait_alive()
        result.back_s = time.monotonic() - struck
        lost, complaints = self._alone.compare(alone)
        if lost:
            struck = max(struck, lost[-1].committed_at_s)
            result.lost_s = struck - lost[0].committed_at_s
        result.lost_commits = len(lost)
        if result.lost_s > LOSS_MAX_S:
            complaints.append(f"{result.lost_s:.1f} s of commits are lost")
        lost, more = self._asked.compare(asked)
        complaints += more
        if broken := [one.number for one in lost if one.number <= saving.promised]:
            complaints.append(f"{len(broken)} commits that SaveAgent said OK to")
        result.complaints = complaints
        report(
            f"round {number}: killed after {result.killed_at_s:.2f} s,"
            f" lost {result.lost_s:.2f} s in {result.lost_commits} commits,"
            f" {result.promises} saves were OK, back in {result.back_s:.1f} s:"
            f" {'; '.join(complaints) or 'ok'}"
        )
        return result


def play(rounds: int, seed: int, report: Say) -> list[Round]:
    """The whole campaign, in lanes side by side; says how each round went."""
    with (
        tempfile.TemporaryDirectory(prefix="tk-losses-") as folder,
        PlaneProcess(Path(folder) / "d") as plane,
    ):

        def one(lane: int, numbers: range) -> list[Round]:
            return Lane(plane, Path(folder), lane, seed).play(numbers, report)

        return in_lanes(LANES, rounds, one)


def rows(rounds: list[Round]) -> Rows:
    """The figures, as they stand in docs/proof.md."""
    lost = [one.lost_s for one in rounds]
    commits = [one.lost_commits for one in rounds]
    backs = [one.back_s for one in rounds]
    return [
        ("instants at which nothing was lost", sum(not one for one in commits)),
        ("lost, median", f"{percentile(lost, 50):.2f} s"),
        ("lost, p99", f"{percentile(lost, 99):.2f} s"),
        ("lost, worst", f"{max(lost):.2f} s, {max(commits)} commits"),
        ("`SaveAgent` answered OK", f"{sum(one.promises for one in rounds)} times"),
        ("back, median", f"{percentile(backs, 50):.1f} s"),
        ("back, worst", f"{max(backs):.1f} s"),
    ]


def verdict(rounds: list[Round]) -> list[str]:
    """What the rounds together must hold."""
    worst_s = percentile([one.lost_s for one in rounds], 99)
    if worst_s <= LOSS_P99_S:
        return []
    return [f"the p99 of what was lost is {worst_s:.2f} s, not {LOSS_P99_S:g} s"]


if __name__ == "__main__":
    sys.exit(run(__doc__, 500, play, rows, verdict))
