"""A secret is planted, used, and looked for: in all of Redis, in every log, in every
answer to whoever may not see it."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import grpc
import pytest

from services.chassis.access import Kind
from tests.support import notes_agent
from tests.support.plane import PlaneProcess
from tests.support.waiting import wait_until_sync
from townkeeper.registry.v1 import registry_pb2, resources_pb2
from townkeeper.supervisor.v1 import supervisor_pb2

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(180)]

SECRET = "p1anted-s3cret-value"
# It says its secret aloud, and ends.
LOUD = "import os, sys; print(os.environ['MY_TOKEN'], file=sys.stderr); sys.exit(1)"


def spec(*command: str, **variables: str) -> resources_pb2.AgentSpec:
    return resources_pb2.AgentSpec(
        rig_id="rig-1",
        role=resources_pb2.ROLE_POLECAT,
        lightweight=True,
        runtime=resources_pb2.RUNTIME_EXEC,
        command=command,
        database=notes_agent.DATABASE,
        env_vars=variables,
    )


def where(folder: Path) -> list[str]:
    """The files below a folder that hold the secret, in whatever form Redis writes."""
    needle = SECRET.encode()
    return [
        str(path.relative_to(folder))
        for path in folder.rglob("*")
        if path.is_file() and needle in path.read_bytes()
    ]


def in_answers(plane: PlaneProcess, agents: tuple[str, ...]) -> set[str]:
    """The calls that showed the secret, of all that people may make."""
    found = set()
    for kind in (Kind.USER, Kind.OPERATOR):
        registry, supervisor = plane.registry(kind), plane.supervisor(kind)
        town = f"towns/{plane.town}"
        answers: list[object] = [
            registry.ListAgents(registry_pb2.ListAgentsRequest(parent=town))
        ]
        watch = registry.WatchAgents(registry_pb2.WatchAgentsRequest(parent=town))
        for step in watch:
            answers.append(step)
            if step.WhichOneof("event") == "synced":
                watch.cancel()
                break
        for agent in agents:
            name = plane.agent_name(agent)
            answers.append(registry.GetAgent(registry_pb2.GetAgentRequest(name=name)))
            try:
                request = supervisor_pb2.GetRunRequest(name=name)
                answers.append(supervisor.GetRun(request))
            except grpc.RpcError as error:
                answers.append(error)
        found |= {type(one).__name__ for one in answers if SECRET in str(one)}
        http = plane.http(kind)
        for path in [
            "container/health",
            "mayor/status",
            *(f"container/agents/{a}/status" for a in agents),
        ]:
            if SECRET in http.get(f"/api/towns/{plane.town}/{path}").text:
                found.add(path)
    return found


def test_a_planted_secret_is_nowhere(plane: PlaneProcess, tmp_path: Path) -> None:
    """In a spec, in an entry of a list, in an agent that shouts it and fails; and yet
    the agents have it, and so does the container that is to start them."""
    agents = ("ada", "bob", "eve")
    loud = tmp_path / "loud.py"
    loud.write_text(LOUD)
    registry, supervisor = plane.registry(), plane.supervisor()
    entry = notes_agent.entry("bob", plane.town)
    entry["request"]["envVars"] = {"MY_TOKEN": SECRET}
    entry["env"] = {"MY_TOKEN": SECRET}
    container = plane.http("container")
    path = f"/api/towns/{plane.town}/container-registry"
    assert container.post(path, json=[entry]).is_success

    for name, command in (
        ("ada", notes_agent.command()),
        ("eve", [sys.executable, str(loud)]),
    ):
        registry.RegisterAgent(
            registry_pb2.RegisterAgentRequest(
                name=plane.agent_name(name), spec=spec(*command, MY_TOKEN=SECRET)
            )
        )
    refusals = []
    for name in agents:
        request = supervisor_pb2.StartAgentRequest(name=plane.agent_name(name))
        try:
            supervisor.StartAgent(request)
        except grpc.RpcError as error:
            refusals.append(str(error))
    assert [] == [text for text in refusals if SECRET in text]
    pid = plane.wait_running("ada").pid
    assert SECRET.encode() in Path(f"/proc/{pid}/environ").read_bytes()
    wait_until_sync(
        lambda: (run := plane.find_run("eve")) and run.crash_count > 0, limit_s=30
    )

    [listed] = [e for e in container.get(path).json()["data"] if e["agentId"] == "bob"]
    assert entry == listed
    assert set() == in_answers(plane, agents)
    # Redis' own files, logs, blobs, keys.
    assert [] == where(plane.data.plane)
    assert SECRET not in plane.complaints()


def test_the_look_would_find_it(plane: PlaneProcess) -> None:
    """The same search for something that is there: an agent's id, in Redis' own file
    and in a log."""
    registry = plane.registry()
    name = SECRET.replace("_", "-")
    request = registry_pb2.RegisterAgentRequest(
        name=plane.agent_name(name), spec=spec("x")
    )
    registry.RegisterAgent(request)

    assert where(plane.data.valkey)
    lines = (json.loads(line) for line in plane.log("registry").splitlines())
    assert any(re.search("call", line.get("event", "")) for line in lines)
