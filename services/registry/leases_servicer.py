"""The calls about instances, leases and drains: proto in, rules, proto out."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from services.chassis.errors import Reason, ServiceError
from services.chassis.names import AgentName, InstanceName, TownName
from services.chassis.parsers import address as host_and_port
from services.registry import wire
from services.registry.leases import (
    END_REASONS,
    HEARTBEAT_INTERVAL_S,
    LEASES_MAX,
    TTL_S,
    Evidence,
    Release,
)
from services.registry.store import LeaseStore
from townkeeper.registry.v1 import registry_pb2 as pb

NAMES_MAX: Final = 500
CLAIM_DEFAULT: Final = 100
ERROR_CHARACTERS_MAX: Final = 1024
COUNT_MAX: Final = 2**31 - 1


class LeasesServicer:
    """Instances, leases, drains."""

    _leases: LeaseStore
    ttl_s: float = TTL_S
    heartbeat_interval_s: float = HEARTBEAT_INTERVAL_S

    async def RegisterInstance(
        self, request: pb.RegisterInstanceRequest, context: Any
    ) -> pb.RegisterInstanceResponse:
        name = InstanceName.parse(request.name)
        instance = await self._leases.register_instance(
            name,
            wire.required_id("boot_id", request.boot_id),
            _address(request.address),
            wire.number("capacity", request.capacity, COUNT_MAX),
        )
        return pb.RegisterInstanceResponse(
            instance=wire.instance_to_proto(name.town, instance),
            ttl=wire.duration_to_proto(self.ttl_s),
            heartbeat_interval=wire.duration_to_proto(self.heartbeat_interval_s),
        )

    async def Heartbeat(
        self, request: pb.HeartbeatRequest, context: Any
    ) -> pb.HeartbeatResponse:
        name = InstanceName.parse(request.name)
        _at_most("runs", len(request.runs), LEASES_MAX)
        pulse = await self._leases.heartbeat(
            name,
            wire.required_id("boot_id", request.boot_id),
            [_evidence(run, name.town) for run in request.runs],
            leaving=request.leaving,
        )
        return pb.HeartbeatResponse(
            ttl=wire.duration_to_proto(self.ttl_s),
            lost_agents=wire.agent_names(name.town, pulse.lost),
            pending_agents=wire.agent_names(name.town, pulse.pending),
            drain_nonce=pulse.drain_nonce,
            claimable_count=pulse.claimable,
            live_instances_count=pulse.living,
        )

    async def ListInstances(
        self, request: pb.ListInstancesRequest, context: Any
    ) -> pb.ListInstancesResponse:
        town = TownName.parse(request.parent).town
        found = await self._leases.list_instances(town)
        return pb.ListInstancesResponse(
            instances=[wire.instance_to_proto(town, instance) for instance in found]
        )

    async def ReleaseInstance(
        self, request: pb.ReleaseInstanceRequest, context: Any
    ) -> pb.ReleaseInstanceResponse:
        name = InstanceName.parse(request.name)
        boot_id = wire.required_id("boot_id", request.boot_id)
        await self._leases.release_instance(name, boot_id)
        return pb.ReleaseInstanceResponse()

    async def ResolveAgent(
        self, request: pb.ResolveAgentRequest, context: Any
    ) -> pb.ResolveAgentResponse:
        name = AgentName.parse(request.name)
        resolution = await self._leases.resolve(name)
        return pb.ResolveAgentResponse(
            instance=wire.instance_to_proto(name.town, resolution.instance),
            holds_lease=resolution.holds_lease,
        )

    async def ClaimAgents(
        self, request: pb.ClaimAgentsRequest, context: Any
    ) -> pb.ClaimAgentsResponse:
        name = InstanceName.parse(request.instance)
        _at_most("agents", len(request.agents), NAMES_MAX)
        limit = min(wire.number("limit", request.limit, COUNT_MAX), NAMES_MAX)
        agents = [wire.agent_id(agent, name.town) for agent in request.agents]
        if request.renew and not agents:
            raise ServiceError(
                Reason.FIELD_INVALID,
                "cannot renew the leases of agents without a name: name them",
                field="renew",
            )
        claims = await self._leases.claim(
            name,
            wire.required_id("boot_id", request.boot_id),
            # Each once, in the order given.
            list(dict.fromkeys(agents)),
            limit or CLAIM_DEFAULT,
            renew=request.renew,
        )
        return pb.ClaimAgentsResponse(
            claims=[
                pb.Claim(
                    agent=wire.agent_to_proto(agent, reveal=True), taken_over=taken
                )
                for agent, taken in claims
            ]
        )

    async def ReleaseAgents(
        self, request: pb.ReleaseAgentsRequest, context: Any
    ) -> pb.ReleaseAgentsResponse:
        name = InstanceName.parse(request.instance)
        _at_most("releases", len(request.releases), NAMES_MAX)
        skipped = await self._leases.release(
            name,
            wire.required_id("boot_id", request.boot_id),
            [_release(release, name.town) for release in request.releases],
        )
        return pb.ReleaseAgentsResponse(skipped=wire.agent_names(name.town, skipped))

    async def AnnounceDrain(
        self, request: pb.AnnounceDrainRequest, context: Any
    ) -> pb.AnnounceDrainResponse:
        town = TownName.parse(request.parent).town
        _at_most("instances", len(request.instances), LEASES_MAX)
        slots = [wire.slot_id(instance, town) for instance in request.instances]
        drain = await self._leases.announce_drain(town, slots)
        return pb.AnnounceDrainResponse(
            nonce=drain.nonce, instances=_instance_names(town, drain.bound)
        )

    async def GetDrainStatus(
        self, request: pb.GetDrainStatusRequest, context: Any
    ) -> pb.GetDrainStatusResponse:
        town = TownName.parse(request.parent).town
        drain = await self._leases.get_drain(town)
        if drain is None:
            return pb.GetDrainStatusResponse(draining=False)
        return pb.GetDrainStatusResponse(
            draining=True,
            nonce=drain.nonce,
            instances=_instance_names(town, drain.bound),
            announce_time=wire.time_to_proto(drain.announce_time),
        )

    async def ConfirmReady(
        self, request: pb.ConfirmReadyRequest, context: Any
    ) -> pb.ConfirmReadyResponse:
        town = TownName.parse(request.parent).town
        nonce = wire.required_id("nonce", request.nonce)
        cleared = await self._leases.confirm_ready(town, nonce)
        return pb.ConfirmReadyResponse(cleared=cleared)


def _evidence(run: pb.RunEvidence, town: str) -> Evidence:
    return Evidence(
        agent=wire.agent_id(run.agent, town),
        epoch=wire.number("runs.epoch", run.epoch),
        generation=wire.number("runs.generation", run.generation),
        failed_starts_count=wire.number(
            "runs.failed_starts_count", run.failed_starts_count
        ),
        last_error=run.last_error[:ERROR_CHARACTERS_MAX],
    )


def _release(release: pb.LeaseRelease, town: str) -> Release:
    if release.end_reason not in END_REASONS:
        words = ", ".join(sorted(END_REASONS - {""}))
        raise ServiceError(
            Reason.FIELD_INVALID,
            f"cannot end an agent so: give one of {words}, or nothing",
            field="releases.end_reason",
        )
    return Release(
        agent=wire.agent_id(release.agent, town),
        epoch=wire.number("releases.epoch", release.epoch),
        end_reason=release.end_reason,
        wait_for_boot=release.wait_for_boot,
    )


def _address(given: str) -> str:
    if not given:
        raise ServiceError(
            Reason.FIELD_REQUIRED,
            "cannot reach an instance without address: set it to host:port",
            field="address",
        )
    try:
        return host_and_port(given)
    except ValueError as error:
        raise ServiceError(
            Reason.FIELD_INVALID,
            f"cannot reach an instance there, address {error}: set it to host:port",
            field="address",
        ) from error


def _at_most(field: str, count: int, limit: int) -> None:
    if count > limit:
        raise ServiceError(
            Reason.FIELD_INVALID,
            f"cannot take {count} {field}: send at most {limit}",
            field=field,
            limit=limit,
        )


def _instance_names(town: str, slots: Iterable[str]) -> list[str]:
    return [str(InstanceName(town, slot)) for slot in sorted(slots)]
