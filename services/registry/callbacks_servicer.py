"""The calls by which agents speak of themselves: proto in, rules, proto out."""

from __future__ import annotations

from typing import Any

from services.chassis.access import Kind, current_caller
from services.chassis.names import AgentName
from services.registry import callbacks_wire as wire
from services.registry.reports import check_report
from services.registry.store import CallbackStore
from townkeeper.registry.v1 import registry_pb2 as pb


class CallbacksServicer:
    """Reports of agents."""

    _callbacks: CallbackStore

    async def ReportAgent(
        self, request: pb.ReportAgentRequest, context: Any
    ) -> pb.ReportAgentResponse:
        name = AgentName.parse(request.name)
        report = wire.report_from_proto(request)
        check_report(report)
        nonce = await self._callbacks.report(name, report)
        # Who knows the nonce can end the drain, and agents may not.
        trusted = current_caller.get().kind is not Kind.AGENT
        return pb.ReportAgentResponse(drain_nonce=nonce if trusted else "")

    async def GetAgentReports(
        self, request: pb.GetAgentReportsRequest, context: Any
    ) -> pb.GetAgentReportsResponse:
        name = AgentName.parse(request.name)
        told = await self._callbacks.reports(name)
        return pb.GetAgentReportsResponse(reports=wire.reports_to_proto(name, told))
