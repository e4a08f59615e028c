"""Who may call what: every credential on every method, before anything is looked up."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from services.chassis.auth import Kind
from services.chassis.errors import ServiceError
from services.snapshots.__main__ import SERVICE
from services.snapshots.policy import POLICY
from tests.support.snapshot_errors import refusal
from tests.support.snapshot_frames import BOOT, Frame, file_header, header
from tests.support.snapshots_world import World
from tests.support.tokens import AGENT, FOREIGN_TOWN, OTHER_AGENT, TOWN
from townkeeper.snapshots.v1 import snapshots_pb2 as pb
from townkeeper.snapshots.v1.resources_pb2 import Snapshot

METHODS = [method.name for method in SERVICE.methods]
STREAMS = {method.name for method in SERVICE.methods if method.server_streaming}
READERS = {Kind.CONTAINER, Kind.USER, Kind.OPERATOR, Kind.AGENT}
# As the comments of the contract say.
MAY = {
    "AdvanceEpoch": {Kind.CONTAINER},
    "UploadSnapshot": {Kind.CONTAINER, Kind.OPERATOR},
    "GetUpload": {Kind.CONTAINER},
    "AbortUpload": {Kind.CONTAINER},
    "DownloadSnapshot": {Kind.CONTAINER, Kind.OPERATOR, Kind.AGENT},
    "GetSnapshot": READERS,
    "ListSnapshots": READERS,
    "UpdateSnapshot": {Kind.CONTAINER, Kind.OPERATOR},
    "DeleteSnapshot": {Kind.CONTAINER, Kind.OPERATOR},
    "UndeleteSnapshot": {Kind.OPERATOR},
    "ForkSnapshot": {Kind.OPERATOR},
    "ReindexTown": {Kind.OPERATOR},
    "VerifySnapshot": {Kind.CONTAINER, Kind.OPERATOR},
}
DENIED = {
    "TOKEN_MISSING",
    "TOKEN_EXPIRED",
    "TOKEN_INVALID",
    "TOWN_FOREIGN",
    "AGENT_FOREIGN",
    "ROLE_INSUFFICIENT",
}


async def one(frame: Frame) -> AsyncIterator[Frame]:
    yield frame


def request(method: str, town: str, agent: str) -> Any:
    """A good request about an agent that has no snapshot."""
    parent = f"towns/{town}/agents/{agent}"
    name = f"{parent}/snapshots/1"
    upload_id = header().header.upload_id
    match method:
        case "AdvanceEpoch":
            instance = f"towns/{town}/instances/i"
            return pb.AdvanceEpochRequest(
                name=parent, epoch=1, instance=instance, boot_id=BOOT
            )
        case "UploadSnapshot":
            return one(file_header(parent=parent))
        case "GetUpload":
            return pb.GetUploadRequest(parent=parent, upload_id=upload_id)
        case "AbortUpload":
            return pb.AbortUploadRequest(parent=parent, upload_id=upload_id)
        case "ListSnapshots":
            return pb.ListSnapshotsRequest(parent=parent)
        case "ReindexTown":
            return pb.ReindexTownRequest(name=parent)
        case "UpdateSnapshot":
            return pb.UpdateSnapshotRequest(snapshot=Snapshot(name=name))
        case "ForkSnapshot":
            return pb.ForkSnapshotRequest(name=name, target=f"{parent}-2")
        case _:
            return getattr(pb, f"{method}Request")(name=name)


async def answer(stub: Any, method: str, town: str, agent: str) -> str:
    """The reason of the failure, or OK."""

    async def call() -> None:
        given = getattr(stub, method)(request(method, town, agent))
        if method in STREAMS:
            async for _ in given:
                pass
        else:
            await given

    try:
        await call()
    except Exception as error:
        return ServiceError.from_rpc(error).reason.name  # type: ignore[arg-type]
    return "OK"


def test_every_method_names_its_callers() -> None:
    """A method without a row would be refused to all; say so before it ships."""
    assert {f"/{SERVICE.full_name}/{name}" for name in METHODS} == set(POLICY)
    assert MAY == {
        name.rpartition("/")[2]: set(rule.kinds) for name, rule in POLICY.items()
    }


@pytest.mark.parametrize("kind", Kind)
@pytest.mark.parametrize("method", METHODS)
async def test_the_matrix(world: World, method: str, kind: Kind) -> None:
    """Each kind of credential reaches what the contract says, of its own only."""
    token = world.tokens.of_kind(kind)
    client = world.client_with(token)

    own = await answer(client.stub, method, TOWN, AGENT)
    other = await answer(client.stub, method, TOWN, OTHER_AGENT)
    foreign = await answer(client.stub, method, FOREIGN_TOWN, AGENT)

    assert (kind in MAY[method]) == (own not in DENIED)
    may_other = kind in MAY[method] and kind is not Kind.AGENT
    assert may_other == (other not in DENIED)
    assert foreign in DENIED


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    "spoil", ["", "expired", "foreign_key", "wrong_audience", "algorithm_none"]
)
async def test_no_good_token(world: World, method: str, spoil: str) -> None:
    """Without a good token nothing is answered, on any method."""
    token = getattr(world.tokens, spoil)() if spoil else None
    client = world.client_with(token)

    found = await answer(client.stub, method, TOWN, AGENT)

    assert found.startswith("TOKEN_")


async def test_an_agent_reads_only_itself(world: World) -> None:
    """An agent's token on another agent's session is refused before it is looked up."""
    await world.client.upload_file(b"secret", parent=f"towns/{TOWN}/agents/{AGENT}")
    agent = world.client_with(world.tokens.agent(OTHER_AGENT))

    error = await refusal(agent.download())

    assert ("PERMISSION_DENIED", "AGENT_FOREIGN") == (
        error.code.name,
        error.reason.name,
    )
