"""What there is in hand of an agent: lease, run, process, saver; and how each of them
is let go."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import replace
from typing import Final, TypeAlias

import structlog

from services.chassis.errors import Reason, ServiceError
from services.chassis.names import AgentName
from services.supervisor.errand import Errand
from services.supervisor.ledger import Entry
from services.supervisor.live import LiveRun
from services.supervisor.output import OutputBuffer
from services.supervisor.registry_client import Evidence
from services.supervisor.run import Run, State, backoff_s
from services.supervisor.saver import Saver
from services.supervisor.specs import Claim
from services.supervisor.surroundings import Surroundings
from services.supervisor.workspace_save import Workspace

log = structlog.get_logger()

# Nothing of the agent is here to end, says the registry.
_NOT_OURS: Final = frozenset(
    {
        Reason.LEASE_HELD,
        Reason.LEASE_FENCED,
        Reason.AGENT_NOT_FOUND,
        Reason.NO_START_REQUEST,
    }
)
# With the next lease, or with none.
GoOn: TypeAlias = Callable[[Claim | None], Awaitable[None]]


class Holding:
    """Of one agent. `run` is the current run, or the last one."""

    def __init__(self, name: AgentName, around: Surroundings) -> None:
        self.name = name
        self.run: Run | None = None
        self.workspace: Workspace | None = None  # the last one; outlives the lease
        self.output = OutputBuffer()
        self.failed_starts = 0
        self.taken = 0  # the highest epoch that was taken up here, held still or not
        self._around = around
        self._lock = asyncio.Lock()
        self._claim: Claim | None = None
        self._live: LiveRun | None = None
        self._saver: Saver | None = None  # stays after the process until all is saved
        self._errand = Errand(str(name))
        self._ending: str | None = None  # why, while an end waits for its last save
        self._unsaved = False  # what lies on disk, with no saver that holds it
        self._models: tuple[str, str] | None = None  # given since the start

    @property
    def epoch(self) -> int:
        return self._claim.epoch if self._claim is not None else 0

    @property
    def lag_s(self) -> float:
        return self._saver.lag_s if self._saver is not None else 0.0

    @property
    def alive(self) -> bool:
        """Whether it has a run that has not ended."""
        return self.run is not None and self.run.alive

    def _lives_on(self) -> bool:
        """Whether something of it runs that no run here has, and may be adopted."""
        return self._live is None and bool(self._around.ledger.leftovers(self.name))

    @property
    def holds_lease(self) -> bool:
        return self._claim is not None

    def wake(self) -> None:
        """Says that the inbox may hold something new."""
        if self._live is not None:
            self._live.wake()

    def _runs(self, claim: Claim) -> bool:
        held = self._claim
        return (
            self._live is not None
            and held is not None
            and held.epoch == claim.epoch
            and claim.spec in (held.spec, self._told(held).spec)
        )

    def _told(self, claim: Claim) -> Claim:
        """The claim with the models that it was given since: they outlive a crash."""
        if self._models is None:
            return claim
        model, small_model = self._models
        small_model = small_model or claim.spec.small_model
        spec = replace(claim.spec, model=model, small_model=small_model)
        return replace(claim, spec=spec)

    async def _release(self, end_reason: str, *, wait_for_boot: bool = False) -> None:
        if self._claim is not None:
            await self._around.release(
                self._claim, end_reason, wait_for_boot=wait_for_boot
            )
        self._claim = self._ending = None

    async def _tell_end(self) -> None:
        """An end that the registry has not heard is none: another boot of this slot
        would start the agent."""
        try:
            await self._around.tell_release(self.name)
        except ServiceError as error:
            raise ServiceError(
                Reason.SERVICE_UNAVAILABLE,
                f"cannot tell the registry that {self.name} was stopped"
                f" ({error.message}): it has ended and is saved; it is told when it is"
                " back, or ask again",
                agent=self.name,
            ) from error

    async def _lose(self, why: str) -> None:
        log.error("agent.lease_lost", agent=str(self.name), why=why)
        saver = await self._end_at_once()
        await self._around.ledger.end(self.name)
        self._claim = self._ending = None
        self._unsaved = False
        if saver is not None and saver.database is not None:
            places = self._around.places(self.name)
            places.set_aside(saver.database, "fenced")
        if self.run is not None:
            self.run.error = why
            self.run.exit_reason = "failed"
            self.run.state = State.FAILED

    async def _end_at_once(self) -> Saver | None:
        await self._errand.drop()
        live, saver = self._live, self._saver
        self._live = self._saver = None
        if live is not None:
            await live.stop(0.0)
        if saver is not None:
            await saver.close()
        return saver

    async def _take(self) -> Claim:
        # A release that is still to be told would end the run that now begins.
        await self._around.tell_release(self.name)
        return await self._claimed(renew=self._unsaved)

    async def _claimed(self, *, renew: bool) -> Claim:
        claim = (await self._around.registry.claim([self.name], renew=renew))[0]
        self.taken = claim.epoch
        return claim

    async def _take_to_end(self) -> None:
        """The intent to run stands still where a start failed or a lease is in doubt,
        and the next boot would follow it. Leaves no claim if it is not ours to end."""
        try:
            self._claim = await self._take()
        except ServiceError as error:
            if error.reason not in _NOT_OURS:
                raise

    async def _renew(self, claim: Claim, go_on: GoOn) -> None:
        """Goes on under the next epoch of the lease, if the registry says that it is
        ours still: so nobody else has run the agent. With none if it is not, or nobody
        can say. A registry that goes away before it has answered is waited for."""
        shown = Evidence(
            self.name,
            claim.epoch,
            alive=self._live is not None,
            generation=claim.generation,
            failed_starts=self.failed_starts,
        )
        leaving = self._around.leaving.is_set()
        try:
            pulse = await self._around.registry.heartbeat([shown], leaving=leaving)
            lost = self.name in pulse.lost
        except ServiceError as error:
            log.warning("agent.claim_failed", agent=str(self.name), why=error.message)
            lost = True
        if lost:
            await go_on(None)
            return
        try:
            renewed = await self._next_lease()
        except ServiceError as error:
            # It may have been renewed: nothing runs until that is known, and no
            # heartbeat may show the old one, to hear that it is lost.
            await self._end_at_once()
            self._claim, self._unsaved = None, True
            if self.run is not None:
                self.run.error, self.run.state = error.message, State.BACKOFF
            self._errand.begin(self._wait_for_lease(go_on))
            return
        await go_on(renewed)

    async def _wait_for_lease(self, go_on: GoOn) -> None:
        """The lock is free between the tries: a stop ends them."""
        failures = 0
        while True:
            failures += 1
            await asyncio.sleep(backoff_s(failures))
            async with self._lock:
                try:
                    renewed = await self._next_lease()
                except ServiceError:
                    continue
                await go_on(renewed)
                return

    async def _next_lease(self) -> Claim | None:
        """None if it is another's. Raises what is passing; may be repeated."""
        try:
            return await self._claimed(renew=True)
        except ServiceError as error:
            log.warning("agent.claim_failed", agent=str(self.name), why=error.message)
            if error.reason not in _NOT_OURS:
                raise
            return None

    def _exited(self, reason: str) -> None:
        run = self.run
        if run is None or not run.alive:
            return
        run.exit_reason = reason
        run.pid = 0
        run.move(State.EXITED)
        self.output.close()
        self._around.events.append(
            self.name.agent, "agent.exited", {"reason": reason, "run": run.id}
        )

    def _write_down(self, live: LiveRun) -> None:
        """For a supervisor that comes after us."""
        run, claim = live.run, self._claim
        assert claim is not None
        entry = Entry(
            run.id,
            live.process,
            claim.spec.digest,
            run.started_at,
            workdir=run.workdir,
            resumed=run.resumed,
            models=self._models,
        )
        with suppress(OSError):  # the mark of the intent finds it as well
            self._around.ledger.started(self.name, entry)

    async def _close_saver(self) -> None:
        saver, self._saver = self._saver, None
        if saver is not None:
            await saver.close()

    def _on_saved(self, saver: Saver) -> None:
        if self.run is not None:
            self.run.generation, self.run.saved_at = saver.generation, saver.saved_at
        details: dict[str, object] = {"generation": saver.generation}
        if saver.reading is not None:
            # How the database was read, and for how long a read transaction stood.
            details["way"] = str(saver.reading.way)
            details["pages"] = saver.reading.pages
            details["reader_ms"] = round(1000 * saver.reading.held_s, 1)
            details["log_frames"] = saver.reading.log_frames
        self._around.events.append(self.name.agent, "agent.saved", details)
