"""Before a run starts: fence earlier owners, end what they left, put its session and
its workspace in place, all proven."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import structlog

from services.chassis.clock import Clock
from services.chassis.errors import Reason, ServiceError
from services.chassis.names import AgentName
from services.segments.page_map import PageMap
from services.supervisor.descent import (
    UNSOUND,
    Source,
    caught_up,
    check_version,
    choose,
    loss_report,
)
from services.supervisor.ledger import Entry, Ledger
from services.supervisor.places import Lineage, Places
from services.supervisor.read_ahead import work_ahead
from services.supervisor.rebuild import rebuild
from services.supervisor.runtime import Launch, Runtime
from services.supervisor.saver import Saver
from services.supervisor.snapshots_client import Generation, SnapshotsClient
from services.supervisor.specs import AgentSpec, Claim

log = structlog.get_logger()

PrepareWorkspace = Callable[[AgentName, AgentSpec], Awaitable[Path]]


@dataclass(frozen=True, slots=True)
class Hydrated:
    """All that a run needs to start."""

    launch: Launch
    saver: Saver
    lost: tuple[int, ...] = ()  # generations that could not be used, newest first
    report: str = ""


@dataclass(frozen=True, slots=True)
class Hydrator:
    """Puts sessions in place. One for all agents; holds no state of any."""

    snapshots: SnapshotsClient
    runtimes: Mapping[str, Runtime]
    ledger: Ledger
    clock: Clock
    places: Callable[[AgentName], Places]
    prepare_workspace: PrepareWorkspace

    async def hydrate(
        self, claim: Claim, run: str, *, crashed: bool, living: Entry | None = None
    ) -> Hydrated:
        """Everything up to the start.

        `crashed`: only the process died, under this epoch; what is on disk is newest
        and its session goes on. `living`: what a dead supervisor left of that run, to
        be gone on with. Its database must be the newest state; if it is not, the
        process is ended, and that is RUN_NOT_RUNNING.
        """
        launch, runtime = await self._launch(claim, run, living)
        database = runtime.database_path(launch)
        version = await runtime.version(launch)
        saver = self._saver(claim, database, runtime.name, version)
        if crashed and (database is None or database.exists()):
            await saver.open()
            return Hydrated(self._continuing(launch, saver.session_id), saver)
        head, last = await self.snapshots.advance(claim.name, claim.epoch)
        async with _closed_on_failure(saver):
            if living is not None:
                await self._stand_by(claim, saver, head, last)
                return Hydrated(launch, saver)
            lost = await self._settle(claim, saver, head, last)
        if crashed or claim.spec.continues:
            launch = self._continuing(launch, saver.session_id)
        report = loss_report(claim, head, lost)
        if report:
            log.error("hydrate.loss", agent=str(claim.name), report=report)
        return Hydrated(launch, saver, tuple(lost), report)

    async def restore(self, claim: Claim, number: int) -> tuple[int, int]:
        """Makes an older generation the newest; returns its new number and that of
        the state it replaced. The agent must not run."""
        wanted = await self.snapshots.get(claim.name, number)
        launch, runtime = await self._launch(claim, "restore")
        version = await runtime.version(launch)
        check_version(runtime.name, version, wanted.runtime, wanted.runtime_version)
        saver = self._saver(claim, runtime.database_path(launch), runtime.name, version)
        head, last = await self.snapshots.advance(claim.name, claim.epoch)
        async with _closed_on_failure(saver):
            replaced = head.number if head is not None else 0
            if await self._keep_local(claim, saver, head, last):
                replaced = await saver.save()
            await saver.close()
            await self._fetch(claim, saver, wanted)
            # Its content is old but it follows the newest: a base, on top of the head.
            saver.rebase(replaced)
            await saver.open()
            restored = await saver.save()
        await saver.close()
        return restored, replaced

    async def _launch(
        self, claim: Claim, run: str, living: Entry | None = None
    ) -> tuple[Launch, Runtime]:
        places, spec = self.places(claim.name), claim.spec
        runtime = self.runtimes.get(spec.runtime)
        if runtime is None:
            raise ServiceError(
                Reason.RUNTIME_MISSING,
                f"cannot run {spec.runtime} here: this supervisor has"
                f" {', '.join(sorted(self.runtimes))}",
                runtime=spec.runtime,
            )
        await asyncio.to_thread(places.prepare)
        if living is not None:
            workdir = Path(living.workdir)  # somebody works in it
        else:
            workdir = await self.prepare_workspace(claim.name, spec)
        launch = Launch(
            town=claim.name.town,
            rig=spec.rig,
            agent=claim.name.agent,
            run=run,
            role=spec.role,
            spec=spec.run_spec,
            home=places.home,
            workdir=workdir,
            tmpdir=places.tmpdir,
            handover=places.handover,
            environ=spec.git_author(claim.name),
        )
        return launch, runtime

    def _saver(
        self, claim: Claim, database: Path | None, runtime: str, version: str
    ) -> Saver:
        return Saver(
            name=claim.name,
            epoch=claim.epoch,
            database=database,
            places=self.places(claim.name),
            snapshots=self.snapshots,
            clock=self.clock,
            runtime=runtime,
            runtime_version=version,
        )

    def _continuing(self, launch: Launch, session_id: str) -> Launch:
        return replace(launch, resume_session=session_id or None)

    async def _settle(
        self,
        claim: Claim,
        saver: Saver,
        head: Generation | None,
        last: int,
    ) -> list[int]:
        """Leaves the right database on disk, nobody else using it, and the saver open
        on it. Returns the generations that could not be used."""
        if head is not None:
            # First: a save of what lies here would call it ours, readable or not.
            check_version(*saver.runtime, head.runtime, head.runtime_version)
        if await self._keep_local(claim, saver, head, last):
            return []
        if head is None or saver.database is None:
            saver.begin(Lineage(0, claim.epoch), None, head)
            self.places(claim.name).record(saver.lineage)
            await saver.open()
            return []
        return await self._newest_sound(claim, saver, head)

    async def _stand_by(
        self, claim: Claim, saver: Saver, head: Generation | None, last: int
    ) -> None:
        """Opens the saver on the database of a process that goes on."""
        lineage = self._newest_here(claim.name, saver, head, last)
        missing = saver.database is not None and not saver.database.exists()
        if lineage is None and head is None and missing:
            lineage = Lineage(0, claim.epoch)  # it has not made one yet
        if lineage is not None:
            await self._take_over(saver, head, lineage)
            # First: if it cannot be gone on with after all, it is ended.
            await _save_if_possible(saver)
            return
        await self._end_leftovers(claim.name)
        raise ServiceError(
            Reason.RUN_NOT_RUNNING,
            f"cannot go on with {claim.name} as it ran here: somebody else has gone on",
            agent=claim.name,
        )

    async def _keep_local(
        self, claim: Claim, saver: Saver, head: Generation | None, last: int
    ) -> bool:
        """Ends what a predecessor left running. Saves the database on disk, if it is
        the newest state, with the saver open on it; else sets it aside."""
        name, places = claim.name, self.places(claim.name)
        database = saver.database
        lineage = self._newest_here(name, saver, head, last)
        if lineage is not None:
            await self._take_over(saver, head, lineage)
            if self.ledger.leftovers(name):
                # First: ending a process may be what the database does not survive.
                await _save_if_possible(saver)
        await self._end_leftovers(name)
        if lineage is not None:
            await _save_if_possible(saver)
        elif database is not None and database.exists():
            shelf = places.set_aside(database, "superseded")
            log.warning("hydrate.set_aside", agent=str(name), path=str(shelf))
        return lineage is not None

    def _newest_here(
        self, name: AgentName, saver: Saver, head: Generation | None, last: int
    ) -> Lineage | None:
        """What the database on disk descends from, if it is the newest state."""
        lineage = caught_up(self.places(name).lineage(), head)
        number = head.number if head is not None else 0
        exists = saver.database is not None and saver.database.exists()
        source = choose(lineage.generation if lineage else None, exists, number, last)
        local = exists and source in {Source.LOCAL, Source.AHEAD}
        return (lineage or Lineage(0, 0)) if local else None

    async def _end_leftovers(self, name: AgentName) -> None:
        ended = await self.ledger.end(name)
        if ended:
            log.warning("leftovers.ended", agent=str(name), processes=ended)

    async def _take_over(
        self, saver: Saver, head: Generation | None, lineage: Lineage
    ) -> None:
        """Opens the saver on the database on disk, which is the head or follows it."""
        known = await asyncio.to_thread(PageMap.load, self.places(saver.name).page_map)
        saver.begin(lineage, known, head)
        await saver.open()

    async def _newest_sound(
        self, claim: Claim, saver: Saver, head: Generation
    ) -> list[int]:
        lost: list[int] = []
        candidates = [head]
        while candidates:
            generation = candidates.pop(0)
            try:
                await self._fetch(claim, saver, generation)
            except ServiceError as error:
                if error.reason not in UNSOUND:
                    raise
                log.error(
                    "hydrate.generation_unsound",
                    agent=str(claim.name),
                    generation=generation.number,
                    why=error.message,
                )
                lost.append(generation.number)
                if generation is head:
                    candidates = await self.snapshots.older(claim.name, head.number)
                continue
            if lost:
                self._stand_on(claim, saver, head, saver.session_id)
            await saver.open()
            return lost
        if head.opaque:
            # Whole-file bytes that are no database: kept, and nothing to resume.
            self._stand_on(claim, saver, head, "")
            await saver.open()
            return lost
        raise ServiceError(
            Reason.SNAPSHOT_CORRUPT,
            f"cannot start {claim.name}: none of its {len(lost)} generations is sound;"
            " nothing was deleted, look at the store",
            agent=claim.name,
        )

    def _stand_on(
        self, claim: Claim, saver: Saver, head: Generation, session_id: str
    ) -> None:
        """What is on disk now follows a head that it was not made from. Written down:
        what a run adds before its first save is no stranger's then."""
        lineage = Lineage(head.number, claim.epoch, session_id)
        self.places(claim.name).record(lineage)
        saver.begin(lineage, None, head)

    async def _fetch(self, claim: Claim, saver: Saver, generation: Generation) -> None:
        """One generation, proven, in its place; the saver stands on it."""
        if generation.opaque:
            raise ServiceError(
                Reason.SNAPSHOT_OPAQUE,
                f"cannot hydrate from generation {generation.number}: no database",
            )
        places, database = self.places(claim.name), saver.database
        assert database is not None
        page_map = None
        while page_map is None:
            build = partial(
                rebuild, generation=generation, places=places, database=database
            )
            try:
                parts = self.snapshots.download(claim.name, generation)
                page_map = await work_ahead(parts, build)
            except ServiceError as error:
                if "compacted" not in error.metadata:
                    raise
                generation = await self.snapshots.get(claim.name, generation.number)
        lineage = Lineage(
            generation.number, claim.epoch, generation.session_id, generation.runtime
        )
        # First: whoever believes the record and finds no map saves all of it anew.
        with suppress(OSError):
            await asyncio.to_thread(page_map.save, places.page_map)
        places.record(lineage)
        saver.begin(lineage, page_map, generation)


async def _save_if_possible(saver: Saver) -> None:
    """What the database holds beyond the head. While the store is away it stays on
    this disk, and is saved when the store is back."""
    try:
        await saver.save()
    except ServiceError as error:
        if error.reason is Reason.LEASE_FENCED:
            raise
        log.warning("hydrate.save_pending", agent=str(saver.name), why=str(error))


@asynccontextmanager
async def _closed_on_failure(saver: Saver) -> AsyncIterator[None]:
    """A saver that nobody gets must not go on holding the database: no later one
    could open it."""
    try:
        yield
    except BaseException:
        await saver.close()
        raise
