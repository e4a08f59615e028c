"""What every agent of this supervisor works with; made once, in `__main__`."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import structlog

from services.chassis.clock import Clock
from services.chassis.errors import Reason, ServiceError
from services.chassis.names import AgentName
from services.supervisor.credential import Credential
from services.supervisor.errand import report_failure
from services.supervisor.events import EventLog
from services.supervisor.hydrate import Hydrator
from services.supervisor.ledger import Ledger
from services.supervisor.places import Places
from services.supervisor.registry_client import RegistryClient
from services.supervisor.run import Run, shutting_down
from services.supervisor.runtime import Runtime
from services.supervisor.specs import Claim, Identity

log = structlog.get_logger()


@dataclass(slots=True)
class Surroundings:
    """Shared by all agents; holds no state of any one of them."""

    identity: Identity
    data_dir: Path
    clock: Clock
    events: EventLog
    ledger: Ledger
    registry: RegistryClient
    hydrator: Hydrator
    runtimes: Mapping[str, Runtime]
    # Clear while our leases may be others': what has ended then stays ended.
    may_start: asyncio.Event = field(default_factory=asyncio.Event)
    # Set from when this instance is about to go: it takes no agents then.
    leaving: asyncio.Event = field(default_factory=asyncio.Event)
    # Releases that the registry did not hear; the heartbeat tells them again.
    unreleased: dict[AgentName, tuple[int, str, bool]] = field(default_factory=dict)
    _kept: set[asyncio.Task[None]] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.may_start.set()

    def places(self, name: AgentName) -> Places:
        """Where the agent's files lie."""
        return Places.of(self.data_dir, name)

    def credential(self, run: Run) -> Credential:
        """The token of a run, from its start to its end."""
        return Credential(
            run.name,
            run.epoch,
            run.id,
            self.places(run.name).token,
            self.registry,
            self.clock,
            self.keep,
        )

    def runtime(self, kind: str) -> Runtime:
        """The adapter of a runtime, or RUNTIME_MISSING."""
        try:
            return self.runtimes[kind]
        except KeyError:
            raise ServiceError(
                Reason.RUNTIME_MISSING,
                f"cannot run {kind} here: this supervisor has"
                f" {', '.join(sorted(self.runtimes))}",
                runtime=kind,
            ) from None

    def refuse_to_start(self, name: AgentName) -> None:
        """Where it must not run, or would be cut off at once. Asked again after what
        takes long."""
        if not self.may_start.is_set():
            raise ServiceError(
                Reason.SERVICE_UNAVAILABLE,
                f"cannot start {name}: the registry is out of reach, others may have"
                " the lease by now",
                agent=name,
            )
        if self.leaving.is_set():
            raise shutting_down()

    async def release(
        self, claim: Claim, end_reason: str, *, wait_for_boot: bool = False
    ) -> None:
        """Gives a lease back, with nothing left that runs under it. A registry that is
        away is told by the heartbeat."""
        await self.ledger.end(claim.name)
        try:
            await self.registry.release(
                claim.name, claim.epoch, end_reason, wait_for_boot=wait_for_boot
            )
        except ServiceError as error:
            log.warning(
                "agent.release_failed", agent=str(claim.name), error=error.message
            )
            self.unreleased[claim.name] = (claim.epoch, end_reason, wait_for_boot)

    async def tell_release(self, name: AgentName) -> None:
        """Tells the registry of a release that it has not heard, if there is one."""
        untold = self.unreleased.get(name)
        if untold is None:
            return
        epoch, end_reason, wait_for_boot = untold
        await self.registry.release(
            name, epoch, end_reason, wait_for_boot=wait_for_boot
        )
        if self.unreleased.get(name) == untold:
            del self.unreleased[name]

    def keep(self, step: Coroutine[object, object, None]) -> None:
        """Runs a step that nobody waits for, and owns it until it ends."""
        task = asyncio.create_task(step)
        self._kept.add(task)
        task.add_done_callback(report_failure)
        task.add_done_callback(self._kept.discard)

    async def settle(self) -> None:
        """Waits for the steps that are kept."""
        while self._kept:
            await asyncio.wait(self._kept)
