"""The calls about nudges: proto in, rules, proto out."""

from __future__ import annotations

from typing import Any

from services.chassis.names import AgentName, NudgeName
from services.registry import nudges_wire as wire
from services.registry.inbox import new_message_id
from services.registry.nudges import check_nudge
from services.registry.store import NudgeStore
from townkeeper.registry.v1 import registry_pb2 as pb


class NudgesServicer:
    """Nudges of agents."""

    _nudges: NudgeStore

    async def EnqueueNudge(
        self, request: pb.EnqueueNudgeRequest, context: Any
    ) -> pb.EnqueueNudgeResponse:
        agent = AgentName.parse(request.parent)
        name = NudgeName(agent.town, agent.agent, request.nudge_id or new_message_id())
        content = wire.content_from_proto(request)
        check_nudge(content)
        nudge, created = await self._nudges.enqueue_nudge(name, content)
        return pb.EnqueueNudgeResponse(
            nudge=wire.nudge_to_proto(nudge), created=created
        )

    async def ListNudges(
        self, request: pb.ListNudgesRequest, context: Any
    ) -> pb.ListNudgesResponse:
        found = await self._nudges.list_nudges(AgentName.parse(request.parent))
        return pb.ListNudgesResponse(nudges=[wire.nudge_to_proto(one) for one in found])

    async def AcknowledgeNudge(
        self, request: pb.AcknowledgeNudgeRequest, context: Any
    ) -> pb.AcknowledgeNudgeResponse:
        await self._nudges.acknowledge_nudge(NudgeName.parse(request.name))
        return pb.AcknowledgeNudgeResponse()
