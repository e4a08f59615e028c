"""How many agents does one Redis hold, and how many one town? `make crowd` prints the
table of docs/proof.md.

A hundred thousand agents over ten thousand towns, registered and claimed: what Redis
keeps for each, how long that takes, what the registry's process needs. Then, beside
them, five thousand in one town: each answer to a list and a watch is measured, Valkey
itself says what it was asked meanwhile, and every agent gets the token of a run.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
import tempfile
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from bench.process import peak_bytes, reset_peak, resident_bytes
from services.chassis.channels import open_channel
from services.chassis.redis_pool import connect
from services.registry import wire
from services.registry.redis_specs import spec_text
from services.registry.redis_town import TOWN_KEYS, town_keys
from services.registry.specs import AgentSpec, Role, Runtime
from tests.faults.campaign import Rows, percentile
from tests.support.redis_commands import Commands
from tests.support.redis_server import ValkeyProcess
from tests.support.registry_process import RegistryProcess
from tests.support.registry_samples import ADDRESS
from tests.support.tokens import Tokens
from townkeeper.registry.v1 import registry_pb2 as pb
from townkeeper.registry.v1.registry_pb2_grpc import RegistryServiceStub

MIB: Final = 1 << 20
AGENT_BYTES_MAX: Final = 2 * 1024  # in Redis, the token of its run included
REPLY_BYTES_MAX: Final = MIB
WHOLE_READ_MAX: Final = 500  # entries: a page of the largest list
TOKEN_BYTES_MAX: Final = 1024  # written for one
PROCESS_MIB: Final = 256
AT_ONCE: Final = 16
# As much as one call takes; an instance holds twice that.
NAMES_MAX: Final = 500
SAMPLES: Final = 2_000
SAMPLED_TOWNS: Final = 100

# A polecat as a town hands one out: an issue as its prompt, how to work as its
# instructions, a token for git and one for the model.
SPEC: Final = AgentSpec(
    rig_id="6f9b2a4e-0d6b-4a53-9f0e-5b0d3a1c7e21",
    role=Role.POLECAT,
    runtime=Runtime.KILO,
    display_name="Toast",
    identity="Toast-polecat-6f9b2a4e",
    prompt="The basket loses an item when it is open in two tabs.\n\nThe second tab "
    "writes the list that it read first. Merge by item instead, keep the newer "
    "quantity, and show a hint when something was merged.",
    model="kilo/anthropic/claude-sonnet-4.5",
    small_model="kilo/google/gemini-2.5-flash",
    system_prompt="You are a polecat of the rig storefront. Work on one issue, on your "
    "own branch. Commit early, push often, run the tests before you say that you are "
    "done. Ask the mayor when the issue is unclear; never touch another's branch.",
    git_url="https://git.example.org/shop/storefront.git",
    branch="polecat/toast-6f9b2a4e",
    default_branch="main",
    env_vars={"GIT_TOKEN": "g" * 40, "KILO_TOKEN": "k" * 64},
)


@dataclass
class Figures:
    """What was measured, and what is wrong with it."""

    rows: Rows = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)

    def at_most(self, what: str, found: float, most: float, unit: str = "") -> None:
        if found > most:
            self.complaints.append(f"{what}: {found:,.0f}{unit}, at most {most:,}")


@dataclass
class Stage:
    """A registry on its Valkey, and what was found out so far."""

    valkey: ValkeyProcess
    registry: RegistryProcess
    tokens: Tokens
    stub: Any
    store: Any
    figures: Figures = field(default_factory=Figures)
    dice: random.Random = field(default_factory=lambda: random.Random(1))
    agent_bytes: float = 0.0  # in Redis, for each of the crowd

    def id(self) -> str:
        """As agents and towns are named: 36 characters."""
        return str(uuid.UUID(int=self.dice.getrandbits(128), version=4))

    async def kept_bytes(self) -> int:
        """What Redis uses, all but what clients and the log have on their way."""
        memory = await self.store.info("memory")
        passing = memory["mem_clients_normal"] + memory["mem_aof_buffer"]
        return int(memory["used_memory"] - passing)

    async def written_bytes(self) -> int:
        """How long the append-only file is; nobody rewrites it."""
        return int((await self.store.info("persistence"))["aof_current_size"])


class Town:
    """A town as its containers see it: they make every call."""

    def __init__(self, stage: Stage, agents: int) -> None:
        self.id, self.boot_id = stage.id(), stage.id()
        self.name = f"towns/{self.id}"
        self.agents = [f"{self.name}/agents/{stage.id()}" for _ in range(agents)]
        self.stub = stage.stub
        token = stage.tokens.container(self.id)
        self.metadata = [("authorization", f"Bearer {token}")]

    def slot(self, index: int) -> str:
        """Who runs an agent, by its place."""
        return f"{self.name}/instances/supervisor-{index // (2 * NAMES_MAX) + 1}"

    async def register(self, agent: str) -> None:
        request = pb.RegisterAgentRequest(name=agent, spec=_SPEC_MESSAGE)
        await self.stub.RegisterAgent(request, metadata=self.metadata)

    async def boot(self) -> None:
        """Its instances come up and claim all agents."""
        for start in range(0, len(self.agents), NAMES_MAX):
            slot = self.slot(start)
            instance = pb.RegisterInstanceRequest(
                name=slot, boot_id=self.boot_id, address=ADDRESS
            )
            await self.stub.RegisterInstance(instance, metadata=self.metadata)
            claim = pb.ClaimAgentsRequest(
                instance=slot,
                boot_id=self.boot_id,
                agents=self.agents[start : start + NAMES_MAX],
            )
            await self.stub.ClaimAgents(claim, metadata=self.metadata)

    async def get(self, agent: str) -> None:
        await self.stub.GetAgent(pb.GetAgentRequest(name=agent), metadata=self.metadata)

    async def issue(self, index: int, run: str) -> None:
        request = pb.IssueAgentTokenRequest(
            name=self.agents[index],
            epoch=1,
            instance=self.slot(index),
            boot_id=self.boot_id,
            run=run,
        )
        await self.stub.IssueAgentToken(request, metadata=self.metadata)

    async def listed(self) -> list[pb.ListAgentsResponse]:
        """All pages, as large as they are given."""
        request = pb.ListAgentsRequest(parent=self.name, page_size=500)
        pages: list[pb.ListAgentsResponse] = []
        while not pages or request.page_token:
            pages.append(await self.stub.ListAgents(request, metadata=self.metadata))
            request.page_token = pages[-1].next_page_token
        return pages

    async def watched(self) -> list[pb.WatchAgentsResponse]:
        """All steps up to `synced`."""
        request = pb.WatchAgentsRequest(parent=self.name)
        call = self.stub.WatchAgents(request, metadata=self.metadata)
        steps: list[pb.WatchAgentsResponse] = []
        while not (steps and steps[-1].synced):
            steps.append(await call.read())
        call.cancel()
        return steps


_SPEC_MESSAGE: Final = wire.spec_to_proto(SPEC, reveal=True)


async def _all(calls: Iterable[Awaitable[object]]) -> None:
    """So many at a time."""
    waiting = iter(calls)

    async def work() -> None:
        for call in waiting:
            await call

    async with asyncio.TaskGroup() as group:
        for _ in range(AT_ONCE):
            group.create_task(work())


@contextmanager
def _timed(figures: Figures, what: str, count: int) -> Iterator[None]:
    begun = time.perf_counter()
    yield
    seconds = time.perf_counter() - begun
    figures.rows.append((what, f"{seconds:.1f} s, {count / seconds:,.0f} a second"))


async def _latency(figures: Figures, what: str, calls: Iterable[Any]) -> None:
    """One call after the other."""
    times: list[float] = []
    for call in calls:
        begun = time.perf_counter()
        await call
        times.append((time.perf_counter() - begun) * 1000)
    p50, p99 = percentile(times, 50), percentile(times, 99)
    figures.rows.append((f"{what}, p50, p99", f"{p50:.1f} ms, {p99:.1f} ms"))


async def crowd(stage: Stage, agents: int, towns: int) -> None:
    """Many towns with few agents each."""
    figures, pid = stage.figures, stage.registry.pid
    made = [Town(stage, agents // towns) for _ in range(towns)]
    first = Town(stage, 1)
    await first.register(first.agents[0])
    await first.boot()
    figures.rows += [
        ("agents, towns", f"{agents:,}, {towns:,}"),
        ("what is told of an agent, as JSON", f"{len(spec_text(SPEC))} B"),
    ]
    before, resident = await stage.kept_bytes(), resident_bytes(pid)
    reset_peak(pid)
    with _timed(figures, "registered", agents):
        await _all(town.register(agent) for town in made for agent in town.agents)
    with _timed(figures, "claimed, each town by one instance", agents):
        await _all(town.boot() for town in made)
    each = stage.agent_bytes = (await stage.kept_bytes() - before) / agents
    figures.rows.append(("Redis, for an agent", f"{each:,.0f} B"))
    figures.rows.append(("of that", await _shares(stage, made, each)))
    figures.at_most("Redis, for an agent", each, AGENT_BYTES_MAX, " B")
    dice = stage.dice
    some = [dice.choice(made) for _ in range(min(SAMPLES, agents))]
    gets = (town.get(dice.choice(town.agents)) for town in some)
    await _latency(figures, "`GetAgent`", gets)
    what = f"`ListAgents` of {agents // towns}"
    await _latency(figures, what, (town.listed() for town in some))
    sizes = [resident, resident_bytes(pid), peak_bytes(pid)]
    shown = ", ".join(f"{size / MIB:.0f} MiB" for size in sizes)
    figures.rows.append(("the registry's process: before, after, most", shown))
    figures.at_most("the registry's process", sizes[-1] / MIB, PROCESS_MIB, " MiB")


async def _shares(stage: Stage, towns: list[Town], each: float) -> str:
    """By what is kept of an agent, in bytes: in some towns, as Redis counts it."""
    some = stage.dice.sample(towns, min(SAMPLED_TOWNS, len(towns)))
    count = sum(len(town.agents) for town in some)
    kinds = dict.fromkeys(TOWN_KEYS, 0.0)
    for town in some:
        for kind, key in zip(TOWN_KEYS, town_keys(town.id), strict=True):
            used = await stage.store.execute_command("MEMORY USAGE", key, "SAMPLES", 0)
            kinds[kind] += (used or 0) / count
    kinds["the rest"] = each - sum(kinds.values())
    largest = sorted(kinds.items(), key=lambda kind: -kind[1])
    return ", ".join(f"{kind} {size:.0f}" for kind, size in largest if size >= 1)


async def large_town(stage: Stage, agents: int) -> Town:
    """One with thousands: listed and watched, and what that asks of Redis."""
    figures, town = stage.figures, Town(stage, agents)
    await _all(town.register(agent) for agent in town.agents)
    await town.boot()
    with Commands(stage.valkey) as seen:
        pages, steps = await town.listed(), await town.watched()
    figures.rows.append(("agents of the large town", f"{agents:,}"))
    with _timed(figures, "listed", agents):
        await town.listed()
    with _timed(figures, "watched up to `synced`", agents):
        await town.watched()
    page = max(page.ByteSize() for page in pages)
    step = max(step.ByteSize() for step in steps)
    whole = max(seen.whole_reads, key=lambda one: one.entries, default=None)
    entries = whole.entries if whole else 0
    key = whole.key.rpartition(":")[2] if whole else "none"
    figures.rows += [
        (f"{len(pages)} pages, the largest", f"{page / 1024:,.0f} KiB"),
        (f"{len(steps):,} steps, the largest", f"{step / 1024:,.1f} KiB"),
        ("largest answer of Redis", f"{seen.reply_bytes_max / 1024:,.0f} KiB"),
        ("scans", sum(seen.scans.values())),
        ("largest key read from end to end", f"{key}, {entries:,} entries"),
    ]
    figures.at_most("the largest page", page, REPLY_BYTES_MAX, " B")
    figures.at_most("the largest step", step, REPLY_BYTES_MAX, " B")
    figures.at_most("an answer of Redis", seen.reply_bytes_max, REPLY_BYTES_MAX, " B")
    figures.at_most(f"entries read of {key}", entries, WHOLE_READ_MAX)
    figures.complaints += [f"{name} was asked of Redis" for name in seen.scans]
    for told in (
        [agent.name for page in pages for agent in page.agents],
        [step.changed.name for step in steps if step.changed.name],
    ):
        if sorted(told) != sorted(town.agents):
            figures.complaints.append(f"{len(told):,} of {agents:,} agents were told")
    return town


async def runs(stage: Stage, town: Town) -> None:
    """A token for a run of each agent, as when the whole town starts, then for another
    one, as when it starts again."""
    figures, kept = stage.figures, await stage.kept_bytes()
    await _issue(stage, town, "token of a run")
    each = (await stage.kept_bytes() - kept) / len(town.agents)
    figures.rows.append(("Redis, for the token of a run", f"{each:,.0f} B"))
    running = stage.agent_bytes + each
    figures.at_most("Redis, for an agent that runs", running, AGENT_BYTES_MAX, " B")
    await _issue(stage, town, "token that replaces one")


async def _issue(stage: Stage, town: Town, what: str) -> None:
    """For all agents, a hundred after the other."""
    figures, count, written = stage.figures, len(town.agents), list[float]()
    with _timed(figures, f"{what}, for all", count):
        for start in range(0, count, 100):
            part = range(start, min(start + 100, count))
            before = await stage.written_bytes()
            await _all(town.issue(index, stage.id()) for index in part)
            written.append((await stage.written_bytes() - before) / len(part))
    first, last = written[0], written[-1]
    figures.rows.append((f"{what}, written", f"{first:,.0f} B, at last {last:,.0f} B"))
    figures.at_most(f"{what}, written", max(written), TOKEN_BYTES_MAX, " B")


@asynccontextmanager
async def staged(
    folder: Path, module: str = "services.registry", **environ: str
) -> AsyncIterator[Stage]:
    """Leases outlive the campaign: nobody renews them."""
    tokens = Tokens(folder)
    settings = {"auto-aof-rewrite-percentage": "0"}
    with (
        ValkeyProcess(folder, **settings) as valkey,
        RegistryProcess(
            folder / "registry",
            valkey.url,
            tokens,
            module=module,
            TOWNKEEPER_LEASE_TTL="1h",
            **environ,
        ) as registry,
    ):
        store = await connect(valkey.url)
        try:
            async with open_channel(registry.address) as channel:
                stub = RegistryServiceStub(channel)
                yield Stage(valkey, registry, tokens, stub, store)
        finally:
            await store.aclose()


async def play(folder: Path, agents: int, towns: int, large: int) -> Figures:
    """All of it, in one Redis."""
    async with staged(folder) as stage:
        await crowd(stage, agents, towns)
        await runs(stage, await large_town(stage, large))
        return stage.figures


def main() -> int:
    """Prints the table; 1 if anything is too large."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--agents", type=int, default=100_000)
    parser.add_argument("--towns", type=int, default=10_000)
    parser.add_argument("--large", type=int, default=5_000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="tk-crowd-") as folder:
        sizes = (options.agents, options.towns, options.large)
        figures = asyncio.run(play(Path(folder), *sizes))
    lines = ["| what | figure |", "| --- | --- |"]
    lines += [f"| {what} | {figure} |" for what, figure in figures.rows]
    lines += [f"| complaints | {len(figures.complaints)} |", *figures.complaints]
    sys.stdout.write("\n".join(lines) + "\n")
    return 1 if figures.complaints else 0


if __name__ == "__main__":
    sys.exit(main())
