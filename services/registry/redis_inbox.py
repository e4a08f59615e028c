"""Messages accepted for agents, in Redis."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager

from services.chassis.names import AgentName, MessageName
from services.registry.hints import Hint
from services.registry.inbox import (
    PENDING_MAX,
    Acknowledgement,
    Message,
    MessagePage,
    MessageState,
    content_digest,
)
from services.registry.redis_hints import RedisHints
from services.registry.redis_town import RedisTown
from services.registry.redis_values import message_from, texts
from services.registry.store import ANSWER_BYTES_MAX


class RedisInbox:
    """InboxStore over Redis."""

    def __init__(self, town: RedisTown, hints: RedisHints) -> None:
        self._redis = town
        self._hints = hints

    async def enqueue(
        self, name: MessageName, text: str, model: str = ""
    ) -> tuple[Message, bool]:
        answer = await self._redis.change(
            "enqueue_message",
            name.town,
            text,
            agent=name.agent,
            message=name.message,
            digest=content_digest(text, model),
            model=model,
            pending_max=PENDING_MAX,
            settled_kept=self._settled_kept(),
        )
        created, meta = answer.values
        return message_from(name, meta, text), bool(created)

    async def list_messages(
        self,
        name: AgentName,
        *,
        after: str = "",
        limit: int = 50,
        state: MessageState | None = None,
    ) -> MessagePage:
        answer = await self._redis.ask(
            "list_messages",
            name.town,
            agent=name.agent,
            after=after,
            limit=limit,
            state=state or "",
            bytes_max=ANSWER_BYTES_MAX,
            settled_kept=self._settled_kept(),
        )
        after_raw, found = answer.values
        messages = tuple(
            message_from(
                MessageName(name.town, name.agent, message.decode()),
                meta,
                text.decode(),
            )
            for message, meta, text in found
        )
        return MessagePage(messages, after_raw.decode())

    async def acknowledge(self, name: MessageName, proof: Acknowledgement) -> Message:
        answer = await self._redis.change(
            "acknowledge_message",
            name.town,
            agent=name.agent,
            message=name.message,
            epoch=proof.epoch,
            slot=proof.instance,
            boot=proof.boot_id,
            generation=proof.generation,
            outcome=proof.outcome.value,
            settled_kept=self._settled_kept(),
        )
        meta, text = answer.values
        return message_from(name, meta, text.decode())

    async def waiting_agents(self, town: str) -> list[str]:
        answer = await self._redis.ask("waiting_agents", town)
        return texts(answer.values[0])

    def hints(self, town: str) -> AbstractAsyncContextManager[AsyncIterator[Hint]]:
        return self._hints.watch(town)

    def _settled_kept(self) -> int:
        return round(self._redis.terms.settled_kept_s * 1000)
