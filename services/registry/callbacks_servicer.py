"""The calls by which agents speak of themselves: proto in, rules, proto out."""

from __future__ import annotations

from typing import Any

from services.chassis.access import Kind, current_caller
from services.chassis.names import AgentName, check_id
from services.registry import callbacks_wire as wire
from services.registry.event_log import PAGE_DEFAULT, PAGE_MAX, check_event
from services.registry.reports import check_report
from services.registry.store import CallbackStore
from services.registry.wire import number
from townkeeper.registry.v1 import registry_pb2 as pb


class CallbacksServicer:
    """Reports and event logs of agents."""

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

    async def AppendAgentEvent(
        self, request: pb.AppendAgentEventRequest, context: Any
    ) -> pb.AppendAgentEventResponse:
        name = AgentName.parse(request.parent)
        event_type, data_json = request.event.type, request.event.data_json or "null"
        check_event(event_type, data_json)
        if request.request_id:
            check_id(request.request_id, "request")
        event = await self._callbacks.append_event(
            name, event_type, data_json, request.request_id
        )
        return pb.AppendAgentEventResponse(event=wire.event_to_proto(event))

    async def ListAgentEvents(
        self, request: pb.ListAgentEventsRequest, context: Any
    ) -> pb.ListAgentEventsResponse:
        name = AgentName.parse(request.parent)
        page = await self._callbacks.list_events(
            name,
            after=number("after_id", request.after_id),
            limit=number("page_size", request.page_size, PAGE_MAX) or PAGE_DEFAULT,
        )
        return pb.ListAgentEventsResponse(
            events=[wire.event_to_proto(event) for event in page.events],
            dropped_count=page.dropped,
        )
