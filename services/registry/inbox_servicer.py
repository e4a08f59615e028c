"""The calls about messages: proto in, rules, proto out."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from services.chassis.errors import Reason, ServiceError
from services.chassis.names import AgentName, InstanceName, MessageName, TownName
from services.registry import wire
from services.registry.hints import MISSED, Handed, Hint, Offered
from services.registry.inbox import (
    OUTCOMES,
    Acknowledgement,
    check_content,
    new_message_id,
)
from services.registry.pages import page_size, page_start, page_token
from services.registry.store import InboxStore
from townkeeper.registry.v1 import registry_pb2 as pb


class InboxServicer:
    """Inboxes of agents."""

    _inbox: InboxStore

    async def EnqueueMessage(
        self, request: pb.EnqueueMessageRequest, context: Any
    ) -> pb.EnqueueMessageResponse:
        agent = AgentName.parse(request.parent)
        message_id = request.message_id or new_message_id()
        name = MessageName(agent.town, agent.agent, message_id)
        check_content(request.text, request.model)
        message, created = await self._inbox.enqueue(name, request.text, request.model)
        return pb.EnqueueMessageResponse(
            message=wire.message_to_proto(message), created=created
        )

    async def ListMessages(
        self, request: pb.ListMessagesRequest, context: Any
    ) -> pb.ListMessagesResponse:
        agent = AgentName.parse(request.parent)
        state = wire.known("state", request.state, wire.MESSAGE_STATES)
        scope = f"ListMessages {agent} {state}"
        page = await self._inbox.list_messages(
            agent,
            after=page_start(scope, request.page_token),
            limit=page_size(request.page_size),
            state=state,
        )
        return pb.ListMessagesResponse(
            messages=[wire.message_to_proto(message) for message in page.messages],
            next_page_token=page_token(scope, page.after),
        )

    async def AcknowledgeMessage(
        self, request: pb.AcknowledgeMessageRequest, context: Any
    ) -> pb.AcknowledgeMessageResponse:
        name = MessageName.parse(request.name)
        outcome = wire.known("outcome", request.outcome, wire.MESSAGE_STATES)
        if outcome is None or outcome not in OUTCOMES:
            raise ServiceError(
                Reason.FIELD_INVALID if outcome else Reason.FIELD_REQUIRED,
                "cannot settle a message so: set outcome to STATE_DELIVERED or "
                "STATE_INTERRUPTED",
                field="outcome",
            )
        proof = Acknowledgement(
            epoch=wire.number("epoch", request.epoch),
            instance=wire.slot_id(request.instance, name.town),
            boot_id=wire.required_id("boot_id", request.boot_id),
            generation=wire.number("generation", request.generation),
            outcome=outcome,
        )
        message = await self._inbox.acknowledge(name, proof)
        return pb.AcknowledgeMessageResponse(message=wire.message_to_proto(message))

    async def WatchMessages(
        self, request: pb.WatchMessagesRequest, context: Any
    ) -> AsyncIterator[pb.WatchMessagesResponse]:
        town = TownName.parse(request.parent).town
        # Listened first, listed second: nothing falls between the two.
        async with self._inbox.hints(town) as hints:
            for agent in await self._inbox.waiting_agents(town):
                yield _hint(town, agent)
            yield pb.WatchMessagesResponse()
            async for hint in hints:
                if hint == MISSED:
                    for each in await self._inbox.waiting_agents(town):
                        yield _hint(town, each)
                else:
                    yield _hint(town, hint)


def _hint(town: str, hint: Hint) -> pb.WatchMessagesResponse:
    match hint:
        case Handed(slot):
            instance = InstanceName(town, slot)
            return pb.WatchMessagesResponse(instance=str(instance))
        case Offered():
            return pb.WatchMessagesResponse(claimable=True)
        case agent:
            return pb.WatchMessagesResponse(agent=str(AgentName(town, agent)))
