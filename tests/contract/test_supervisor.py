"""The supervisor over a real port: every answer and every refusal of its contract."""

from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.duration_pb2 import Duration

from services.chassis.errors import Reason, ServiceError, rpc_errors
from services.chassis.names import AgentName
from services.supervisor.container_token import ContainerToken
from services.supervisor.drain import Drain
from services.supervisor.exec_runtime import ExecPolicy
from services.supervisor.policy import POLICY
from services.supervisor.roster import Roster
from services.supervisor.servicer import SupervisorServicer
from services.supervisor.wire import spec_from_proto
from services.supervisor.workspace_save import SaveOutcome, WorkspaceSave
from tests.fakes.registry_client import FakeRegistry
from tests.fakes.runtime import FakeRuntime
from tests.fakes.snapshots_client import FakeSnapshots
from tests.support.containers import World
from tests.support.grpc_server import running
from tests.support.tokens import Tokens
from townkeeper.registry.v1 import resources_pb2 as registry_pb
from townkeeper.supervisor.v1 import resources_pb2, supervisor_pb2_grpc
from townkeeper.supervisor.v1 import supervisor_pb2 as pb

SERVICE = pb.DESCRIPTOR.services_by_name["SupervisorService"]
AGENT = "towns/t/agents/a"
SPEC = registry_pb.AgentSpec(
    rig_id="r",
    role=registry_pb.ROLE_MAYOR,
    runtime=registry_pb.RUNTIME_EXEC,
    command=["/bin/agent"],
)


class StoringRegistry(FakeRegistry):
    """Stores what a start registers."""

    async def register(self, name: AgentName, spec: registry_pb.AgentSpec) -> None:
        self.specs[name] = spec_from_proto(spec)


@pytest.fixture
async def stub(tmp_path: Path) -> AsyncIterator[Any]:
    world = World(tmp_path, StoringRegistry(), FakeSnapshots(), FakeRuntime())
    around = world.surroundings()
    roster = Roster(around)

    async def announce() -> None:
        around.leaving.set()

    async def save_workspace(*_: object) -> WorkspaceSave:
        return WorkspaceSave(SaveOutcome.PUSHED, "refs/r", "c0ffee", "some is missing")

    drain = Drain(roster, announce, save_workspace)
    tokens = Tokens(tmp_path)
    token = ContainerToken("old", "t")
    servicer = SupervisorServicer(
        *(roster, drain, around, ExecPolicy.parse("/bin/agent")),
        refresh=partial(token.replace, verifier=tokens.verifier()),
    )

    def add(server: Any) -> None:
        supervisor_pb2_grpc.add_SupervisorServiceServicer_to_server(servicer, server)

    async with running(add, POLICY, tokens, [SERVICE.full_name]) as server:
        channel = server.channel(tokens.operator("t", "another"))
        yield supervisor_pb2_grpc.SupervisorServiceStub(channel)
        await roster.leave(1.0)


async def refusal(call: Any) -> Reason:
    """Why a call is refused."""
    with pytest.raises(ServiceError) as refused, rpc_errors():
        await call
    return refused.value.reason


async def streamed(call: Any) -> list[Any]:
    with rpc_errors():
        return [one async for one in call]


def test_every_method_names_its_callers() -> None:
    """A method without a row would be refused to all; say so before it ships."""
    methods = {f"/{SERVICE.full_name}/{method.name}" for method in SERVICE.methods}

    assert methods == set(POLICY)


async def test_a_life_over_the_wire(stub: Any) -> None:
    """Start, look, save, stop: each answer tells the state it leaves."""
    started = await stub.StartAgent(pb.StartAgentRequest(name=AGENT, spec=SPEC))
    assert resources_pb2.Run.STATE_RUNNING == started.run.state
    assert (1, "towns/t/instances/slot") == (started.run.epoch, started.run.instance)

    saved = await stub.SaveAgent(pb.SaveAgentRequest(name=AGENT))
    assert 1 == saved.generation

    shown = await stub.GetRun(pb.GetRunRequest(name=AGENT))
    assert saved.generation == shown.run.generation
    listed = await stub.ListRuns(pb.ListRunsRequest(parent="towns/t"))
    assert [started.run.name] == [run.name for run in listed.runs]

    stopped = await stub.StopAgent(pb.StopAgentRequest(name=AGENT))
    assert resources_pb2.Run.STATE_EXITED == stopped.run.state
    assert "stopped" == stopped.run.exit_reason


async def test_another_town_learns_nothing(stub: Any) -> None:
    """Whoever may call for another town is told nothing of this one's agents, not even
    of one by the same name."""
    await stub.StartAgent(pb.StartAgentRequest(name=AGENT, spec=SPEC))
    foreign = ("towns/another", "towns/another/agents/a")

    listed = await refusal(stub.ListRuns(pb.ListRunsRequest(parent=foreign[0])))
    watched = []
    for parent in foreign:
        request = pb.WatchEventsRequest(parent=parent, kept_only=True)
        watched.append(await refusal(streamed(stub.WatchEvents(request))))

    assert [Reason.TOWN_FOREIGN] * 3 == [listed, *watched]


async def test_events_are_listed_and_resumed(stub: Any) -> None:
    """A watcher gets what was kept, and goes on from its token."""
    await stub.StartAgent(pb.StartAgentRequest(name=AGENT, spec=SPEC))
    kept = await streamed(
        stub.WatchEvents(pb.WatchEventsRequest(parent=AGENT, kept_only=True))
    )
    assert "agent.started" in [one.event.type for one in kept]

    after = pb.WatchEventsRequest(
        parent="towns/t", kept_only=True, resume_token=kept[-1].resume_token
    )
    later = await streamed(stub.WatchEvents(after))

    assert all(one.event.sequence > kept[-1].event.sequence for one in later)


async def test_the_model_is_changed(stub: Any) -> None:
    """The run tells the model of its next turns."""
    await stub.StartAgent(pb.StartAgentRequest(name=AGENT, spec=SPEC))

    changed = await stub.UpdateAgentModel(
        pb.UpdateAgentModelRequest(name=AGENT, model="p/m")
    )

    assert "p/m" == changed.run.model


def with_spec(**changes: Any) -> pb.StartAgentRequest:
    spec = registry_pb.AgentSpec()
    spec.CopyFrom(SPEC)
    command = changes.pop("command", None)
    if command is not None:
        del spec.command[:]
        spec.command.extend(command)
    for field, value in changes.items():
        setattr(spec, field, value)
    return pb.StartAgentRequest(name=AGENT, spec=spec)


@pytest.mark.parametrize(
    ("request_", "reason"),
    [
        pytest.param(pb.StartAgentRequest(name="a"), Reason.NAME_MALFORMED, id="name"),
        pytest.param(
            pb.StartAgentRequest(name=AGENT), Reason.NO_START_REQUEST, id="unknown"
        ),
        pytest.param(
            pb.StartAgentRequest(name="towns/t/agents/..", spec=SPEC),
            Reason.NAME_MALFORMED,
            id="dots",
        ),
        pytest.param(with_spec(role=99), Reason.FIELD_INVALID, id="unknown role"),
        pytest.param(with_spec(runtime=99), Reason.FIELD_INVALID, id="runtime"),
        pytest.param(with_spec(resume=99), Reason.FIELD_INVALID, id="resume"),
        pytest.param(
            with_spec(runtime=registry_pb.RUNTIME_OPENCODE),
            Reason.RUNTIME_MISSING,
            id="opencode",
        ),
        pytest.param(
            with_spec(command=["/bin/sh"]), Reason.EXEC_DISABLED, id="not allowed"
        ),
        pytest.param(with_spec(command=[]), Reason.COMMAND_INVALID, id="no command"),
    ],
)
async def test_starts_that_are_refused(
    stub: Any, request_: pb.StartAgentRequest, reason: Reason
) -> None:
    """A bad start says what is wrong, and nothing of it is stored."""
    assert reason == await refusal(stub.StartAgent(request_))
    assert [] == list((await stub.ListRuns(pb.ListRunsRequest(parent="towns/t"))).runs)


@pytest.mark.parametrize(
    ("method", "request_", "reason"),
    [
        ("StopAgent", pb.StopAgentRequest(name=AGENT), Reason.RUN_NOT_FOUND),
        ("SaveAgent", pb.SaveAgentRequest(name=AGENT), Reason.RUN_NOT_FOUND),
        ("GetRun", pb.GetRunRequest(name=AGENT), Reason.RUN_NOT_FOUND),
        (
            "UpdateAgentModel",
            pb.UpdateAgentModelRequest(name=AGENT),
            Reason.FIELD_REQUIRED,
        ),
        (
            "RestoreAgent",
            pb.RestoreAgentRequest(name=f"{AGENT}/snapshots/0"),
            Reason.NAME_MALFORMED,
        ),
        (
            "RestoreAgent",
            pb.RestoreAgentRequest(name=f"{AGENT}/snapshots/9"),
            Reason.AGENT_NOT_FOUND,
        ),
        ("ListRuns", pb.ListRunsRequest(parent="t"), Reason.NAME_MALFORMED),
        (
            "ListRuns",
            pb.ListRunsRequest(parent="towns/t", page_size=-1),
            Reason.FIELD_INVALID,
        ),
        (
            "RefreshCredentials",
            pb.RefreshCredentialsRequest(parent="towns/t"),
            Reason.ROLE_INSUFFICIENT,
        ),
    ],
)
async def test_refusals(stub: Any, method: str, request_: Any, reason: Reason) -> None:
    """Each bad call has its reason."""
    assert reason == await refusal(getattr(stub, method)(request_))


def started(name: str) -> pb.StartAgentRequest:
    return pb.StartAgentRequest(name=name, spec=SPEC)


async def test_a_drain_answers_with_a_receipt_for_each_run(stub: Any) -> None:
    """Nothing starts from then on; who asks again is told the same."""
    for agent in ("a", "b"):
        await stub.StartAgent(started(f"towns/t/agents/{agent}"))

    request = pb.DrainRequest(parent="towns/t")
    receipts = await streamed(stub.Drain(request))

    assert [1, 0] == [one.remaining_count for one in receipts]
    assert {"evicted"} == {one.run.exit_reason for one in receipts}
    workspace = resources_pb2.WorkspaceSave(
        outcome=resources_pb2.WorkspaceSave.OUTCOME_PUSHED,
        ref="refs/r",
        commit="c0ffee",
        error="some is missing",
    )
    assert [workspace] * 2 == [one.workspace for one in receipts]
    assert receipts == await streamed(stub.Drain(request))
    assert Reason.SHUTTING_DOWN == await refusal(stub.StartAgent(started(AGENT)))


@pytest.mark.parametrize(
    ("parent", "budget_s", "reason"),
    [
        ("towns/t", -1, Reason.FIELD_INVALID),
        ("towns/t", 3601, Reason.FIELD_INVALID),
        ("towns/another", 1, Reason.TOWN_FOREIGN),
        ("t", 1, Reason.NAME_MALFORMED),
    ],
)
async def test_a_bad_drain_empties_nothing(
    stub: Any, parent: str, budget_s: int, reason: Reason
) -> None:
    """Refused before anything ends."""
    await stub.StartAgent(started(AGENT))

    budget = Duration(seconds=budget_s)
    asked = pb.DrainRequest(parent=parent, budget=budget)
    with pytest.raises(ServiceError) as refused:
        await streamed(stub.Drain(asked))

    assert reason == refused.value.reason
    found = await stub.GetRun(pb.GetRunRequest(name=AGENT))
    assert resources_pb2.Run.STATE_RUNNING == found.run.state


async def test_streams_refuse_too(stub: Any) -> None:
    """A stream that cannot begin says why."""
    with pytest.raises(ServiceError) as foreign:
        await streamed(
            stub.WatchEvents(pb.WatchEventsRequest(parent=AGENT, resume_token="x:1"))
        )
    with pytest.raises(ServiceError) as tail:
        await streamed(stub.TailOutput(pb.TailOutputRequest(name=AGENT)))

    assert Reason.RESUME_TOKEN_EXPIRED == foreign.value.reason
    assert Reason.RUN_NOT_FOUND == tail.value.reason
