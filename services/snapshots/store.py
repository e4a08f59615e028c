"""The ports: what this service asks of a blob store and of a catalog.

Adapters add no promises of their own. Both raise STORE_UNAVAILABLE when what is
behind them does not answer, the blob store STORAGE_FULL when it has no room.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from services.chassis.names import AgentName
from services.snapshots.generations import AgentState, Claim, Snapshot

# How many of an agent's records a catalog keeps by itself: 250 KB at most.
RECORDS_KEPT: Final = 100


class BlobMissing(Exception):
    """There is no blob of that name."""


class BlobStore(Protocol):
    """Blobs by name; names are paths like `towns/t/segments/ab/abcd`.

    Whatever can be read was whole and on stable storage before its name appeared,
    and stays so after any crash. Only one process writes to a file store at a time.
    """

    async def create(self, key: str, data: bytes) -> bool:
        """Makes a small blob, unless the name is taken: then False, nothing changes."""

    async def swap(self, key: str, old: bytes, new: bytes) -> bool:
        """Replaces a small blob that is still `old`, in one step that a crash does not
        cut; else False, nothing changes."""

    async def publish(self, key: str, path: Path) -> None:
        """Makes a blob of the local file. A blob of that name is replaced: so only
        for names that are digests, where replacing heals what had rotted."""

    async def read(self, key: str) -> bytes:
        """A small blob. Raises BlobMissing."""

    def local(self, key: str) -> AbstractAsyncContextManager[Path]:
        """The blob as a file to read while the context lasts. Raises BlobMissing."""

    def stored(self, key: str) -> AsyncIterator[bytes]:
        """The bytes that the store has now, in pieces, past every copy and cache; what
        cannot be read any more is missing in them. Raises BlobMissing."""

    async def delete(self, key: str) -> None:
        """Removes the blob; absent is fine."""

    async def list(self, folder: str) -> list[str]:
        """Names right below the folder, sorted; none if there is no such folder."""

    async def check(self) -> None:
        """Returns if the store is there, with its mark, and can be written to."""


@dataclass(frozen=True, slots=True)
class Known:
    """An upload that was committed, and as which generation."""

    agent: str
    generation: int


@dataclass(frozen=True, slots=True)
class Entry:
    """A generation that exists, when it was committed, and when it is purged if it is
    deleted."""

    generation: int
    create_time_us: int
    purge_time_us: int | None = None


class Catalog(Protocol):
    """Who owns an agent, which generations it has, which one is the head.

    Every change is one atomic step, durable when the call returns. A call that raises
    UNAVAILABLE may have happened; all of them are safe to repeat.
    """

    async def advance(self, agent: AgentName, claim: Claim) -> AgentState:
        """Fences earlier owners, binds this one. Raises LEASE_FENCED."""

    async def look(
        self, agent: AgentName, upload_id: str = ""
    ) -> tuple[AgentState, Known | None]:
        """The state, and what became of the upload, read in one step."""

    async def commit(
        self,
        snapshot: Snapshot,
        claim: Claim,
        if_generation_match: int | None,
        revision: int = 0,
    ) -> Snapshot | None:
        """Makes the snapshot the head. Its generation must be the one after the last
        and `revision` that of the state it was made on: if they are not any more, None
        and nothing changed. If its upload was committed before, that snapshot.
        Raises LEASE_FENCED, GENERATION_MISMATCH."""

    async def revise(
        self,
        agent: AgentName,
        old: Snapshot | None,
        new: Snapshot,
        claim: Claim | None = None,
        if_generation_match: int | None = None,
    ) -> bool:
        """Replaces the record of a generation, if it is still `old`; None is a record
        that the catalog left to the blob store. False, and nothing, if it is not. A
        hold or deletion that the new one tells of is in force from then on. With a
        claim only for who may delete.
        Raises SNAPSHOT_NOT_FOUND, LEASE_FENCED, GENERATION_MISMATCH (also for a
        deletion of the head)."""

    async def records(
        self, agent: AgentName, generations: Sequence[int]
    ) -> list[Snapshot | None]:
        """Recent records; None also for older ones, which only the blobs have."""

    async def settle(self, agent: AgentName) -> None:
        """Returns once everything known of the agent is as durable as promised: before
        an answer that an earlier call, now lost, should have given."""

    async def entries(
        self,
        agent: AgentName,
        *,
        below: int | None = None,
        count: int | None = None,
        deleted: bool = False,
    ) -> Sequence[Entry]:
        """Generations that exist, newest first; on request the deleted ones as well,
        read in one step with the others."""

    async def delete(
        self,
        agent: AgentName,
        generation: int | None,
        claim: Claim,
        if_generation_match: int | None,
    ) -> Sequence[int]:
        """Forgets one generation, or with None all, deleted ones as well; those that it
        forgot.
        Raises LEASE_FENCED, GENERATION_MISMATCH (also for the head alone),
        SNAPSHOT_HELD (of all: if one of them is)."""

    async def drop(self, agent: AgentName, generations: Sequence[int]) -> Sequence[int]:
        """Forgets generations, but neither the head nor what is held or deleted: for
        retention. Those that are gone now, earlier ones included."""

    async def purge(self, agent: AgentName, now_us: int) -> Sequence[int]:
        """Forgets deleted generations whose time is over; those that it forgot."""

    async def forget(self, agent: AgentName, generations: Sequence[int]) -> None:
        """Forgets generations once more when their records are gone: who took over
        the records meanwhile had taken them back."""

    async def forgotten(
        self, agent: AgentName, generations: Sequence[int]
    ) -> Sequence[int]:
        """Those that it had once and has no more, by one look. Of what it may never
        have had it says nothing: its memory may be older than the records."""

    async def fence(self, agent: AgentName) -> None:
        """Raises the epoch and leaves the agent without an owner; nothing if it never
        had one."""

    async def adopt(
        self,
        agent: AgentName,
        snapshots: Sequence[Snapshot],
        changes: int | None = None,
        owed: Sequence[Snapshot] = (),
    ) -> bool:
        """Replaces what is known of the agent by all its records, oldest first, and
        leaves it without an owner. False, and nothing, if the catalog is newer.

        With `changes` whatever it knew is replaced, as long as they are the changes of
        now; one that claimed the head that stands stays its owner. Those of the records
        that are `owed` to the blob store are kept beside the recent ones."""

    async def trim(self, agent: AgentName, snapshots: Sequence[Snapshot]) -> None:
        """Forgets these records, not the generations, as the blob store has them; not
        those that say something else by now."""

    async def recent(self, agent: AgentName) -> Sequence[Snapshot]:
        """All records that the catalog has, oldest first."""

    async def towns(self) -> Sequence[str]:
        """Towns that ever had an agent here."""

    async def agents(self, town: str) -> Sequence[str]:
        """Agents of the town that were ever seen."""
