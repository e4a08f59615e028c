"""Makes generations from one live database: on demand, at turn end, each second while
it changes. One save at a time; a save that was begun is never begun twice.

The state a save stands on (`lineage`) moves only when the service has acknowledged.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import uuid
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Final

import structlog

from services.chassis.clock import Clock
from services.chassis.errors import Reason, ServiceError
from services.chassis.names import AgentName
from services.segments.page_map import PageMap
from services.supervisor.capture import Reading
from services.supervisor.host_faults import refusing_host_faults
from services.supervisor.places import Lineage, Places
from services.supervisor.run import backoff_s
from services.supervisor.segmenter import Cut, Segmenter
from services.supervisor.snapshots_client import (
    Generation,
    Segmented,
    SnapshotsClient,
)

log = structlog.get_logger()

# Saves follow changes, at most one a second: a SIGKILL loses under 2 s.
INTERVAL_S: Final = 1.0
# The service compacts chains long before they are so long, and refuses longer ones.
DELTAS_MAX: Final = 64
# An upload may hang for as long as a large one takes; whoever closes has better to do.
CLOSE_S: Final = 5.0
# Two lost races in one save is a bug, or somebody who writes whole files in between.
ATTEMPTS_MAX: Final = 4


@dataclass(frozen=True, slots=True)
class _Flight:
    """A segment on its way. Repeated under the same id until its fate is known."""

    segmented: Segmented
    cut: Cut
    captured_at_s: float


class Saver:
    """The saves of one agent's database, under one epoch."""

    def __init__(
        self,
        *,
        name: AgentName,
        epoch: int,
        database: Path | None,
        places: Places,
        snapshots: SnapshotsClient,
        clock: Clock,
        runtime: str,
        runtime_version: str,
    ) -> None:
        self.name = name
        self.database = database  # None: the runtime has none, nothing is ever saved
        self.session_id = ""
        self.saved_at: datetime | None = None
        self.lineage = Lineage(0, epoch)
        self.reading: Reading | None = None  # of the last save
        self.on_saved: Callable[[Saver], None] = lambda saver: None
        self.on_fenced: Callable[[str], None] = lambda why: None
        self._epoch = epoch
        self._places = places
        self._snapshots = snapshots
        self._clock = clock
        self.runtime = (runtime, runtime_version)
        self._map = PageMap()
        self._parent = 0
        self._segmenter: Segmenter | None = None
        self._flight: _Flight | None = None
        self._lock = asyncio.Lock()
        self._steps: set[asyncio.Future[int]] = set()
        self._wanted = asyncio.Event()
        self._captured_at_s = float("-inf")
        self._dirty_since_s: float | None = None

    @property
    def generation(self) -> int:
        """The newest durable generation; 0: none."""
        return self._parent

    @property
    def lag_s(self) -> float:
        """For how long changes have been waiting to be durable; 0: none waits."""
        if self._dirty_since_s is None:
            return 0.0
        return max(0.0, self._clock.monotonic() - self._dirty_since_s)

    def begin(
        self, lineage: Lineage, page_map: PageMap | None, head: Generation | None
    ) -> None:
        """Says what the database on disk descends from, and what the head is.

        A page map that is not the head's is dropped: the next save is a base then.
        """
        self.lineage = lineage
        self.session_id = lineage.session_id
        self._parent = head.number if head is not None else 0
        self.saved_at = head.saved_at if head is not None else None
        self._map = PageMap()
        if head is None or head.opaque or page_map is None:
            return
        if bytes(page_map.fingerprint) == head.fingerprint:
            self._map = page_map
            deltas = len(head.segments) - 1
            self.lineage = replace(lineage, generation=head.number, deltas=deltas)

    def in_session(self, session_id: str) -> None:
        """Says which session the database holds. Written down at once: whoever goes on
        from this disk, saved or not, must go on with it."""
        self.session_id = session_id
        if session_id != self.lineage.session_id:
            self.lineage = replace(self.lineage, session_id=session_id)
            self._places.record(self.lineage)

    def rebase(self, parent: int) -> None:
        """The next save is a base on top of `parent`, whatever the database is."""
        self._parent = parent
        self._map = PageMap()

    async def open(self) -> None:
        """Takes up what the record beside the database says, unless `begin` did."""
        if self._segmenter is not None or self.database is None:
            return
        if self.lineage.generation == 0 and self._parent == 0:
            await self._take_up()
        # Kept up to date by each save from here on, for whoever comes after a SIGKILL.
        with contextlib.suppress(OSError):
            await asyncio.to_thread(self._map.save, self._places.page_map)
        self._segmenter = Segmenter(self.database, self._places)

    async def _take_up(self) -> None:
        lineage = self._places.lineage()
        if lineage is None:
            return
        self.lineage, self.session_id = lineage, lineage.session_id
        self._parent = lineage.generation
        known = await asyncio.to_thread(PageMap.load, self._places.page_map)
        self._map = known or PageMap()

    async def close(self) -> None:
        """Lets go of the database, and of its page map: that stays on disk for a
        successor, who would hold a second one beside it."""
        if self._steps:
            await asyncio.wait(self._steps, timeout=CLOSE_S)
        for step in self._steps:
            step.cancel()
        if self._steps:
            await asyncio.wait(self._steps)
        if self._flight is not None:
            # Landed or not, the successor finds out when it asks for the head.
            await self._drop(self._flight)
        segmenter, self._segmenter = self._segmenter, None
        if segmenter is not None:
            await segmenter.close()
        self._map = PageMap()

    async def let_go(self) -> None:
        """Keeps no read transaction open: an agent that ends may want its log whole."""
        if self._segmenter is not None:
            await self._segmenter.let_go()

    def request(self) -> None:
        """Asks for a save soon; returns at once."""
        self._wanted.set()

    async def keep_saving(self) -> None:
        """Saves each second while the database changes, until cancelled."""
        failures = 0
        while True:
            pause_s = INTERVAL_S
            if failures:
                pause_s = backoff_s(failures) * random.uniform(0.5, 1.0)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause_s):
                    await self._wanted.wait()
            self._wanted.clear()
            try:
                if await self._changed():
                    await self.save()
                failures = 0
            except ServiceError as error:
                if error.reason is Reason.LEASE_FENCED:
                    return
                failures += 1
                log.warning(
                    "save.failed",
                    agent=str(self.name),
                    reason=error.reason,
                    error=error.message,
                    lag_s=round(self.lag_s, 1),
                )
                # Requests of a chatty agent must not undo the pause.
                await asyncio.sleep(min(pause_s, INTERVAL_S))

    async def _changed(self) -> bool:
        with refusing_host_faults(f"a save of {self.name}"):
            # Asked also while a save waits: a log that grows is then let go.
            changed = self._segmenter is not None and await self._segmenter.changed()
        if not changed and self._flight is None:
            return False
        if self._dirty_since_s is None:
            self._dirty_since_s = self._clock.monotonic()
        return True

    async def save(self) -> int:
        """Everything committed to the database before the call is durable when this
        returns the generation that holds it; 0: there is no database yet.

        Cancelling the caller does not undo the save: it is finished all the same.
        """
        step = asyncio.ensure_future(self._save_after(self._clock.monotonic()))
        self._steps.add(step)
        step.add_done_callback(self._forget)
        return await asyncio.shield(step)

    def _forget(self, step: asyncio.Future[int]) -> None:
        self._steps.discard(step)
        if not step.cancelled():
            step.exception()  # whoever still listens has it already

    async def _save_after(self, asked_s: float) -> int:
        async with self._lock:
            # Somebody who waited before us may have read the database after we asked.
            if self._captured_at_s < asked_s:
                try:
                    with refusing_host_faults(f"a save of {self.name}"):
                        await self._save()
                except ServiceError as error:
                    if error.reason is Reason.LEASE_FENCED:
                        self.on_fenced(error.message)
                    raise
            return self.generation

    async def _save(self) -> None:
        for _ in range(ATTEMPTS_MAX):
            if self._flight is not None and not await self._land(self._flight):
                continue
            began_s = self._clock.monotonic()
            flight = await self._take_off(began_s)
            if flight is None:
                self._captured_at_s = began_s
                self._dirty_since_s = None
                return
            self._flight = flight
            # Written down first: if we die before the answer, a head with this id is
            # known to be no stranger's, and the database on disk to be newer.
            upload_id = flight.segmented.upload_id
            self._places.record(replace(self.lineage, upload_id=upload_id))
            if self._dirty_since_s is None:
                self._dirty_since_s = began_s
            if await self._land(flight):
                self._captured_at_s = began_s
                self._dirty_since_s = None
                return
        raise ServiceError(
            Reason.GENERATION_MISMATCH,
            f"cannot save {self.name}: somebody else keeps writing its snapshot",
            agent=self.name,
        )

    async def _take_off(self, began_s: float) -> _Flight | None:
        """Reads what changed into a segment; None when nothing did."""
        if self._segmenter is None:
            return None
        whole = self.lineage.deltas >= DELTAS_MAX or not self._map.page_count
        upload_id = str(uuid.uuid4())
        cut = await self._segmenter.cut(self._map, upload_id, base=whole)
        if cut is None:
            return None
        segmented = Segmented(
            upload_id=upload_id,
            path=cut.path,
            fingerprint=cut.fingerprint,
            parent=self._parent,
            epoch=self._epoch,
            runtime=self.runtime[0],
            runtime_version=self.runtime[1],
            session_id=self.session_id,
        )
        return _Flight(segmented, cut, began_s)

    async def _land(self, flight: _Flight) -> bool:
        """Commits a segment; False when the head has moved and it must be made anew."""
        try:
            generation = await self._snapshots.upload(self.name, flight.segmented)
        except ServiceError as error:
            if "resend" in error.metadata:
                # Compaction took pages that prefixes rest on; a new cut has none.
                await self._drop(flight)
                return False
            if error.reason in {Reason.GENERATION_MISMATCH, Reason.PARENT_MISMATCH}:
                await self._stand_on_head(flight)
                return False
            if error.code.name in {"INVALID_ARGUMENT", "ALREADY_EXISTS"}:
                # Not the network's doing: what we hold is wrong. Read all anew.
                await self._drop(flight)
                self._map = PageMap()
            raise
        self._flight = None
        assert self._segmenter is not None
        await self._segmenter.landed(flight.cut)
        self._parent, self.saved_at = generation.number, generation.saved_at
        self.reading = flight.cut.reading
        self.lineage = Lineage(
            generation.number,
            self._epoch,
            self.session_id,
            self.runtime[0],
            len(generation.segments) - 1,
        )
        self._places.record(self.lineage)
        self.on_saved(self)
        return True

    async def _stand_on_head(self, flight: _Flight) -> None:
        """Someone wrote the snapshot under our own epoch: over HTTP, whole."""
        head, _ = await self._snapshots.advance(self.name, self._epoch)
        log.warning(
            "save.head_moved",
            agent=str(self.name),
            expected=flight.segmented.parent,
            head=head.number if head else 0,
        )
        await self._drop(flight)
        self.rebase(head.number if head is not None else 0)

    async def _drop(self, flight: _Flight) -> None:
        self._flight = None
        assert self._segmenter is not None
        await self._segmenter.dropped(flight.cut)
