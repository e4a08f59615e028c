"""One of three containers dies; what it ran goes on in the others, by itself.

Three containers share a town of thirty agents that write all the time. In each round
all that `SaveAgent` acknowledges is read, then one container that has agents is killed
with SIGKILL at a random instant, its disk is wiped, and nobody is told. Then

- each of its agents must run on one of the others within a TTL and five seconds,
- each exactly once, and none of the rest may have been touched,
- with everything that had been acknowledged, and no gap in its history.

A new container takes the dead one's slot for the next round. Run it whole:
`make takeovers ROUNDS=50 SEED=1`.
"""

from __future__ import annotations

import random
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from services.registry.leases import TTL_S
from tests.faults.campaign import Rows, Say, percentile, run
from tests.support.container import Container
from tests.support.plane import PlaneProcess
from tests.support.town import Town
from tests.support.waiting import wait_until_sync
from townkeeper.supervisor.v1 import resources_pb2, supervisor_pb2

TOWN: Final = "pool"
SLOTS: Final = ("one", "two", "three")
AGENTS: Final = 30
BACK_WITHIN_S: Final = TTL_S + 5.0
KILL_WITHIN_S: Final = 2.0
LIMIT_S: Final = 60.0
CALLS_AT_ONCE: Final = 4
RUNNING: Final = resources_pb2.Run.STATE_RUNNING


@dataclass
class Round:
    """What one death did."""

    number: int
    lost: int = 0  # agents that ran there
    back_s: list[float] = field(default_factory=list)  # from the kill, each
    complaints: list[str] = field(default_factory=list)


class Pool:
    """The town, its containers, and where each agent runs."""

    def __init__(self, stack: ExitStack, plane: PlaneProcess, folder: Path) -> None:
        self.town = Town(plane, TOWN)
        self.containers = {
            slot: stack.enter_context(
                Container(plane, folder / slot, town=TOWN, slot=slot)
            )
            for slot in SLOTS
        }
        with ThreadPoolExecutor(CALLS_AT_ONCE) as pool:
            agents = [f"agent-{number:02}" for number in range(AGENTS)]
            list(pool.map(self._start, agents))
        wait_until_sync(self._all_write, what="all have written", limit_s=LIMIT_S)

    def _start(self, agent: str) -> None:
        self.town.started(agent, "--tick-s", "0.25")

    def _all_write(self) -> bool:
        """A process that runs has not opened its database yet."""
        places = [(agent, one[0][0]) for agent, one in self.running().items()]
        return len(places) == AGENTS and all(
            self.containers[slot].diary(agent).ticks for agent, slot in places
        )

    def running(self) -> dict[str, list[tuple[str, str]]]:
        """Agent → slot and run of everyone that runs it."""
        found: dict[str, list[tuple[str, str]]] = {}
        for slot, container in self.containers.items():
            if not container.alive:
                continue
            request = supervisor_pb2.ListRunsRequest(parent=f"towns/{TOWN}")
            for one in container.supervisor().ListRuns(request).runs:
                if one.state == RUNNING:
                    agent, run_id = one.name.split("/")[3::2]
                    found.setdefault(agent, []).append((slot, run_id))
        return found

    def ticks(self, slot: str, agent: str) -> tuple[int, ...]:
        return self.containers[slot].diary(agent).ticks

    def save(self, slot: str, agent: str) -> tuple[int, ...]:
        """What was there before a save that was acknowledged."""
        ticks = self.ticks(slot, agent)
        name = f"towns/{TOWN}/agents/{agent}"
        request = supervisor_pb2.SaveAgentRequest(name=name)
        self.containers[slot].supervisor().SaveAgent(request, timeout=LIMIT_S)
        return ticks


def _play_round(pool: Pool, result: Round, dice: random.Random) -> None:
    complain = result.complaints.append
    before = {agent: found[0] for agent, found in pool.running().items()}
    if len(before) != AGENTS:
        complain(f"only {len(before)} run before the kill")
    counts = Counter(slot for slot, _ in before.values())
    victim = dice.choice(sorted(counts))
    moved = sorted(agent for agent, (slot, _) in before.items() if slot == victim)
    result.lost = len(moved)
    with ThreadPoolExecutor(CALLS_AT_ONCE) as calls:
        saved = list(calls.map(lambda agent: pool.save(victim, agent), moved))
    time.sleep(dice.uniform(0.0, KILL_WITHIN_S))  # the instant of the kill
    killed_at = time.monotonic()
    pool.containers[victim].kill(wipe=True)
    back: dict[str, float] = {}

    def all_back() -> bool:
        now = time.monotonic()
        for agent in pool.running().keys() & set(moved):
            back.setdefault(agent, now - killed_at)
        return len(back) == len(moved)

    wait_until_sync(all_back, what="all run elsewhere", limit_s=LIMIT_S)
    result.back_s = list(back.values())
    if late := [agent for agent, s in back.items() if s > BACK_WITHIN_S]:
        complain(f"{late} were back after {max(result.back_s):.1f} s only")
    after = pool.running()
    for agent, found in after.items():
        if len(found) != 1:
            complain(f"{agent} runs {len(found)} times: {found}")
        if agent not in moved and found != [before[agent]]:
            complain(f"{agent} was touched: {before[agent]} is {found}")
    for agent, ticks in zip(moved, saved, strict=True):
        diary = pool.containers[after[agent][0][0]].diary(agent)
        if ticks != diary.ticks[: len(ticks)] or diary.gaps:
            complain(f"{agent} lost what had been acknowledged: {diary.gaps}")
    pool.containers[victim].start()


def _told(one: Round) -> str:
    return (
        f"round {one.number}: {one.lost} agents back after"
        f" {max(one.back_s, default=0.0):.1f} s: {'; '.join(one.complaints) or 'ok'}"
    )


def play(rounds: int, seed: int, report: Say) -> list[Round]:
    """The whole campaign; says how each round went."""
    dice, played = random.Random(seed), []
    with ExitStack() as stack:
        prefix = "tk-takeover-"
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix=prefix)))
        plane = stack.enter_context(PlaneProcess(folder / "d"))
        pool = Pool(stack, plane, folder)
        for number in range(1, rounds + 1):
            played.append(Round(number))
            _play_round(pool, played[-1], dice)
            report(_told(played[-1]))
    return played


def rows(rounds: list[Round]) -> Rows:
    """The figures, as they stand in docs/proof.md."""
    back = [seconds for one in rounds for seconds in one.back_s]
    return [
        ("agents, containers", f"{AGENTS}, {len(SLOTS)}"),
        ("agents that had to move", sum(one.lost for one in rounds)),
        ("most of them at once", max(one.lost for one in rounds)),
        ("back, median", f"{percentile(back, 50):.1f} s"),
        ("back, worst", f"{max(back):.1f} s"),
    ]


if __name__ == "__main__":
    sys.exit(run(__doc__, 50, play, rows))
