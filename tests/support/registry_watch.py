"""A watch that a test reads as far as it likes, and the town as it looks from there."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Self

from services.registry.agent_feed import Limits, Watches
from services.registry.agents import Agent
from services.registry.changes import Position, Step
from services.registry.store import RegistryStore
from tests.support.tokens import TOWN

STEP_LIMIT_S = 5.0
# Looks so often that a test need not wait for it.
EAGER = Limits(look_every_s=0.02, rest_s=0.0)


class Viewer:
    """Knows of a town what its watch told it."""

    def __init__(
        self,
        watches: Watches,
        position: Position | None = None,
        view: dict[str, Agent] | None = None,
    ) -> None:
        self.position = position
        self.view = dict(view or {})
        self.steps: list[Step] = []
        self._steps: AsyncGenerator[Step, None] = watches.watch(TOWN, position)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        await self._steps.aclose()

    async def next(self) -> Step:
        """The next step, which must come, and must come after the last."""
        async with asyncio.timeout(STEP_LIMIT_S):
            step = await anext(self._steps)
        told = self.position.revision if self.position else 0
        if step.name is None:
            assert told <= step.position.revision
        else:
            assert told < step.position.revision
        self.position = step.position
        self.steps.append(step)
        if step.changed:
            self.view[step.changed.name.agent] = step.changed
        elif step.deregistered:
            self.view.pop(step.deregistered.agent, None)
        return step

    async def caught_up(self, store: RegistryStore) -> list[Step]:
        """Reads until the log has nothing more; what came."""
        begun = len(self.steps)
        while not await self.is_caught_up(store):
            await self.next()
        return self.steps[begun:]

    async def is_caught_up(self, store: RegistryStore) -> bool:
        """Whether the list is complete and nothing came after it."""
        if self.position is None or self.position.since is not None:
            return False
        # A list that begins now begins at the end of the log.
        return self.position.revision == (await store.read_changes(TOWN)).end.since


def told(steps: list[Step]) -> list[str]:
    """Steps in short: the agent, with a minus when it went; `synced` as such."""
    return [
        "synced"
        if step.name is None
        else f"-{step.name.agent}"
        if step.deregistered
        else step.name.agent
        for step in steps
    ]
