"""The end of all that runs in this instance, within one budget: who is idle goes at
once, who works may end its turn, who does not in time is cut off and saved. What an
agent has in its workspace is saved after its session, in the time that is left."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Final

import structlog

from services.supervisor.agent import STOP_GRACE_S, Agent
from services.supervisor.errand import report_failure
from services.supervisor.live import LAST_SAVE_S
from services.supervisor.roster import Roster
from services.supervisor.run import Run
from services.supervisor.workspace_save import SaveWorkspace, WorkspaceSave

log = structlog.get_logger()

# Of the budget, for who is cut off: the end of its turn, its own end, its last save.
ABORT_S: Final = 10.0
END_S: Final = ABORT_S + STOP_GRACE_S + LAST_SAVE_S


@dataclass(frozen=True, slots=True)
class Receipt:
    """A run as it left, and how many are still here."""

    run: Run
    workspace: WorkspaceSave | None  # None: it never had one here
    remaining: int


class Drain:
    """One an instance: who asks again joins it, and can make it shorter."""

    def __init__(
        self,
        roster: Roster,
        announce: Callable[[], Awaitable[None]],
        save_workspace: SaveWorkspace,
    ) -> None:
        self._roster = roster
        self._announce = announce
        self._save_workspace = save_workspace
        self._here: set[Agent] = set()
        self._receipts: list[Receipt] = []
        self._task: asyncio.Task[None] | None = None
        self._over = False
        self._news = asyncio.Event()  # replaced by each
        self._cut = asyncio.Event()  # turns have had their time
        self._cut_at_s = math.inf  # on the clock of the loop
        self._spent = asyncio.Event()  # nothing of the budget is left

    def begin(self, budget_s: float) -> None:
        """Starts to empty the instance. If that was begun, the sooner end counts; if it
        was done and a session could not be saved, that is tried again; a workspace is
        not."""
        loop = asyncio.get_running_loop()
        cut_at_s = loop.time() + max(0.0, budget_s - END_S)
        if cut_at_s < self._cut_at_s:
            self._cut_at_s = cut_at_s
            loop.call_at(cut_at_s, self._cut.set)
        loop.call_later(budget_s, self._spent.set)
        if self._task is None:
            self._here = {agent for agent in self._roster.agents if agent.alive}
        elif not self._task.done():
            return
        self._task = asyncio.create_task(self._empty(budget_s), name="drain")
        self._task.add_done_callback(report_failure)

    async def receipts(self) -> AsyncIterator[Receipt]:
        """Those of before, then each as its agent leaves, to the end of the drain."""
        told = 0
        while True:
            news = self._news
            # More may come while one is on its way to who asks.
            while told < len(self._receipts):
                told += 1
                yield self._receipts[told - 1]
            if self._over and told == len(self._receipts):
                return
            await news.wait()

    async def ended(self) -> None:
        """Waits for its end; to cancel who waits does not end it."""
        if self._task is not None:
            await asyncio.wait({self._task})

    async def _empty(self, budget_s: float) -> None:
        log.info("drain.began", agents=len(self._here), budget_s=budget_s)
        try:
            await self._announce()
        except Exception:
            log.exception("drain.not_announced")  # it leaves all the same
        try:
            await self._roster.leave(STOP_GRACE_S, cut=self._cut, on_left=self._left)
        finally:
            self._over = True
            self._tell()
        log.info("drain.ended", agents=len(self._receipts))

    async def _left(self, agent: Agent) -> None:
        if agent not in self._here or agent.run is None:
            return
        saved = None
        if agent.workspace is not None:
            saved = await self._save_workspace(
                agent.workspace, agent.name, agent.run.id, self._spent
            )
        self._here.remove(agent)
        self._receipts.append(Receipt(replace(agent.run), saved, len(self._here)))
        self._over = not self._here
        self._tell()

    def _tell(self) -> None:
        news, self._news = self._news, asyncio.Event()
        news.set()
