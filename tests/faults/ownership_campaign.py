"""Many who claim the same agents at once, and never two who own one.

Two dozen actors on a real Valkey boot into few slots, claim, renew, release, hand on,
commit generations, settle messages, fall asleep beyond their leases, and act on what
they had before. Each call is known by when it began and ended, and
`tests.support.ownership` judges: one owner for an epoch, epochs that only rise, nobody
robbed of a lease that was good, no commit and no acknowledgement of who owns nothing
any more, one line of generations. A round is a new town and some thousand steps: `make
ownership ROUNDS=50` are a million.
"""

from __future__ import annotations

import asyncio
import random
import sys
import tempfile
import uuid
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from services.chassis.errors import Reason, ServiceError
from services.chassis.names import AgentName, InstanceName, MessageName
from services.chassis.redis_pool import Durability, connect
from services.registry.inbox import Acknowledgement, MessageState
from services.registry.leases import Evidence, Release
from services.registry.redis_store import RedisStore, opened
from services.registry.redis_town import Terms
from services.snapshots.generations import AgentState, Claim
from services.snapshots.redis_catalog import RedisCatalog
from tests.faults.campaign import Rows, Say, run
from tests.support.ownership import Judge, Owner
from tests.support.redis_server import ValkeyProcess
from tests.support.registry_samples import ADDRESS, SPEC
from tests.support.snapshot_values import snapshot
from tests.support.tokens import TOWN

STEPS: Final = 20_000  # of all actors together, a round
ACTORS: Final = 24
AGENTS: Final = tuple("abcdefgh")
SLOTS: Final = tuple(f"s{number}" for number in range(30))
TTL_S: Final = 0.3
# Long enough to lose what is held, or nearly.
NAPS_S: Final = (0.5 * TTL_S, 1.5 * TTL_S)
# Refusals that are part of the game. Anything else ends it.
EXPECTED: Final = frozenset(
    {
        Reason.LEASE_FENCED,
        Reason.LEASE_HELD,
        Reason.INSTANCE_NOT_FOUND,
        Reason.AGENT_NOT_FOUND,
        Reason.MESSAGE_NOT_FOUND,
        Reason.GENERATION_MISMATCH,
        Reason.FIELD_INVALID,  # a message that was settled by another
        Reason.INBOX_FULL,
        Reason.STORE_UNAVAILABLE,  # on a machine that is too busy to answer
    }
)


@dataclass
class Round:
    """One town's history."""

    number: int
    steps: int = 0
    claims: int = 0  # leases that were new to who claimed
    commits: int = 0
    refused: int = 0
    complaints: list[str] = field(default_factory=list)


class Game:
    """The stores that all play on, the judge, and how far it went."""

    def __init__(self, store: RedisStore, catalog: RedisCatalog, result: Round) -> None:
        self.store = store
        self.catalog = catalog
        self.result = result
        self.judge = Judge(TTL_S)
        self.booted: dict[str, list[Owner]] = {}  # in each slot, in any order

    @staticmethod
    def now() -> float:
        return asyncio.get_running_loop().time()


class Actor:
    """One supervisor that is none too careful. What it holds it believes for ever."""

    def __init__(self, game: Game, seed: str) -> None:
        self._game = game
        self._judge = game.judge
        self._dice = random.Random(seed)
        self._owner = Owner("s1", "")
        self._leaving = False
        self._held: dict[str, int] = {}
        self._seen: dict[str, AgentState] = {}
        self._old: list[tuple[Owner, str, int]] = []  # leases of its earlier days

    async def play(self, steps: int) -> None:
        await self._boot()
        acts = (
            *((self._beat, 30), (self._claim_some, 16), (self._claim_all, 10)),
            *((self._commit, 20), (self._acknowledge, 10), (self._release, 6)),
            *((self._register, 12), (self._nap, 4), (self._boot, 1), (self._leave, 1)),
            *((self._deregister, 1), (self._announce, 1)),
        )
        names, weights = zip(*acts, strict=True)
        for act in self._dice.choices(names, weights, k=steps):
            self._game.result.steps += 1
            try:
                await act()
            except ServiceError as error:
                if error.reason not in EXPECTED:
                    raise
                self._game.result.refused += 1
                if act == self._beat:
                    await self._boot()  # the slot is another's
            if len(self._judge.complaints) > 10:
                return

    # what a supervisor does

    async def _boot(self) -> None:
        self._retire()
        owner = Owner(
            self._dice.choice(SLOTS), str(uuid.UUID(int=self._dice.getrandbits(128)))
        )
        self._owner, self._leaving = owner, False
        mates = self._game.booted.setdefault(owner.slot, [])
        mates.append(owner)
        self._displace(mates)
        await self._game.store.register_instance(*self._me, ADDRESS, 0)
        self._displace(mates)

    def _displace(self, mates: list[Owner]) -> None:
        """Of boots that overlap nobody can say which one has the slot."""
        for mate in mates:
            if mate != self._owner:
                self._judge.leaves(mate)

    async def _leave(self) -> None:
        self._judge.leaves(self._owner)
        await self._game.store.release_instance(*self._me)
        self._retire()

    async def _announce(self) -> None:
        """About to go: what it gives back from now on, others are handed."""
        self._leaving = True
        await self._beat()

    async def _beat(self) -> None:
        held = dict(self._held)
        shown = [Evidence(agent, epoch) for agent, epoch in held.items()]
        begun_s = self._game.now()
        pulse = await self._game.store.heartbeat(
            *self._me, shown, leaving=self._leaving
        )
        for agent in held.keys() - set(pulse.lost):
            self._judge.renewed(agent, held[agent], begun_s)
        for agent in pulse.lost:
            self._put_away(agent)

    async def _claim_some(self) -> None:
        named = self._dice.sample(AGENTS, self._dice.randint(1, 2))
        await self._claim(named, renew=self._dice.random() < 0.2)

    async def _claim_all(self) -> None:
        await self._claim([])

    async def _claim(self, named: list[str], *, renew: bool = False) -> None:
        begun_s, owner = self._game.now(), self._owner
        known = {agent: self._judge.begins(agent) for agent in AGENTS}
        claims = await self._game.store.claim(*self._me, named, renew=renew)
        ended_s = self._game.now()
        for agent, _ in claims:
            name, lease = agent.name.agent, agent.lease
            assert lease is not None
            self._judge.claimed(name, lease.epoch, owner, known[name], ended_s)
            self._judge.renewed(name, lease.epoch, begun_s)
            if self._held.get(name) != lease.epoch:
                self._game.result.claims += 1
                self._put_away(name)
            self._held[name] = lease.epoch

    async def _release(self) -> None:
        """A lease of its own; now and then one of its earlier days under its present
        name, or all of them at once."""
        owner, agent, epoch = await self._pick()
        if owner == self._owner and self._held.get(agent) == epoch:
            self._judge.lets_go(agent, epoch)
            self._put_away(agent)
        release = Release(agent, epoch, self._dice.choice(("", "", "completed")))
        await self._game.store.release(*self._me, [release])

    async def _commit(self) -> None:
        owner, agent, epoch = await self._pick()
        name = AgentName(TOWN, agent)
        claim = Claim(epoch, owner.slot, owner.boot)
        begun = self._judge.begins(agent)
        state = await self._game.catalog.advance(name, claim)
        self._judge.advanced(agent, epoch, begun)
        # Now and then on what it saw before.
        self._seen[agent] = state = self._dice.choices(
            (state, self._seen.get(agent, state)), (9, 1)
        )[0]
        if self._dice.random() < 0.1:
            await asyncio.sleep(self._dice.random() * TTL_S)  # the upload
        begun = self._judge.begins(agent)
        on = state.head_generation
        made = snapshot(on + 1, agent=name, epoch=epoch, instance=owner.slot)
        committed = await self._game.catalog.commit(made, claim, on, state.revision)
        if committed is not None:
            upload = made.origin.upload_id
            self._judge.committed(agent, epoch, owner, on, upload, begun)
            self._game.result.commits += 1

    async def _acknowledge(self) -> None:
        owner, agent, epoch = await self._pick()
        message = MessageName(TOWN, agent, f"m{self._dice.randrange(10**9)}")
        await self._game.store.enqueue(message, "x")
        proof = Acknowledgement(
            epoch, owner.slot, owner.boot, 1, MessageState.DELIVERED
        )
        begun = self._judge.begins(agent)
        await self._game.store.acknowledge(message, proof)
        self._judge.acknowledged(agent, epoch, owner, begun)

    # what others do, and nobody

    async def _register(self) -> None:
        name = AgentName(TOWN, self._dice.choice(AGENTS))
        await self._game.store.register_agent(name, SPEC)

    async def _deregister(self) -> None:
        name = AgentName(TOWN, self._dice.choice(AGENTS))
        await self._game.store.deregister_agent(name)

    async def _nap(self) -> None:
        await asyncio.sleep(self._dice.uniform(*NAPS_S))

    # what it knows

    @property
    def _me(self) -> tuple[InstanceName, str]:
        return InstanceName(TOWN, self._owner.slot), self._owner.boot

    async def _pick(self) -> tuple[Owner, str, int]:
        """A lease to act on: mostly one it has, else one that it had once."""
        while not self._held and not self._old:
            if self._leaving:
                await self._boot()  # who leaves is given nothing new
            await self._claim_all()
            await asyncio.sleep(0.01)
        if self._old and (not self._held or self._dice.random() < 0.2):
            return self._dice.choice(self._old)
        agent = self._dice.choice(sorted(self._held))
        return self._owner, agent, self._held[agent]

    def _put_away(self, agent: str) -> None:
        if agent in self._held:
            self._old = [*self._old[-9:], (self._owner, agent, self._held.pop(agent))]

    def _retire(self) -> None:
        for agent in list(self._held):
            self._put_away(agent)


async def play_round(
    valkey: ValkeyProcess, result: Round, seed: int, steps: int
) -> None:
    """One town's history, on a server that holds nothing else."""
    valkey.flush()
    async with _stores(valkey.url) as (store, catalog):
        for agent in AGENTS:
            await store.register_agent(AgentName(TOWN, agent), SPEC)
        game = Game(store, catalog, result)
        players: list[Awaitable[None]] = [
            Actor(game, f"{seed} {result.number} {n}").play(steps // ACTORS)
            for n in range(ACTORS)
        ]
        await asyncio.gather(*players)
    result.complaints = game.judge.complaints


@asynccontextmanager
async def _stores(url: str) -> AsyncIterator[tuple[RedisStore, RedisCatalog]]:
    redis = await connect(url)
    try:
        terms = Terms(ttl_s=TTL_S)
        async with opened(redis, environment="tests", terms=terms) as store:
            yield store, RedisCatalog(redis, Durability(redis))
    finally:
        with suppress(ServiceError):
            await redis.aclose()


def play(rounds: int, seed: int, report: Say, steps: int = STEPS) -> list[Round]:
    """The whole campaign; says how each round went."""
    played = []
    with (
        tempfile.TemporaryDirectory(prefix="tk-ownership-") as folder,
        ValkeyProcess(Path(folder)) as valkey,
    ):
        for number in range(1, rounds + 1):
            played.append(Round(number))
            asyncio.run(play_round(valkey, played[-1], seed, steps))
            report(_told(played[-1]))
    return played


def _told(one: Round) -> str:
    return (
        f"round {one.number}: {one.steps} steps, {one.claims} leases,"
        f" {one.commits} commits, {one.refused} refused:"
        f" {'; '.join(one.complaints[:3]) or 'ok'}"
    )


def rows(rounds: list[Round]) -> Rows:
    """The figures, as they stand in docs/proof.md."""
    return [
        ("actors, slots, agents", f"{ACTORS}, {len(SLOTS)}, {len(AGENTS)}"),
        ("steps", sum(one.steps for one in rounds)),
        ("leases given", sum(one.claims for one in rounds)),
        ("generations committed", sum(one.commits for one in rounds)),
        ("calls refused", sum(one.refused for one in rounds)),
    ]


if __name__ == "__main__":
    sys.exit(run(__doc__, 50, play, rows))
