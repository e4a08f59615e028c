"""The supervisor's view of the real registry, over a real port."""

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


async def test_a_boot_claims_every_agent(tmp_path: Path) -> None:
    """However many must run, none is left behind by the size of an answer."""
    spec = resources_pb2.AgentSpec(
        rig_id="r",
        role=resources_pb2.ROLE_POLECAT,
        lightweight=True,
        runtime=resources_pb2.RUNTIME_EXEC,
        command=["/bin/agent"],
    )
    async with serving(tmp_path) as registry:
        stub = registry.stub(Kind.CONTAINER)
        for number in range(AGENTS):
            name = f"towns/{TOWN}/agents/a{number}"
            await stub.RegisterAgent(pb.RegisterAgentRequest(name=name, spec=spec))
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
