"""What the keeper of an agent has in hand: lease, run, process, saver; and how each of
them is let go."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import structlog

from services.chassis.errors import ServiceError
from services.chassis.names import AgentName
from services.supervisor.errand import Errand
from services.supervisor.live import LiveRun
from services.supervisor.output import OutputBuffer
from services.supervisor.registry_client import Evidence
from services.supervisor.run import Run, State
from services.supervisor.saver import Saver
from services.supervisor.specs import Claim
from services.supervisor.surroundings import Surroundings

log = structlog.get_logger()


class Holding:
    """Of one agent. `run` is the current run, or the last one."""

    def __init__(self, name: AgentName, around: Surroundings) -> None:
        self.name = name
        self.run: Run | None = None
        self.output = OutputBuffer()
        self.failed_starts = 0
        self._around = around
        self._lock = asyncio.Lock()
        self._claim: Claim | None = None
        self._live: LiveRun | None = None
        self._saver: Saver | None = None  # stays after the process until all is saved
        self._errand = Errand(str(name))
        self._ending: str | None = None  # why, while an end waits for its last save
        self._models: tuple[str, str] | None = None  # given since the start

    @property
    def epoch(self) -> int:
        return self._claim.epoch if self._claim is not None else 0

    @property
    def lag_s(self) -> float:
        return self._saver.lag_s if self._saver is not None else 0.0

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

    async def _release(self, end_reason: str) -> None:
        if self._claim is not None:
            await self._around.release(self._claim, end_reason)
        self._claim = None

    async def _lose(self, why: str) -> None:
        log.error("agent.lease_lost", agent=str(self.name), why=why)
        saver = await self._end_at_once()
        self._claim = None
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

    async def _renewed(self, claim: Claim) -> Claim | None:
        """The lease under its next epoch, if the registry says that it is ours still:
        so nobody else has run the agent. None if it is not, or nobody can say."""
        registry = self._around.registry
        shown = Evidence(
            self.name,
            claim.epoch,
            alive=self._live is not None,
            generation=claim.generation,
            failed_starts=self.failed_starts,
        )
        try:
            if self.name in (await registry.heartbeat([shown])).lost:
                return None
            await registry.release(self.name, claim.epoch)
            return (await registry.claim([self.name]))[0]
        except ServiceError as error:
            log.warning("agent.claim_failed", agent=str(self.name), why=error.message)
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
