"""Defects planted into the way of a message, to see that who watches it finds each.

`python -m tests.support.message_faults NAME` is the service with that defect in it.
"""

from __future__ import annotations

import importlib
import itertools
import sys
from dataclasses import replace
from datetime import UTC, datetime
from typing import Final

import pytest

from services.chassis.errors import ServiceError
from services.chassis.names import AgentName, MessageName
from services.registry import inbox
from services.registry.redis_inbox import RedisInbox
from services.supervisor.delivery import Delivery
from services.supervisor.inbox import InboxMessage, Outcome
from services.supervisor.registry_client import RegistryClient
from services.supervisor.runtime import Message
from tests.support.changed_up import Change
from tests.support.watch_faults import Plant, script

# Each so many-th message is hit.
EVERY: Final = 7
# So many are called accepted that were not; with more, all senders would stand still.
UNSTORED: Final = 5


def accept_what_was_not_stored(patch: pytest.MonkeyPatch) -> None:
    """Shows only where something dies."""
    enqueue, left = RedisInbox.enqueue, iter(range(UNSTORED))

    async def planted(
        self: RedisInbox, name: MessageName, text: str, model: str = ""
    ) -> tuple[inbox.Message, bool]:
        try:
            return await enqueue(self, name, text, model)
        except ServiceError:
            if next(left, None) is None:
                raise
            state, now = inbox.MessageState.PENDING, datetime.now(UTC)
            return inbox.Message(name, text, model, state, 1, now), True

    patch.setattr(RedisInbox, "enqueue", planted)


def give_under_another_id(patch: pytest.MonkeyPatch) -> None:
    """A new one each time, so that the program cannot know what it has."""
    give, numbers = Delivery._give, itertools.count()

    async def planted(self: Delivery, message: Message) -> Outcome:
        return await give(self, replace(message, id=f"{message.id}-{next(numbers)}"))

    patch.setattr(Delivery, "_give", planted)


def settle_without_giving(patch: pytest.MonkeyPatch) -> None:
    give, numbers = Delivery._give, itertools.count(1)

    async def planted(self: Delivery, message: Message) -> Outcome:
        if next(numbers) % EVERY == 0:
            return Outcome.DELIVERED
        return await give(self, message)

    patch.setattr(Delivery, "_give", planted)


def give_the_newest_first(patch: pytest.MonkeyPatch) -> None:
    pending = RegistryClient.pending

    async def planted(self: RegistryClient, name: AgentName) -> list[InboxMessage]:
        return (await pending(self, name))[::-1]

    patch.setattr(RegistryClient, "pending", planted)


_PENDING: Final = "redis.call('ZADD', PENDING, 0, member)"
# Defect → the service that has it, and how it gets there.
FAULTS: Final[dict[str, tuple[str, Plant]]] = {
    "a message is accepted that was not stored": (
        "registry",
        accept_what_was_not_stored,
    ),
    "an accepted message is forgotten": (
        "registry",
        script(
            "enqueue_message",
            _PENDING,
            f"if message.sequence % {EVERY} > 0 then {_PENDING} end",
        ),
    ),
    "a message is settled that was never given": ("supervisor", settle_without_giving),
    "a message is given under another id": ("supervisor", give_under_another_id),
    "the newest message is given first": ("supervisor", give_the_newest_first),
}


def planted(name: str) -> dict[str, Change]:
    """The service with that defect, for `changed_plane`."""
    service, _ = FAULTS[name]
    return {service: Change(arguments=("-m", __name__, name))}


def main() -> int:
    """The service, with the defect that is named."""
    service, plant = FAULTS[sys.argv[1]]
    plant(pytest.MonkeyPatch())
    return int(importlib.import_module(f"services.{service}.__main__").main())


if __name__ == "__main__":
    sys.exit(main())
