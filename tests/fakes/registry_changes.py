"""The log of a town's changes, in memory."""

from __future__ import annotations

import asyncio
from contextlib import AbstractContextManager

from services.chassis.names import AgentName
from services.registry import refusals
from services.registry.changes import PAGE_STEPS_MAX, Changes, Position, Step
from services.registry.leases import InstanceState
from tests.fakes.registry_town import MemoryTowns


class MemoryChanges(MemoryTowns):
    """ChangeStore in memory."""

    async def read_changes(self, town: str, after: Position | None = None) -> Changes:
        found = self._town(town)
        found.log = found.log or str(round(self._now().timestamp() * 1000))
        self._look_who_lives(town)
        if after is None:
            after = Position(found.log, 0, found.revision)
        if (
            after.log != found.log
            or not found.compacted <= after.gone_after <= found.revision
        ):
            raise refusals.resume_token_expired(town)
        steps = [
            step
            for step in self._log(town, after)
            if step.position.revision
            > (after.gone_after if step.deregistered else after.revision)
        ]
        page = tuple(steps[:PAGE_STEPS_MAX])
        if len(page) == PAGE_STEPS_MAX:
            return Changes(page, page[-1].position, complete=False)
        end = Position(found.log, found.revision, after.since)
        return Changes(page, end, complete=True)

    def _log(self, town: str, after: Position) -> list[Step]:
        found = self._town(town)

        def position(revision: int) -> Position:
            return Position(found.log, revision, after.since)

        steps = []
        for agent, revision in found.changes.items():
            shown = self._shown(found, found.records[agent])
            size_bytes = len(repr(shown))
            steps.append(Step(position(revision), shown, size_bytes=size_bytes))
        steps += [
            Step(position(revision), deregistered=AgentName(town, agent))
            for agent, revision in found.gone.items()
        ]
        return sorted(steps, key=lambda step: step.position.revision)

    def _look_who_lives(self, town: str) -> None:
        """Logs that leases began or ceased to be live since somebody last looked."""
        found = self._town(town)
        lives = {
            instance.slot: instance.boot_id
            for instance in self._judged(town).values()
            if instance.state is not InstanceState.EXPIRED
        }
        for agent, lease in found.leases.items():
            was = found.lives.get(lease.instance) == lease.boot_id
            if was != (lives.get(lease.instance) == lease.boot_id):
                self._note(found, AgentName(town, agent))
        found.lives = lives

    def nudges(self, town: str) -> AbstractContextManager[asyncio.Event]:
        return self.nudged.of(town)
