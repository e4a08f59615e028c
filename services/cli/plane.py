"""The children of `up`: started in order, kept alive, stopped in order."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time
from collections.abc import Callable
from typing import Final

from services.cli.child import Child, Program, ended_how, rotate
from services.cli.identity import Identity, kill_trees
from services.cli.ownership import STOP_ORDER, Record
from services.cli.problems import Problem

# Valkey first: the others ask it at their start how durable it is.
_STORE: Final = "valkey"
_SERVICES: Final = ("registry", "snapshots", "gateway", "supervisor")
# The first comes at once: a supervisor that is gone is missed within a second.
RESTART_PAUSES_S: Final = (0.1, 0.5, 1.0, 2.0, 5.0)
# A child that lived so long is judged anew.
STEADY_S: Final = 60.0
_ROTATE_EVERY_S: Final = 5.0


class Plane:
    """All children by name; `failed` ends with a Problem when one cannot stay up."""

    def __init__(
        self,
        programs: dict[str, Program],
        record: Record,
        notice: Callable[[str], None],
    ) -> None:
        self._programs = programs
        self._record = record
        self._notice = notice
        self._children: dict[str, Child] = {}
        self._keepers: dict[str, asyncio.Task[None]] = {}
        self._housekeeping: asyncio.Task[None] | None = None
        self._stopping = False
        self.failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def identity(self, name: str) -> Identity:
        """The process that a child is now."""
        return self._children[name].identity

    async def start(self) -> dict[str, str]:
        """Starts all; returns what each said after `ready`."""
        self._housekeeping = asyncio.create_task(self._rotate(), name="rotate-logs")
        await self.start_one(_STORE)
        starts = [
            asyncio.create_task(self.start_one(name), name=f"start-{name}")
            for name in _SERVICES
            if name in self._programs
        ]
        try:
            ready = await asyncio.gather(*starts)
        finally:
            for start in starts:
                start.cancel()
            await asyncio.gather(*starts, return_exceptions=True)
        return dict(zip(_SERVICES, ready, strict=True))

    async def start_one(self, name: str) -> str:
        """Starts a child, waits until it serves, and keeps it up from then on."""
        child = await self._spawn(name)
        try:
            ready = await child.wait_ready()
        except Problem:
            await self._stop_child(name)
            raise
        self._keepers[name] = asyncio.create_task(self._keep(name), name=f"keep-{name}")
        self._notice(f"{name} serves" + (f" {ready}" if ready else ""))
        return ready

    async def stop(self) -> None:
        """Ends all in order: who saves to others goes before them."""
        self._stopping = True
        for name in STOP_ORDER:
            await self.stop_one(name)
        if self._housekeeping is not None:
            await _cancel(self._housekeeping)
        # By its mark also what a start that was cut short left behind.
        await asyncio.to_thread(self._record.end_all)

    async def stop_one(self, name: str) -> None:
        """Ends one child in order; nobody starts it again."""
        await self._let_go(name)
        if name in self._children:
            self._notice(f"stopping {name}")
            await self._stop_child(name)

    async def kill_one(self, name: str) -> list[Identity]:
        """SIGKILL to a child and all its descendants; returns those that died."""
        await self._let_go(name)
        child = self._children.pop(name)
        killed = await asyncio.to_thread(kill_trees, [child.identity])
        await child.wait()
        self._record.remove(name)
        return killed

    def cut(self) -> None:
        """Kills what does not want to end: the user asked twice."""
        kill_trees([child.identity for child in self._children.values()])

    async def _spawn(self, name: str) -> Child:
        program = self._programs[name]
        rotate(program.log)
        child = await Child.start(program)
        self._children[name] = child
        self._record.add(name, child.identity)
        return child

    async def _stop_child(self, name: str) -> None:
        await self._children.pop(name).stop()
        self._record.remove(name)

    async def _let_go(self, name: str) -> None:
        if name in self._keepers:
            await _cancel(self._keepers.pop(name))

    async def _keep(self, name: str) -> None:
        """Starts a child again whenever it ends, with pauses, until that is in vain."""
        try:
            await self._restart_for_ever(name)
        except Problem as problem:
            if not self.failed.done():
                self.failed.set_exception(problem)

    async def _restart_for_ever(self, name: str) -> None:
        deaths, served = 0, True
        while True:
            child, since = self._children[name], time.monotonic()
            code = await child.wait()
            # Killed from outside while it served: not its fault, however often.
            killed = served and code == -signal.SIGKILL
            steady = time.monotonic() - since > STEADY_S
            deaths = 1 if killed or steady else deaths + 1
            how = f"ended {ended_how(code)}"
            if deaths > len(RESTART_PAUSES_S):
                raise child.problem(f"{how}, {deaths} times in a row")
            self._notice(f"{name} {how}; starting it again")
            await asyncio.sleep(RESTART_PAUSES_S[deaths - 1])
            child, served = await self._spawn(name), False
            with contextlib.suppress(Problem):
                # One that does not get ready has died, or is killed: next round.
                await child.wait_ready()
                served = True
                self._notice(f"{name} serves again")
                continue
            await asyncio.to_thread(kill_trees, [child.identity])

    async def _rotate(self) -> None:
        while True:
            await asyncio.sleep(_ROTATE_EVERY_S)
            for program in self._programs.values():
                await asyncio.to_thread(rotate, program.log)


async def _cancel(task: asyncio.Task[None]) -> None:
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
