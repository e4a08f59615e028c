"""Random histories of the whole service, and defects that they must find."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final, TypeAlias
from unittest.mock import patch

import pytest
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis.stateful import run_state_machine_as_test

from services.chassis.names import AgentName
from services.snapshots import collection, examination, generations, intake, records
from services.snapshots.commit import Committer
from services.snapshots.generations import Addition, AgentState, Claim, Snapshot
from services.snapshots.reindex import stored_records
from services.snapshots.upload import Header
from tests.fakes import snapshot_catalog
from tests.fakes.blob_store import MemoryBlobs
from tests.fakes.snapshot_catalog import MemoryCatalog
from tests.faults.campaign import asked
from tests.faults.snapshots.machine import SnapshotMachine
from tests.faults.snapshots.shaping_machine import ShapingMachine

pytestmark = [pytest.mark.campaign, pytest.mark.faults, pytest.mark.timeout(3600)]

Patches: TypeAlias = Iterator[Any]

ROUNDS, SEED = asked(25)
STEPS: Final = 40
# Each planted defect is found within so many histories.
FOUND_WITHIN: Final = 150


def histories(count: int) -> settings:
    return settings(
        max_examples=count,
        stateful_step_count=STEPS,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )


def play(machine: type[SnapshotMachine], count: int) -> None:
    run_state_machine_as_test(seed(SEED)(machine), settings=histories(count))


def test_any_history() -> None:
    """Whatever is asked by whom, in any order, with any fault: the model holds."""
    play(SnapshotMachine, ROUNDS)


def test_any_shaped_history() -> None:
    """The same, while generations are held, deleted and brought back, and the catalog
    is rebuilt."""
    play(ShapingMachine, ROUNDS)


def in_both(name: str, planted: Any) -> Patches:
    """Where the rule is asked: at the header, and in the catalog's step."""
    for module in (intake, snapshot_catalog):
        yield patch.object(module, name, planted)


def no_epoch_check() -> Patches:
    def check(agent: AgentName, state: AgentState, claim: Claim) -> None:
        epoch = state.epoch
        generations.check_claim(
            agent, state, Claim(epoch, claim.instance, claim.boot_id)
        )

    return in_both("check_claim", check)


def no_instance_check() -> Patches:
    def check(agent: AgentName, state: AgentState, claim: Claim) -> None:
        generations.check_claim(agent, state, Claim(claim.epoch))

    return in_both("check_claim", check)


def no_generation_check() -> Patches:
    return in_both("check_match", lambda agent, head, wanted: None)


def nothing() -> Patches:
    """The defect is in the machine's store."""
    return iter(())


class LazyMachine(SnapshotMachine):
    """Its blob store answers before a segment is on the disk."""

    def made_blobs(self) -> Any:
        self.unwritten: dict[str, bytes] = {}
        return LazyBlobs(self.folder / "local", self.unwritten)

    def lose(self) -> None:
        for key in self.unwritten:
            self.blobs.blobs.pop(key, None)
        self.unwritten.clear()


class LazyBlobs(MemoryBlobs):
    """Writes what it has only when something else is asked of it."""

    def __init__(self, folder: Path, unwritten: dict[str, bytes]) -> None:
        super().__init__(folder)
        self._unwritten = unwritten

    async def publish(self, key: str, path: Path) -> None:
        await super().publish(key, path)
        self._unwritten[key] = self.blobs[key]

    async def list(self, folder: str) -> list[str]:
        self._unwritten.clear()
        return await super().list(folder)


def record_before_script() -> Patches:
    real = Committer._enter

    async def enter(
        self: Committer, header: Header, state: AgentState, added: Addition
    ) -> Snapshot | None:
        early = Snapshot(
            agent=header.agent,
            generation=state.last + 1,
            content=generations.content_with(header.agent, state.head, added),
            origin=header.origin,
            epoch=header.claim.epoch or 0,
            instance=header.claim.instance,
            create_time=self._clock.now(),
        )
        await self.record(early)
        return await real(self, header, state, added)

    yield patch.object(Committer, "_enter", enter)


def careless_collection() -> Patches:
    """It sees the records that are in the blob store, but only their last segments."""

    async def read(*stores: Any) -> list[Snapshot]:
        return [_last_only(one) for one in await stored_records(*stores)]

    async def recent(self: MemoryCatalog, agent: AgentName) -> list[Snapshot]:
        return []

    yield patch.object(collection, "stored_records", read)
    yield patch.object(MemoryCatalog, "recent", recent)


def _last_only(one: Snapshot) -> Snapshot:
    found = records.from_json(records.to_json(one))
    object.__setattr__(found.content, "segments", found.content.segments[-1:])
    return found


def ids_that_mean_nothing() -> Patches:
    yield patch.object(MemoryCatalog, "_upload", lambda self, agent, upload_id: None)


def any_parent() -> Patches:
    """Neither what a delta says of its parent nor what follows from it is compared."""

    def check(agent: AgentName, head: Snapshot | None, standing: Any) -> Any:
        return generations.chain_of(agent, head)

    yield patch.object(examination, "check_parent", check)
    yield patch.object(examination, "_prove", lambda *_: None)


DEFECTS: Final = [
    pytest.param(SnapshotMachine, no_epoch_check, None, id="epoch"),
    pytest.param(SnapshotMachine, no_instance_check, "must not be", id="instance"),
    pytest.param(SnapshotMachine, no_generation_check, "must not be", id="generation"),
    pytest.param(LazyMachine, nothing, "is gone", id="acknowledged before durable"),
    pytest.param(
        SnapshotMachine, record_before_script, None, id="record before script"
    ),
    pytest.param(SnapshotMachine, careless_collection, "is gone", id="collection"),
    pytest.param(SnapshotMachine, ids_that_mean_nothing, None, id="upload id"),
    pytest.param(SnapshotMachine, any_parent, "must not be", id="parent"),
]


@pytest.mark.parametrize(("machine", "defect", "complaint"), DEFECTS)
def test_a_planted_defect_is_found(
    machine: type[SnapshotMachine], defect: Callable[[], Patches], complaint: str | None
) -> None:
    """The histories are worth nothing if they pass with a known defect in them."""
    with ExitStack() as stack:
        for one in defect():
            stack.enter_context(one)
        with pytest.raises(AssertionError, match=complaint):
            play(machine, FOUND_WITHIN)
