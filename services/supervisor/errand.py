"""The one thing that an agent does by itself, beside the steps that callers ask for."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine

import structlog

log = structlog.get_logger()


def report_failure(task: asyncio.Task[None]) -> None:
    """For the end of a task that nobody awaits: here or nowhere is it heard of."""
    if not task.cancelled() and (error := task.exception()) is not None:
        log.error("task.failed", task=task.get_name(), exc_info=error)


class Errand:
    """At most one background task, owned: to watch, to restart or to save out."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._task: asyncio.Task[None] | None = None

    @property
    def current(self) -> bool:
        """Whether the task that asks is still the errand; a dropped one must end."""
        return self._task is asyncio.current_task()

    def begin(self, step: Coroutine[object, object, None]) -> None:
        """Starts the errand; an earlier one must have ended or be the caller."""
        self._task = asyncio.create_task(step, name=f"errand of {self._name}")
        self._task.add_done_callback(report_failure)

    def hand_over(self) -> None:
        """The caller is the errand and is about to end; another may begin."""
        self._task = None

    async def drop(self) -> None:
        """Cancels the errand and waits for its end, unless the caller is it."""
        task, self._task = self._task, None
        if task is not None and task is not asyncio.current_task():
            task.cancel()
            # Not awaited itself: how it ended is told already, and not the caller's.
            await asyncio.wait([task])
