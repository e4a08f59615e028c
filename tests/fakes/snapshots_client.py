"""The snapshot service in memory, as the supervisor's client sees it: it fences,
refuses what does not follow the head, and keeps the segments."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime

from blake3 import blake3

from services.chassis.errors import Reason, ServiceError
from services.chassis.names import AgentName
from services.segments.layout import HEADER, Header, Kind
from services.supervisor.snapshots_client import Generation, Segment, Segmented


@dataclass
class FakeSnapshots:
    """One agent's generations. Faults are given by the test."""

    generations: list[Generation] = field(default_factory=list)
    segments: dict[bytes, bytes] = field(default_factory=dict)
    epoch: int = 0
    # Called with the upload before and after its commit; may raise or wait.
    before: Callable[[Segmented], None] = lambda segmented: None
    after: Callable[[Segmented], None] = lambda segmented: None
    gate: asyncio.Event | None = None
    # The next download finds another chain than the caller heard of.
    compacted: bool = False
    uploads: list[Segmented] = field(default_factory=list)

    @property
    def head(self) -> Generation | None:
        return self.generations[-1] if self.generations else None

    async def close(self) -> None: ...

    async def advance(
        self, name: AgentName, epoch: int
    ) -> tuple[Generation | None, int]:
        if epoch < self.epoch:
            raise self._fenced()
        self.epoch = epoch
        return self.head, self.head.number if self.head else 0

    async def older(self, name: AgentName, than: int) -> list[Generation]:
        return [one for one in reversed(self.generations) if one.number < than]

    async def get(self, name: AgentName, number: int) -> Generation:
        for one in self.generations:
            if one.number == number:
                return one
        raise ServiceError(Reason.SNAPSHOT_NOT_FOUND, f"cannot find {number}")

    async def upload(self, name: AgentName, segmented: Segmented) -> Generation:
        if self.gate is not None:
            await self.gate.wait()
        self.uploads.append(segmented)
        self.before(segmented)
        if segmented.epoch != self.epoch:
            raise self._fenced()
        for one in self.generations:
            if one.upload_id == segmented.upload_id:
                return one
        number = self.head.number if self.head else 0
        if segmented.parent != number:
            raise ServiceError(
                Reason.GENERATION_MISMATCH, "cannot commit", generation=number
            )
        generation = self._add(segmented, number + 1)
        self.generations.append(generation)
        self.after(segmented)
        return generation

    async def download(
        self, name: AgentName, generation: Generation
    ) -> AsyncIterator[bytes]:
        if self.compacted:
            self.compacted = False
            raise ServiceError(
                Reason.STORE_UNAVAILABLE, "cannot read it", compacted=generation.number
            )
        for segment in generation.segments:
            yield self.segments[segment.blake3]

    def rot(self, generation: Generation) -> None:
        """Damages the newest segment of a generation."""
        last = generation.segments[-1].blake3
        data = bytearray(self.segments[last])
        data[len(data) // 2] ^= 1
        self.segments[last] = bytes(data)

    def _add(self, segmented: Segmented, number: int) -> Generation:
        data = segmented.path.read_bytes()
        segment = Segment(blake3(data).digest(), len(data))
        self.segments[segment.blake3] = data
        header = Header.unpack(data[: HEADER.size])
        earlier = self.head.segments if self.head else ()
        base = header.kind is Kind.BASE
        return Generation(
            number=number,
            opaque=False,
            segments=(segment,) if base else (*earlier, segment),
            fingerprint=segmented.fingerprint,
            page_size=header.page_size,
            page_count=header.page_count,
            runtime=segmented.runtime,
            runtime_version=segmented.runtime_version,
            session_id=segmented.session_id,
            upload_id=segmented.upload_id,
            saved_at=datetime.now(UTC),
        )

    def _fenced(self) -> ServiceError:
        return ServiceError(
            Reason.LEASE_FENCED, f"cannot commit: epoch {self.epoch} was seen"
        )
