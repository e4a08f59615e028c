"""Keeps this instance known: heartbeats out; lost leases and pending messages in."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

import structlog

from services.chassis.errors import Reason, ServiceError
from services.supervisor.freezer import Freezer
from services.supervisor.registry_client import RegistryClient
from services.supervisor.roster import Roster
from services.supervisor.run import backoff_s
from services.supervisor.surroundings import Surroundings

log = structlog.get_logger()

WATCH_PAUSE_S: Final = 1.0


class Heartbeat:
    """The two conversations that every supervisor has with the registry for life."""

    def __init__(
        self,
        around: Surroundings,
        roster: Roster,
        register: Callable[[], Awaitable[object]],
        interval_s: float,
        on_replaced: Callable[[str], Awaitable[None]],
        freezer: Freezer | None = None,
    ) -> None:
        self._around = around
        self._registry: RegistryClient = around.registry
        self._roster = roster
        self._register = register
        self._interval_s = interval_s
        self._on_replaced = on_replaced
        self._freezer = freezer
        self._claiming = self._telling = False
        # Something may be ours that no answer to a claim has named yet.
        self._unclaimed = False
        self.missed = 0  # heartbeats in a row that nobody answered

    async def beat(self) -> None:
        """Beats until cancelled. A registry that is away is waited for: agents go on,
        for the epoch, not the lease, is what protects their sessions."""
        while True:
            try:
                await self._beat_once()
                self.missed = 0
            except ServiceError as error:
                await self._on_error(error)
            await asyncio.sleep(self._interval_s)

    async def _beat_once(self) -> None:
        evidence = self._roster.evidence()
        sent_at = asyncio.get_running_loop().time()
        leaving = self._around.leaving.is_set()
        pulse = await self._registry.heartbeat(evidence, leaving=leaving)
        # The epochs that were shown: a lease taken since is not what was lost.
        lost = {one.agent: one.epoch for one in evidence if one.agent in pulse.lost}
        self._roster.lost(lost, "the lease is another instance's now")
        if self._freezer is not None:
            await self._freezer.renewed(sent_at, pulse.ttl_s, pulse.living, lost)
        self._roster.wake(pulse.pending)
        # A claim that is under way may have what this beat was told of; if it has not,
        # the next beat tells of it again.
        offered = pulse.claimable and not leaving
        if (offered or self._unclaimed) and not self._claiming:
            self._claim_soon()
        if self._around.unreleased and not self._telling:
            self._around.keep(self._tell_releases())

    async def say_leaving(self) -> None:
        """At once, so that what is given back from now on goes to others."""
        self._around.leaving.set()
        try:
            await self._beat_once()
        except ServiceError as error:
            log.warning("heartbeat.failed", reason=error.reason, error=error.message)

    async def _tell_releases(self) -> None:
        # Beside the beat: where a durable write takes long, leases must not end for it.
        self._telling = True
        try:
            for name in tuple(self._around.unreleased):
                await self._around.tell_release(name)
        except ServiceError as error:
            log.warning("agent.release_failed", error=error.message)
        finally:
            self._telling = False

    def _claim_soon(self) -> None:
        """Beside the beat; again, if a claim that is under way may be too early. Who
        leaves is given nothing new, and gives back what an answer that was lost had
        told of."""
        self._unclaimed = True
        if not self._claiming:
            self._claiming = True
            self._around.keep(self._claim())

    async def _claim(self) -> None:
        """Takes what was handed to us, and our part of the agents that have lost their
        holder, and runs them."""
        try:
            while self._unclaimed:
                self._unclaimed = False
                claims = await self._registry.claim()
                self._around.keep(self._roster.take_over(claims))
        except ServiceError as error:
            log.warning("agents.claim_failed", why=error.message)
            self._unclaimed = True  # the answer alone may be lost
        finally:
            self._claiming = False

    async def _on_error(self, error: ServiceError) -> None:
        self.missed += 1
        match error.reason:
            case Reason.LEASE_FENCED:
                await self._on_replaced(error.message)
            case Reason.INSTANCE_NOT_FOUND:
                # The registry has forgotten us, or lost its memory: tell it again.
                log.warning("instance.forgotten", error=error.message)
                try:
                    await self._register()
                except ServiceError as again:
                    log.warning("instance.register_failed", error=again.message)
            case _:
                log.warning(
                    "heartbeat.failed",
                    reason=error.reason,
                    error=error.message,
                    missed=self.missed,
                )

    async def watch_messages(self) -> None:
        """Wakes agents as messages for them are accepted, and claims what is handed to
        us or on offer. Deliveries and heartbeats look for themselves as well, so a
        broken watch only makes them slower."""
        failures = 0
        while True:
            try:
                async for name in self._registry.watch_messages():
                    failures = 0
                    if name is not None:
                        self._roster.wake([name])
                    elif not self._around.leaving.is_set():
                        self._claim_soon()
            except ServiceError as error:
                failures += 1
                log.info("inbox.watch_broken", reason=error.reason, failures=failures)
            await asyncio.sleep(backoff_s(failures) if failures else WATCH_PAUSE_S)
