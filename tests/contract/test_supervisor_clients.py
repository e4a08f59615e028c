"""The supervisor's view of the real registry, over a real port."""

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from services.chassis.auth import Kind
from services.chassis.channels import StaticToken
from services.chassis.errors import Reason, ServiceError
from services.chassis.names import AgentName
from services.supervisor.registry_client import RegistryClient
from services.supervisor.snapshots_client import SnapshotsClient
from services.supervisor.specs import Identity
from tests.support.canned_services import CannedServices
from tests.support.registry_server import serving
from tests.support.tokens import TOWN
from townkeeper.registry.v1 import registry_pb2 as pb
from townkeeper.registry.v1 import resources_pb2
from townkeeper.snapshots.v1.resources_pb2 import Snapshot
from townkeeper.snapshots.v1.snapshots_pb2 import GetSnapshotResponse

# More than one answer hands out.
AGENTS = 130
SPEC = resources_pb2.AgentSpec(
    rig_id="r",
    role=resources_pb2.ROLE_POLECAT,
    lightweight=True,
    runtime=resources_pb2.RUNTIME_EXEC,
    command=["/bin/agent"],
)


async def test_a_boot_claims_every_agent(tmp_path: Path) -> None:
    """However many must run, none is left behind by the size of an answer."""
    async with serving(tmp_path) as registry:
        stub = registry.stub(Kind.CONTAINER)
        for number in range(AGENTS):
            name = f"towns/{TOWN}/agents/a{number}"
            await stub.RegisterAgent(pb.RegisterAgentRequest(name=name, spec=SPEC))
        client = RegistryClient(
            registry.server.address,
            StaticToken(registry.tokens.of_kind(Kind.CONTAINER)),
            Identity(TOWN, "slot", "5f0a9a10-0b1e-4a53-9c19-6c6c0c1c0001"),
        )
        try:
            await client.register_instance("127.0.0.1:1")
            claims = await client.claim_all()
        finally:
            await client.close()

    assert AGENTS == len({claim.name for claim in claims})
    assert {1} == {claim.epoch for claim in claims}


async def test_leases_on_offer_are_heard_of(tmp_path: Path) -> None:
    """At once, by who stays, when another has gone without handing them on."""
    name = AgentName(TOWN, "a")
    async with serving(tmp_path) as registry, AsyncExitStack() as stack:
        await registry.stub(Kind.CONTAINER).RegisterAgent(
            pb.RegisterAgentRequest(name=str(name), spec=SPEC)
        )
        gone, stays = (
            RegistryClient(
                registry.server.address,
                StaticToken(registry.tokens.of_kind(Kind.CONTAINER)),
                Identity(TOWN, slot, "5f0a9a10-0b1e-4a53-9c19-6c6c0c1c0001"),
            )
            for slot in ("one", "two")
        )
        for client in (gone, stays):
            stack.push_async_callback(client.close)
            await client.register_instance("127.0.0.1:1")
        assert [name] == [claim.name for claim in await gone.claim_all()]
        await registry.stub(Kind.CONTAINER).EnqueueMessage(
            pb.EnqueueMessageRequest(parent=str(name), message_id="m-1", text="so?")
        )
        hints = aiter(stays.watch_messages())
        async with asyncio.timeout(5):
            assert name == await anext(hints)  # it listens

            await gone.release_instance()

            assert None is await anext(hints)


async def test_a_deleted_generation_is_not_used(tmp_path: Path) -> None:
    """A restore must know before it ends anything."""
    deleted = Snapshot(name="towns/t/agents/a/snapshots/3", generation=3)
    deleted.delete_time.GetCurrentTime()
    with CannedServices() as services:
        services.answers["GetSnapshot"] = GetSnapshotResponse(snapshot=deleted)
        client = SnapshotsClient(
            services.address, StaticToken("x"), Identity("t", "one", "boot-1")
        )

        with pytest.raises(ServiceError, match="undelete it") as refused:
            await client.get(AgentName("t", "a"), 3)
        await client.close()

    assert Reason.SNAPSHOT_NOT_FOUND is refused.value.reason
