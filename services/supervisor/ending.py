"""How an agent's last state and its lease are let go, also under another epoch than the
one that it ran under."""

from __future__ import annotations

import asyncio
from abc import abstractmethod
from functools import partial

import structlog

from services.chassis.errors import Reason, ServiceError
from services.chassis.names import AgentName
from services.supervisor.holding import Holding
from services.supervisor.live import PASSING, last_save
from services.supervisor.run import backoff_s
from services.supervisor.saver import Saver
from services.supervisor.specs import Claim

log = structlog.get_logger()


def save_pending(name: AgentName) -> ServiceError:
    """For who asked for an end."""
    return ServiceError(
        Reason.SAVE_PENDING,
        f"cannot finish the stop of {name}: its process is gone and its last state"
        " waits for the services; the save goes on",
        agent=name,
    )


class Ending(Holding):
    """Of one agent."""

    @abstractmethod
    async def _bring_back(self, claim: Claim) -> None:
        """Starts the agent; tries again until it runs."""

    async def fenced(self, epoch: int, why: str) -> None:
        """No save is taken any more. Either the lease is another's, or the snapshot
        service has forgotten who we are: then the run begins anew under the next
        epoch, on the file that is here."""
        async with self._lock:
            claim = self._claim
            if self.epoch != epoch or claim is None:
                return
            await self._renew(claim, partial(self._go_on, self._ending, why))

    async def give_back(self, claim: Claim) -> None:
        """Of an agent that was claimed and is not to be taken up: what a predecessor
        left of it is saved and ended first."""
        async with self._lock:
            if self._lives_on():
                await self._save_out(claim, "")
            else:
                await self._around.release(claim, "")

    # Everything below runs under the lock.

    async def _go_on(self, ending: str | None, why: str, renewed: Claim | None) -> None:
        """After a fence, with what there was to do."""
        if renewed is None:
            await self._lose(why)
            return
        log.warning("agent.lease_renewed", agent=str(self.name), why=why)
        await self._end_at_once()
        if ending is None:
            self._unsaved = True
            await self._bring_back(renewed)
        else:
            await self._save_out(renewed, ending)

    async def _save_out(self, claim: Claim, end_reason: str) -> None:
        """What an end has left to save, under another epoch; nothing is started."""
        self._claim = claim
        try:
            await self._hold_rest(claim)
        except ServiceError as error:
            await self._put_off(end_reason, error)
            return
        self._save_then_release(end_reason)

    async def _save_rest(
        self, end_reason: str, *, claims: bool, patient: bool = False
    ) -> None:
        """What lies on disk unsaved when an end comes. Raises SAVE_PENDING; the lease
        goes with `end_reason` once all is saved then."""
        try:
            if claims:
                await self._take_to_end()
        except ServiceError as error:
            if not self._unsaved:
                raise
            self._save_later(end_reason, error)
            raise save_pending(self.name) from error
        if self._claim is None or not self._unsaved:
            return
        try:
            await self._hold_rest(self._claim)
        except ServiceError as error:
            if await self._put_off(end_reason, error):
                raise save_pending(self.name) from error
            raise
        await self._save_last(end_reason, patient=patient)

    async def _hold_rest(self, claim: Claim) -> None:
        hydrated = await self._around.hydrator.hydrate(claim, "end", crashed=False)
        self._hold(hydrated.saver, claim.epoch)
        self._unsaved = False

    async def _put_off(self, end_reason: str, error: ServiceError) -> bool:
        """A last save that cannot be now; False if it never can be from here: then the
        lease goes, and the file stays where it is."""
        if error.code.name in PASSING or error.reason is Reason.LEASE_FENCED:
            self._save_later(end_reason, error)
            return True
        log.error("agent.save_given_up", agent=str(self.name), why=error.message)
        self._unsaved = False
        await self._release(end_reason)
        self._exited(end_reason or "evicted")
        return False

    def _save_later(self, end_reason: str, error: ServiceError) -> None:
        """Under the next lease."""
        self._claim, self._ending = None, end_reason
        go_on = partial(self._go_on, end_reason, error.message)
        self._errand.begin(self._wait_for_lease(go_on))

    async def _save_last(self, end_reason: str, *, patient: bool) -> None:
        if self._saver is None:
            return
        if not await last_save(self._saver, patient=patient):
            self._save_then_release(end_reason)
            raise save_pending(self.name)
        await self._close_saver()

    def _save_then_release(self, end_reason: str) -> None:
        self._ending = end_reason
        self._errand.begin(self._saved_out(end_reason))

    async def _saved_out(self, end_reason: str) -> None:
        failures = 0
        while True:
            async with self._lock:
                if not self._errand.current:
                    return
                if self._saver is None or await last_save(self._saver):
                    await self._close_saver()
                    await self._release(end_reason)
                    self._exited(end_reason or "evicted")
                    return
            failures += 1
            await asyncio.sleep(backoff_s(failures))

    def _hold(self, saver: Saver, epoch: int) -> Saver:
        self._saver = saver
        saver.on_saved = self._on_saved
        saver.on_fenced = lambda why: self._around.keep(self.fenced(epoch, why))
        return saver
