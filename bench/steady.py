"""B2: processor time while a big database is written all the time and saved each
second, all our processes together, against Litestream beside it."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from bench.database import build
from bench.litestream import Litestream
from bench.process import processor_s
from bench.rows import Goal, Row, compare
from bench.sessions import Session
from bench.traffic import writing
from tests.support.plane import PlaneProcess

RUNS: Final = 5
# Saves come each second: a few of them make a run.
RUN_S: Final = 12.0
# Until what only begins is over: first saves, full caches.
WARM_S: Final = 6.0
TARGETS: Final = {"kilo": 0.8, "light": 1.5}
SCALE: Final = 1.5


@dataclass(frozen=True, slots=True)
class Spent:
    """Seconds of processor time in each run."""

    ours_s: list[float] = field(default_factory=list)
    theirs_s: list[float] = field(default_factory=list)


def measure(
    plane: PlaneProcess, program: str, folder: Path, sizes_mb: Sequence[int]
) -> Iterator[Row]:
    """Each kind of traffic on each size; the first size is what others scale by."""
    small_mb, *others = sizes_mb
    spent = {size: _measure(plane, program, folder, size) for size in sizes_mb}
    for kind, target in TARGETS.items():
        for size, found in spent.items():
            what = f"{kind} traffic on {size} MB"
            id_ = f"B2.{kind}.{size}MB"
            goal = Goal(id_, what, target, "× Litestream", at_least=False)
            yield compare(goal, found[kind].ours_s, found[kind].theirs_s)
        for size in others:
            what = f"{kind} traffic, {size} MB against {small_mb} MB"
            id_ = f"B2.{kind}.{size}MB.scale"
            goal = Goal(id_, what, SCALE, f"× {small_mb} MB", at_least=False)
            big, small = spent[size][kind], spent[small_mb][kind]
            yield compare(goal, big.ours_s, small.ours_s)


def _measure(
    plane: PlaneProcess, program: str, folder: Path, size_mb: int
) -> dict[str, Spent]:
    bulk = build(folder / f"{size_mb}.db", size_mb)
    session = Session(plane, f"bench-steady-{size_mb}")
    session.start()
    session.reveal(session.prepare(bulk))
    session.save()
    peer = Litestream(program, folder / "litestream")
    bulk.copy_to(peer.database)
    peer.settle()
    spent = {kind: _spent(plane, session, peer, kind) for kind in TARGETS}
    session.stop()
    session.lose_disk()
    peer.remove()
    return spent


def _spent(plane: PlaneProcess, session: Session, peer: Litestream, kind: str) -> Spent:
    """Both at once, each with a writer of its own: what disturbs one disturbs both."""
    spent = Spent()
    with ExitStack() as stack:
        process = stack.enter_context(peer.replicating())
        peer.sync()
        stack.enter_context(writing(kind, session.database))
        stack.enter_context(writing(kind, peer.database))
        time.sleep(WARM_S)
        ours = _service_pids(plane)
        for _ in range(RUNS):
            before = processor_s(ours), processor_s([process.pid])
            time.sleep(RUN_S)
            spent.ours_s.append(processor_s(ours) - before[0])
            spent.theirs_s.append(processor_s([process.pid]) - before[1])
    return spent


def _service_pids(plane: PlaneProcess) -> list[int]:
    """`up` and its services, Valkey too; agents and writers are not our cost."""
    names = ("registry", "snapshots", "gateway", "supervisor", "valkey")
    return [plane.up.pid, *(plane.child(name).pid for name in names)]
