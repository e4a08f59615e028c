"""Stops the agents of an instance that cannot renew its leases, before others may have
them; lets them go on when it can again.

Only in a town with other instances: nobody else would run the agents of the only one.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Iterable
from typing import Final

import structlog

from services.chassis.names import AgentName
from services.supervisor.events import EventLog
from services.supervisor.ledger import Ledger
from services.supervisor.process_tree import ProcessIdentity
from services.supervisor.tree_kill import send

log = structlog.get_logger()

# Of the TTL, counted from when the last heartbeat that was answered was sent: what is
# left is for clocks that run unevenly, and for finding all processes.
FREEZE_AT: Final = 0.8
# Whatever starts or forks meanwhile is found that soon.
AGAIN_S: Final = 1.0
_ROUNDS_MAX: Final = 20


class Freezer:
    """Knows until when the leases are good, and whom it has stopped."""

    def __init__(
        self,
        town: str,
        ledger: Ledger,
        events: EventLog,
        may_start: asyncio.Event,
        tell_keeper: Callable[[float | None], None] = lambda until: None,
    ) -> None:
        self._town = town
        self._ledger = ledger
        self._events = events
        self._may_start = may_start
        self._tell_keeper = tell_keeper
        self._good_until: float | None = None  # on the loop's clock; None: for ever
        self._renewed = asyncio.Event()
        self._stopped: set[ProcessIdentity] = set()
        self._told: set[AgentName] = set()
        self._busy = asyncio.Lock()

    async def renewed(
        self, sent_at: float, ttl_s: float, living: int, lost: Iterable[AgentName]
    ) -> None:
        """A heartbeat was answered: all that is stopped goes on, but for what is lost,
        which is to be ended as it is."""
        alone = living <= 1
        self._good_until = None if alone else sent_at + FREEZE_AT * ttl_s
        self._tell_keeper(self._good_until)
        self._renewed.set()
        if (
            self._good_until is None
            or self._good_until > asyncio.get_running_loop().time()
        ):
            self._may_start.set()
        async with self._busy:
            if not self._stopped:
                return
            told, ended = self._told, set(lost)
            for name in ended & told:
                self._stopped -= set(self._ledger.leftovers(name))
            for process in self._stopped:
                send(process, signal.SIGCONT)
            self._stopped, self._told = set(), set()
            for name in sorted(told - ended, key=str):
                self._tell(name, "agent.thawed")

    async def watch(self) -> None:
        """Freezes in time, until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            left_s = None
            if self._good_until is not None:
                left_s = self._good_until - loop.time()
                if left_s <= 0:
                    await self._freeze()
                    left_s = AGAIN_S
            self._renewed.clear()
            try:
                async with asyncio.timeout(left_s):
                    await self._renewed.wait()
            except TimeoutError:
                continue

    async def _freeze(self) -> None:
        self._may_start.clear()
        async with self._busy:
            for _ in range(_ROUNDS_MAX):
                found = await asyncio.to_thread(self._ledger.processes, self._town)
                new = {
                    process
                    for process in set(found) - self._stopped
                    if send(process, signal.SIGSTOP)
                }
                # One that forked before it was stopped has left somebody new.
                if not new:
                    break
                self._stopped |= new
            for name in self._ledger.agents(self._town):
                if name not in self._told:
                    self._told.add(name)
                    self._tell(name, "agent.frozen")

    def _tell(self, name: AgentName, what: str) -> None:
        log.warning(what, agent=str(name))
        self._events.append(name.agent, what, {})
