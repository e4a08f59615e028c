"""`townkeeper agents`: what is asked of the services, and what is printed."""

import json
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from services.chassis.errors import Reason, ServiceError
from tests.support.canned_services import CannedServices
from tests.unit.cli.conftest import CommandLine
from townkeeper.registry.v1 import registry_pb2, resources_pb2
from townkeeper.supervisor.v1 import supervisor_pb2
from townkeeper.supervisor.v1.resources_pb2 import Run

MAYOR = "towns/town-1/agents/mayor"


def record(name: str = MAYOR, *, live: bool = True) -> resources_pb2.Agent:
    return resources_pb2.Agent(
        name=name,
        spec=resources_pb2.AgentSpec(role=resources_pb2.ROLE_MAYOR),
        state=resources_pb2.Agent.STATE_ACTIVE,
        lease=resources_pb2.Lease(
            epoch=7, instance="towns/town-1/instances/one", live=live
        ),
        generation=3,
    )


def run_of(name: str = MAYOR, **fields: Any) -> Run:
    return Run(
        **{
            "name": f"{name}/runs/r1",
            "state": Run.STATE_RUNNING,
            "session_id": "ses_1",
            "generation": 3,
            "save_time": Timestamp(seconds=1_700_000_000),
            **fields,
        }
    )


def test_list_shows_every_page(townkeeper: CommandLine) -> None:
    """All agents are listed, however many pages they come in."""
    townkeeper.services.answers["ListAgents"] = [
        registry_pb2.ListAgentsResponse(agents=[record()], next_page_token="more"),
        registry_pb2.ListAgentsResponse(
            agents=[record("towns/town-1/agents/ada", live=False)]
        ),
    ]

    assert 0 == townkeeper("agents", "list")

    assert [
        "AGENT  ROLE   RUNTIME  STATE   INSTANCE  EPOCH  GENERATION",
        "mayor  mayor  kilo     active  one       7      3",
        "ada    mayor  kilo     active  -         7      3",
    ] == townkeeper.out.splitlines()


def test_json_has_all_fields_and_numbers(townkeeper: CommandLine) -> None:
    """Programs find every field, and numbers as numbers."""
    townkeeper.services.answers["ListAgents"] = registry_pb2.ListAgentsResponse(
        agents=[record()]
    )

    assert 0 == townkeeper("agents", "list", "--json")

    [agent] = json.loads(townkeeper.out)
    assert (MAYOR, 3, 7) == (
        agent["name"],
        agent["generation"],
        agent["lease"]["epoch"],
    )
    assert "" == agent["endReason"]


def test_calls_carry_the_token(townkeeper: CommandLine) -> None:
    """The token given is the one that is sent."""
    townkeeper.services.answers["ListAgents"] = registry_pb2.ListAgentsResponse()

    townkeeper("agents", "list")

    assert "Bearer some-token" == townkeeper.services.authorization


def test_show_tells_of_the_record_and_the_run(townkeeper: CommandLine) -> None:
    """One command tells what the town wants and how the run stands."""
    townkeeper.services.answers["GetAgent"] = registry_pb2.GetAgentResponse(
        agent=record()
    )
    townkeeper.services.answers["GetRun"] = supervisor_pb2.GetRunResponse(run=run_of())

    assert 0 == townkeeper("agents", "show", "mayor", "--json")

    shown = json.loads(townkeeper.out)
    assert (MAYOR, "ses_1") == (shown["agent"]["name"], shown["run"]["sessionId"])


def test_show_asks_nobody_about_an_agent_that_nobody_runs(
    townkeeper: CommandLine,
) -> None:
    """Without a live holder there is no run to ask for."""
    townkeeper.services.answers["GetAgent"] = registry_pb2.GetAgentResponse(
        agent=record(live=False)
    )

    assert 0 == townkeeper("agents", "show", MAYOR)

    assert "instance          none" in townkeeper.out


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        pytest.param([], None, id="nothing: as last time"),
        pytest.param(
            ["--role", "mayor", "--lightweight"],
            resources_pb2.AgentSpec(
                role=resources_pb2.ROLE_MAYOR, rig_id="mayor-town-1", lightweight=True
            ),
            id="a mayor's rig follows",
        ),
        pytest.param(
            ["--role", "polecat", "--rig", "r", "--env", "A=b=c", "--env", "D="],
            resources_pb2.AgentSpec(
                role=resources_pb2.ROLE_POLECAT,
                rig_id="r",
                env_vars={"A": "b=c", "D": ""},
            ),
            id="variables",
        ),
        pytest.param(
            [
                "--role=ROLE_TRIAGE",
                "--rig=r",
                "--runtime=exec",
                "--resume=fresh",
                "--database=a.db",
                "--",
                "/bin/agent",
                "--fast",
            ],
            resources_pb2.AgentSpec(
                role=resources_pb2.ROLE_TRIAGE,
                rig_id="r",
                runtime=resources_pb2.RUNTIME_EXEC,
                resume=resources_pb2.RESUME_FRESH,
                database="a.db",
                command=["/bin/agent", "--fast"],
            ),
            id="a program",
        ),
    ],
)
def test_start_sends_the_spec_that_was_typed(
    townkeeper: CommandLine,
    arguments: list[str],
    expected: resources_pb2.AgentSpec | None,
) -> None:
    """Options become the spec; without any the stored one is used."""
    townkeeper.services.answers["StartAgent"] = supervisor_pb2.StartAgentResponse(
        run=run_of()
    )

    assert 0 == townkeeper("agents", "start", "mayor", *arguments)

    request = townkeeper.services.asked(supervisor_pb2.StartAgentRequest)
    assert expected == (request.spec if request.HasField("spec") else None)
    assert "ses_1" in townkeeper.out


def test_start_takes_a_file_and_options_over_it(
    townkeeper: CommandLine, tmp_path: Path
) -> None:
    """A spec in a file is used; an option beside it wins."""
    content = {"role": "polecat", "rig_id": "r", "gitUrl": "g", "prompt": "old"}
    (tmp_path / "spec.json").write_text(json.dumps(content))
    townkeeper.services.answers["StartAgent"] = supervisor_pb2.StartAgentResponse(
        run=run_of()
    )

    assert 0 == townkeeper("agents", "start", "ada", "--file=spec.json", "--prompt=new")

    spec = townkeeper.services.asked(supervisor_pb2.StartAgentRequest).spec
    assert ("r", "g", "new") == (spec.rig_id, spec.git_url, spec.prompt)


@pytest.mark.parametrize(
    ("content", "arguments"),
    [
        pytest.param("{", [], id="no JSON"),
        pytest.param("[]", [], id="no object"),
        pytest.param('{"roel": "mayor"}', [], id="unknown field"),
        pytest.param('{"role": "king"}', [], id="unknown role"),
        pytest.param('{"lightweight": "yes"}', [], id="wrong type"),
        pytest.param("{}", ["--runtime", "opera"], id="unknown runtime"),
        pytest.param("{}", ["--env", "novalue"], id="variable without value"),
        pytest.param(None, [], id="no file"),
    ],
)
def test_a_spec_that_makes_no_sense_is_not_sent(
    townkeeper: CommandLine, tmp_path: Path, content: str | None, arguments: list[str]
) -> None:
    """What is wrong with a spec is a usage error; nothing is started."""
    if content is not None:
        (tmp_path / "spec.json").write_text(content)

    assert 2 == townkeeper("agents", "start", "ada", "--file=spec.json", *arguments)

    assert [] == townkeeper.services.requests
    assert 1 == len(townkeeper.err.splitlines())
    assert townkeeper.err.startswith("cannot ")


def test_a_start_that_ends_in_failure_fails(townkeeper: CommandLine) -> None:
    """A run that is returned as failed is a failed command."""
    townkeeper.services.answers["StartAgent"] = supervisor_pb2.StartAgentResponse(
        run=run_of(state=Run.STATE_FAILED, error="it crashed")
    )

    assert 1 == townkeeper("agents", "start", "mayor")

    assert "it crashed" in townkeeper.err


def test_stop_passes_the_grace_on(townkeeper: CommandLine) -> None:
    """The time to end well is sent as it was typed."""
    townkeeper.services.answers["StopAgent"] = supervisor_pb2.StopAgentResponse(
        run=run_of(state=Run.STATE_EXITED)
    )

    assert 0 == townkeeper("agents", "stop", "mayor", "--grace", "1500ms")

    grace = townkeeper.services.asked(supervisor_pb2.StopAgentRequest).grace
    assert (1, 500_000_000) == (grace.seconds, grace.nanos)


@pytest.mark.parametrize(
    ("generation", "words"),
    [
        pytest.param(9, "saved as generation 9", id="saved"),
        pytest.param(0, "nothing to save", id="no database"),
    ],
)
def test_save_names_the_generation(
    townkeeper: CommandLine, generation: int, words: str
) -> None:
    """A save tells which generation holds it, or that there is nothing."""
    townkeeper.services.answers["SaveAgent"] = supervisor_pb2.SaveAgentResponse(
        generation=generation
    )

    assert 0 == townkeeper("agents", "save", "mayor")

    assert words in townkeeper.out


def test_model_is_changed(townkeeper: CommandLine) -> None:
    """The model's name reaches the supervisor."""
    townkeeper.services.answers["UpdateAgentModel"] = (
        supervisor_pb2.UpdateAgentModelResponse(run=run_of(model="p/m"))
    )

    assert 0 == townkeeper("agents", "model", "mayor", "p/m")

    request = townkeeper.services.asked(supervisor_pb2.UpdateAgentModelRequest)
    assert (MAYOR, "p/m") == (request.name, request.model)


@pytest.mark.parametrize(
    ("reason", "code"),
    [
        pytest.param(Reason.AGENT_NOT_FOUND, 3, id="absent"),
        pytest.param(Reason.SNAPSHOT_NOT_FOUND, 3, id="absent snapshot"),
        pytest.param(Reason.TOKEN_EXPIRED, 4, id="old token"),
        pytest.param(Reason.TOWN_FOREIGN, 4, id="another town"),
        pytest.param(Reason.LEASE_HELD, 4, id="somebody else has it"),
        pytest.param(Reason.LEASE_FENCED, 4, id="fenced"),
        pytest.param(Reason.FIELD_INVALID, 2, id="wrong whatever the state"),
        pytest.param(Reason.NO_START_REQUEST, 1, id="state must change first"),
        pytest.param(Reason.STORE_UNAVAILABLE, 1, id="soon better"),
        pytest.param(Reason.SNAPSHOT_CORRUPT, 1, id="damage"),
    ],
)
def test_a_refusal_is_one_line_and_its_exit_code(
    services: CannedServices, townkeeper: CommandLine, reason: Reason, code: int
) -> None:
    """Scripts tell by the exit code, people by one line, why it was not done."""
    services.answers["GetAgent"] = ServiceError(reason, "cannot do it:\n do that")

    assert code == townkeeper("agents", "show", "mayor")

    assert "cannot do it: do that\n" == townkeeper.err
    assert "" == townkeeper.out


def test_a_service_that_is_not_there(townkeeper: CommandLine) -> None:
    """Nobody at the address is said in words, with what to do."""
    assert 1 == townkeeper("agents", "list", address="127.0.0.1:1")

    assert townkeeper.err.startswith("cannot reach the service")
    assert "townkeeper up" in townkeeper.err


@pytest.mark.parametrize(
    "agent", ["a/b", "towns/t/agents/", "..", "towns/t/agents/a/runs/r"]
)
def test_a_malformed_name_is_usage(townkeeper: CommandLine, agent: str) -> None:
    """A name that cannot be one is not sent."""
    assert 2 == townkeeper("agents", "show", agent)

    assert [] == townkeeper.services.requests
