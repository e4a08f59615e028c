"""Valkey killed with SIGKILL at random instants, while writers commit all the time.

Each writer has an agent of its own and makes one generation after the other, as bases
and deltas; what is not answered it repeats under the same upload id. At a random
instant Valkey is killed and started again on what it had on disk (`appendonly yes`,
`appendfsync always`); the snapshot service is not restarted. When every writer has gone
on, then for each of them

- each generation that was acknowledged is there, with its bytes,
- there is no other: what was repeated became one generation.

Run it whole: `make valkey-kills ROUNDS=100 SEED=1`.
"""

from __future__ import annotations

import asyncio
import random
import sys
import tempfile
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Final

import grpc

from tests.faults.campaign import Rows, Say, run
from tests.faults.snapshots.plant import Plant
from tests.support import segments as made
from tests.support.redis_server import ValkeyProcess
from tests.support.snapshot_frames import Client, Frame, chunks, header, trailer
from tests.support.tokens import TOWN
from tests.support.waiting import wait_until

WRITERS: Final = 4
KILL_WITHIN_S: Final = 1.0
# A generation reads as a base and at most so many deltas.
DELTAS_MAX: Final = 16
# How many more commits show that a writer goes on.
MORE: Final = 2
LIMIT_S: Final = 30.0
AGAIN_S: Final = 0.01


@dataclass
class Round:
    """What one kill did."""

    number: int
    killed_at_s: float
    acknowledged: int = 0
    repeated: int = 0  # uploads that had to be sent more than once
    complaints: list[str] = field(default_factory=list)


class Writer:
    """Makes generations until it is told to stop; knows what was acknowledged."""

    def __init__(self, client: Client) -> None:
        self.acknowledged: dict[int, made.Image] = {}
        self.repeated = 0
        self.stopping = False
        self._client = client
        self._image = made.image(12)

    async def run(self) -> None:
        await self._client.advance()
        while not self.stopping:
            await self._commit()

    def has(self, count: int) -> bool:
        return len(self.acknowledged) >= count

    async def _commit(self) -> None:
        last = len(self.acknowledged)
        wanted = made.edited(self._image, [last % 12 + 1, 5], b"%8d" % last)
        if last % (DELTAS_MAX + 1):
            segment = made.delta(self._image, wanted)
        else:
            segment = made.base(wanted)
        first = header(parent=self._client.name, if_generation_match=last)
        end = trailer(segment, bytes(made.fingerprint(wanted)))
        attempts = 0
        while (generation := await self._attempt(first, segment, end)) == 0:
            attempts += 1
            await asyncio.sleep(AGAIN_S)
        self.repeated += attempts > 0
        assert generation not in self.acknowledged, f"{generation} was made before"
        self.acknowledged[generation] = self._image = wanted

    async def _attempt(self, first: Frame, segment: bytes, end: Frame) -> int:
        """The generation; 0 if the answer is that one should try again."""
        try:
            first.header.write_offset = await self._persisted(first)
            rest = chunks(segment, first.header.write_offset, 2000)
            answer = await self._client.send([first, *rest, end])
        except grpc.aio.AioRpcError as error:
            if error.code() is not grpc.StatusCode.UNAVAILABLE:
                raise
            return 0
        return answer.snapshot.generation

    async def _persisted(self, first: Frame) -> int:
        try:
            return await self._client.persisted(first.header.upload_id)
        except grpc.aio.AioRpcError as error:
            if error.code() is not grpc.StatusCode.NOT_FOUND:
                raise
            return 0

    async def check(self, dice: random.Random) -> list[str]:
        """What is wrong with what the service has now."""
        listed = await self._client.list(page_size=500)
        there = {one.generation for one in listed.snapshots}
        wanted = set(self.acknowledged)
        complaints = []
        if lost := wanted - there:
            complaints.append(f"{self._client.name}: {sorted(lost)} are missing")
        if more := there - wanted:
            complaints.append(f"{self._client.name}: {sorted(more)} were never made")
        some = dice.sample(sorted(wanted), min(5, len(wanted)))
        for generation in {*some, max(wanted)} & there:
            found = await self._client.download(generation)
            if found.data != b"".join(self.acknowledged[generation]):
                complaints.append(f"{self._client.name}: {generation} has changed")
        return complaints


async def play_round(plant: Plant, number: int, dice: random.Random) -> Round:
    """One kill under load, on agents that nobody has used before."""
    result = Round(number, dice.uniform(0.0, KILL_WITHIN_S))
    names = [f"towns/{TOWN}/agents/r{number}-w{n}" for n in range(WRITERS)]
    async with plant.client() as client:
        writers = [Writer(Client(client.channel, name)) for name in names]
        async with asyncio.TaskGroup() as tasks:
            for writer in writers:
                tasks.create_task(writer.run())
            await asyncio.sleep(result.killed_at_s)  # the instant, not a wait
            plant.valkey.kill()
            before = [len(writer.acknowledged) for writer in writers]
            await asyncio.to_thread(plant.valkey.start)
            for writer, had in zip(writers, before, strict=True):
                wanted = partial(writer.has, had + MORE)
                await wait_until(wanted, what="commits go on", limit_s=LIMIT_S)
                writer.stopping = True
        for writer in writers:
            result.complaints += await writer.check(dice)
        result.acknowledged = sum(len(one.acknowledged) for one in writers)
        result.repeated = sum(one.repeated for one in writers)
    return result


async def _play(rounds: int, seed: int, report: Say, plant: Plant) -> list[Round]:
    played = []
    for number in range(1, rounds + 1):
        one = await play_round(plant, number, random.Random(f"{seed} {number}"))
        played.append(one)
        report(
            f"round {number}/{rounds}: killed after {one.killed_at_s:.2f} s,"
            f" {one.acknowledged} acknowledged, {one.repeated} repeated:"
            f" {'; '.join(one.complaints) or 'ok'}"
        )
    return played


def play(rounds: int, seed: int, report: Say) -> list[Round]:
    """The whole campaign; says how each round went."""
    with tempfile.TemporaryDirectory(prefix="tk-valkey-") as name:
        folder = Path(name)
        with ValkeyProcess(folder) as valkey:
            plant = Plant(folder, valkey)
            with plant.process:
                return asyncio.run(_play(rounds, seed, report, plant))


def rows(rounds: list[Round]) -> Rows:
    """The figures, as they stand in docs/proof.md."""
    return [
        ("writers at a time", WRITERS),
        ("acknowledged generations", sum(one.acknowledged for one in rounds)),
        ("uploads cut off and repeated", sum(one.repeated for one in rounds)),
    ]


if __name__ == "__main__":
    sys.exit(run(__doc__, 100, play, rows))
