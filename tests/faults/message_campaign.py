"""Registry, gateway and Valkeys die at random instants while messages are accepted.

Three towns of two agents each lie on the three primaries of a Redis Cluster, each with
a replica; a write counts once the replica has it. Each agent has two senders, one over
HTTP and one by gRPC, which repeat a message under its id until it is accepted. In each
round the registry, the gateway, the primary of a town, or two of them, are killed with
SIGKILL at a random instant; nobody is told. `up` starts its children again; a Valkey
comes back as a replica of the one that took over. Then all senders must go on.

When all messages are sent, each one that was accepted was processed by its agent, once
and in its sender's order, and the inboxes are empty (`tests.support.message_traffic`).

Run it whole: `make messages MESSAGES=10000 SEED=1`.
"""

from __future__ import annotations

import random
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from services.chassis.telemetry import Event
from tests.faults.campaign import Rows, Say, percentile, run
from tests.support.changed_up import Change, changed_plane
from tests.support.container import Container
from tests.support.message_traffic import AGENTS, Traffic
from tests.support.plane import PlaneProcess
from tests.support.redis_cluster import PRIMARIES, ValkeyCluster
from tests.support.town import Town

SERVICES: Final = ("registry", "gateway")
# Their keys lie on one primary each.
TOWNS: Final = ("a", "b", "c")
VICTIMS: Final = (*SERVICES, *TOWNS)
KILL_WITHIN_S: Final = 2.0
CRASHES: Final = (Event.CALL_CRASHED, Event.REQUEST_CRASHED)


@dataclass
class Round:
    """Who died together; figures are of this round alone."""

    number: int
    killed: tuple[str, ...]  # services; of a town the primary that has its keys
    after_s: float
    on_again_s: float = 0.0
    over_http: int = 0  # messages accepted
    by_grpc: int = 0
    repeated: int = 0
    given_again: int = 0  # known in the last one only, of all
    complaints: list[str] = field(default_factory=list)


class Stage:
    """The plane, its Redis Cluster, and the messages on their way."""

    def __init__(
        self, stack: ExitStack, folder: Path, messages: int, registry: tuple[str, ...]
    ) -> None:
        self.cluster = stack.enter_context(ValkeyCluster(folder / "cluster"))
        primaries = {self.cluster.primary_of(f"{{{town}}}").pid for town in TOWNS}
        assert PRIMARIES == len(primaries), "two towns have the same primary"
        redis = {
            "TOWNKEEPER_REDIS_URL": self.cluster.url,
            "TOWNKEEPER_REDIS_REPLICAS": "1",
        }
        changes = {"registry": Change(redis, registry), "snapshots": Change(redis)}
        self.plane: PlaneProcess = stack.enter_context(
            changed_plane(folder / "d", TOWNS[0], **changes)
        )
        for town in TOWNS[1:]:
            stack.enter_context(
                Container(self.plane, folder / town, town=town, slot=town)
            )
        towns = [Town(self.plane, town) for town in TOWNS]
        self.traffic = stack.enter_context(Traffic(towns, folder, messages))
        self._counted = (0, 0, 0)
        self._read_bytes: Counter[str] = Counter()

    def kill(self, victim: str) -> None:
        """SIGKILL; of a Valkey it returns when its replica has taken over."""
        if victim in SERVICES:
            self.plane.child(victim).send(signal.SIGKILL)
        else:
            self.cluster.kill_primary_of(f"{{{victim}}}").start()

    def count(self, result: Round) -> None:
        """What came since it was last counted."""
        traffic, before = self.traffic, self._counted
        now = (traffic.accepted("http"), traffic.accepted("grpc"), traffic.repeated)
        result.over_http += now[0] - before[0]
        result.by_grpc += now[1] - before[1]
        result.repeated += now[2] - before[2]
        self._counted = now

    def crashes(self) -> list[str]:
        """Calls that the services did not foresee, by their logs since this was asked
        before; logs are begun anew when they are large."""
        found = []
        for name in (*SERVICES, "snapshots", "supervisor"):
            log = self.plane.data.logs / f"{name}.log"
            if log.stat().st_size < self._read_bytes[name]:
                self._read_bytes[name] = 0
            with log.open("rb") as file:
                file.seek(self._read_bytes[name])
                text = file.read()
            whole = text.rpartition(b"\n")[0]
            self._read_bytes[name] += len(whole)
            found += [
                f"{name}: {line}"
                for line in whole.decode("utf-8", "replace").splitlines()
                if any(f'"event": "{event}"' in line for event in CRASHES)
            ]
        return found


def _victims(dice: random.Random) -> Iterator[tuple[str, ...]]:
    """All of them in any order, then all in another; now and then two at once."""
    while True:
        left = dice.sample(VICTIMS, len(VICTIMS))
        while left:
            count = dice.choice((1, 1, 2))
            yield tuple(left[:count])
            left = left[count:]


def _play_round(stage: Stage, result: Round) -> None:
    killed_at = time.monotonic()
    try:
        for victim in result.killed:
            stage.kill(victim)
        stage.traffic.wait_goes_on()
        result.on_again_s = time.monotonic() - killed_at
        # The next to die may be the one that all now depend on.
        stage.cluster.wait_whole()
    except AssertionError as late:
        result.complaints.append(str(late))
    # Defects of ours, also where a repetition made up for them.
    result.complaints += stage.crashes()


def _told(one: Round) -> str:
    accepted = one.over_http + one.by_grpc
    return (
        f"round {one.number}: {' and '.join(one.killed)} after {one.after_s:.2f} s,"
        f" all go on after {one.on_again_s:.1f} s, {accepted} accepted,"
        f" {one.repeated} sent again: {'; '.join(one.complaints) or 'ok'}"
    )


def play(
    messages: int, seed: int, report: Say, registry: tuple[str, ...] = ()
) -> list[Round]:
    """The whole campaign, until so many are accepted; says how each round went. What
    is found in the end is said of the last one. `registry` may name another one, in
    arguments of Python."""
    dice, played = random.Random(seed), list[Round]()
    with ExitStack() as stack:
        prefix = "tk-messages-"
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix=prefix)))
        stage = Stage(stack, folder, messages, registry)
        for killed in _victims(dice):
            one = Round(len(played) + 1, killed, dice.uniform(0.0, KILL_WITHIN_S))
            time.sleep(one.after_s)  # the instant of the kill
            if stage.traffic.over:
                break
            played.append(one)
            _play_round(stage, one)
            stage.count(one)
            report(_told(one))
            if one.complaints:
                break
        assert played, "all was sent before anything could die: send more"
        last = played[-1]
        last.given_again, complaints = stage.traffic.end()
        last.complaints += complaints
        stage.count(last)
        for complaint in complaints:
            report(f"in the end: {complaint}")
    return played


def rows(rounds: list[Round]) -> Rows:
    """The figures, as they stand in docs/proof.md."""
    over_http = sum(one.over_http for one in rounds)
    by_grpc = sum(one.by_grpc for one in rounds)
    dead = Counter(victim for one in rounds for victim in one.killed)
    on_again = [one.on_again_s for one in rounds]
    return [
        ("agents, towns, primaries", f"{len(AGENTS) * len(TOWNS)}, 3, {PRIMARIES}"),
        ("messages accepted over HTTP, by gRPC", f"{over_http}, {by_grpc}"),
        ("sent again under their id", sum(one.repeated for one in rounds)),
        ("given again to a program that had them", rounds[-1].given_again),
        ("SIGKILL to the registry", dead["registry"]),
        ("SIGKILL to the gateway", dead["gateway"]),
        ("SIGKILL to a primary", sum(dead[town] for town in TOWNS)),
        ("two of them at once", sum(len(one.killed) > 1 for one in rounds)),
        ("all senders on again, median", f"{percentile(on_again, 50):.1f} s"),
        ("all senders on again, worst", f"{max(on_again):.1f} s"),
    ]


if __name__ == "__main__":
    sys.exit(run(__doc__, 10_000, play, rows, counted="messages"))
