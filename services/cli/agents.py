"""`townkeeper agents`: what a town's agents are, and whether they run."""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from google.protobuf.duration_pb2 import Duration

from services.chassis.errors import Reason, ServiceError, rpc_errors
from services.cli import agent_spec, conversation, removal
from services.cli.connection import Session, connected
from services.cli.output import moment, plain, word
from services.cli.problems import Exit, Problem
from services.cli.tokens import seconds
from townkeeper.registry.v1 import registry_pb2, resources_pb2
from townkeeper.supervisor.v1 import supervisor_pb2
from townkeeper.supervisor.v1.resources_pb2 import Run

app: Final = typer.Typer(no_args_is_help=True, help="Start, see and talk to agents.")
app.command("message")(conversation.message)
app.command("watch")(conversation.watch)
app.command("logs")(conversation.logs)
app.command("remove")(removal.remove)

# A start may clone a repository and put a gigabyte back on disk.
START_S: Final = 600.0
SAVE_S: Final = 300.0

AgentId = Annotated[
    str,
    typer.Argument(
        metavar="AGENT", help="Its id, or towns/T/agents/A.", show_default=False
    ),
]


@app.command("list")
@connected
def list_agents(session: Session) -> None:
    """List the agents of a town, and who runs them.

    Example: townkeeper agents list
    """
    request = registry_pb2.ListAgentsRequest(parent=f"towns/{session.town}")
    found, stub = list[resources_pb2.Agent](), session.registry()
    while True:
        answer = stub.ListAgents(request)
        found += answer.agents
        request.page_token = answer.next_page_token
        if not request.page_token:
            break
    if session.out.as_json:
        session.out.json([plain(agent) for agent in found])
        return
    titles = ("AGENT", "ROLE", "RUNTIME", "STATE", "INSTANCE", "EPOCH", "GENERATION")
    rows = [
        (
            agent.name.rpartition("/")[2],
            word(resources_pb2.Role, agent.spec.role),
            word(resources_pb2.Runtime, agent.spec.runtime or 1),
            word(resources_pb2.Agent.State, agent.state),
            agent.lease.instance.rpartition("/")[2] if agent.lease.live else "-",
            agent.lease.epoch,
            agent.generation or "-",
        )
        for agent in found
    ]
    session.out.table(titles, rows)


@app.command()
@connected
def show(session: Session, agent: AgentId) -> None:
    """Show one agent: what it is, who runs it, how its run stands.

    Example: townkeeper agents show mayor --json
    """
    name = session.agent(agent)
    request = registry_pb2.GetAgentRequest(name=str(name))
    record = session.registry().GetAgent(request).agent
    run = _run_of(session, record) if record.lease.live else None
    if session.out.as_json:
        session.out.json({"agent": plain(record), "run": plain(run) if run else None})
        return
    session.out.facts(
        name=record.name,
        role=word(resources_pb2.Role, record.spec.role),
        runtime=word(resources_pb2.Runtime, record.spec.runtime or 1),
        model=record.spec.model,
        state=word(resources_pb2.Agent.State, record.state),
        end_reason=record.end_reason,
        instance=record.lease.instance if record.lease.live else "none",
        epoch=record.lease.epoch,
        generation=record.generation,
        pending_messages=record.pending_messages_count,
        failed_starts=record.failed_starts_count,
        last_error=record.last_error,
    )
    if run is not None:
        _show_run(session, run)


@app.command()
@connected
def start(
    session: Session,
    agent: AgentId,
    command: Annotated[
        list[str] | None,
        typer.Argument(help="Program and arguments, for --runtime exec; after `--`."),
    ] = None,
    file: Annotated[
        Path | None, typer.Option(help="A JSON file with the spec (AgentSpec).")
    ] = None,
    role: Annotated[
        str | None, typer.Option(help="mayor, polecat, refinery or triage.")
    ] = None,
    rig: Annotated[
        str | None, typer.Option(help="The rig; a mayor's is mayor-TOWN.")
    ] = None,
    runtime: Annotated[str | None, typer.Option(help="kilo or exec.")] = None,
    prompt: Annotated[
        str | None, typer.Option(help="First message of a fresh session.")
    ] = None,
    model: Annotated[str | None, typer.Option(help="As provider/model.")] = None,
    small_model: Annotated[str | None, typer.Option(help="For titles.")] = None,
    system_prompt: Annotated[str | None, typer.Option(help="Instructions.")] = None,
    git_url: Annotated[str | None, typer.Option(help="What to clone.")] = None,
    branch: Annotated[str | None, typer.Option(help="Its own branch.")] = None,
    default_branch: Annotated[
        str | None, typer.Option(help="What the branch starts from.")
    ] = None,
    env: Annotated[
        list[str] | None, typer.Option(help="NAME=VALUE for its process; repeatable.")
    ] = None,
    lightweight: Annotated[
        bool, typer.Option("--lightweight", help="An empty workspace, no clone.")
    ] = False,
    database: Annotated[
        str | None, typer.Option(help="SQLite file below its home, for exec.")
    ] = None,
    resume: Annotated[str | None, typer.Option(help="latest or fresh.")] = None,
) -> None:
    """Start an agent and wait until it is ready; without options, as last time.

    Example: townkeeper agents start mayor --role mayor --lightweight
    --model provider/model

    Example: townkeeper agents start ada --role polecat --rig demo --lightweight
    --runtime exec --database ada.db -- /usr/bin/python3 ada.py
    """
    name = session.agent(agent)
    options: dict[str, Any] = {
        "role": role,
        "rigId": rig,
        "runtime": runtime,
        "prompt": prompt,
        "model": model,
        "smallModel": small_model,
        "systemPrompt": system_prompt,
        "gitUrl": git_url,
        "branch": branch,
        "defaultBranch": default_branch,
        "envVars": agent_spec.variables(env or []),
        "lightweight": lightweight,
        "command": command,
        "database": database,
        "resume": resume,
    }
    content = agent_spec.read_file(file) if file else {}
    spec = agent_spec.build(name.town, content, options)
    request = supervisor_pb2.StartAgentRequest(
        name=str(name), spec=spec, request_id=str(uuid.uuid4())
    )
    with session.out.working(f"starting {name.agent}"):
        answer = session.supervisor_of(name).StartAgent(request, timeout=START_S)
    _tell_run(session, answer.run)


@app.command()
@connected
def stop(
    session: Session,
    agent: AgentId,
    grace: Annotated[str, typer.Option(help="Time to end well, as 10s.")] = "10s",
) -> None:
    """Stop an agent; done means that its last state is saved.

    Example: townkeeper agents stop mayor
    """
    name, grace_s = session.agent(agent), seconds(grace, "--grace")
    request = supervisor_pb2.StopAgentRequest(
        name=str(name),
        grace=Duration(seconds=int(grace_s), nanos=int(grace_s % 1 * 1e9)),
    )
    limit_s = grace_s + SAVE_S
    with session.out.working(f"stopping and saving {name.agent}"):
        answer = session.supervisor_of(name).StopAgent(request, timeout=limit_s)
    _tell_run(session, answer.run)


@app.command()
@connected
def save(session: Session, agent: AgentId) -> None:
    """Save an agent now; done means that all it had written is durable.

    Example: townkeeper agents save mayor
    """
    name = session.agent(agent)
    request = supervisor_pb2.SaveAgentRequest(name=str(name))
    with session.out.working(f"saving {name.agent}"):
        answer = session.supervisor_of(name).SaveAgent(request, timeout=SAVE_S)
    if session.out.as_json:
        session.out.json(plain(answer))
    elif answer.generation:
        session.out.line(f"saved as generation {answer.generation}")
    else:
        session.out.line("nothing to save: the agent has no database yet")


@app.command()
@connected
def model(
    session: Session,
    agent: AgentId,
    model: Annotated[
        str, typer.Argument(help="As provider/model.", show_default=False)
    ],
    small_model: Annotated[
        str, typer.Option(help="Cheap model for titles; else it stays.")
    ] = "",
) -> None:
    """Change the model of the next turns; the session stays.

    Example: townkeeper agents model mayor anthropic/claude
    """
    name = session.agent(agent)
    request = supervisor_pb2.UpdateAgentModelRequest(
        name=str(name), model=model, small_model=small_model
    )
    with session.out.working(f"changing the model of {name.agent}"):
        stub = session.supervisor_of(name)
        answer = stub.UpdateAgentModel(request, timeout=START_S)
    _tell_run(session, answer.run)


def _run_of(session: Session, record: resources_pb2.Agent) -> Run | None:
    """The run, as its holder tells; None when that one does not know it, or is gone."""
    request = supervisor_pb2.GetRunRequest(name=record.name)
    try:
        with rpc_errors():
            stub = session.supervisor_of(session.agent(record.name))
            return stub.GetRun(request).run
    except ServiceError as error:
        if error.reason in (Reason.RUN_NOT_FOUND, Reason.SERVICE_UNAVAILABLE):
            return None
        raise


def _tell_run(session: Session, run: Run) -> None:
    if session.out.as_json:
        session.out.json(plain(run))
    else:
        _show_run(session, run)
    if run.state == Run.STATE_FAILED:
        raise Problem(f"cannot keep the agent running: {run.error}", Exit.FAILED)


def _show_run(session: Session, run: Run) -> None:
    session.out.facts(
        run=run.name,
        is_now=word(Run.State, run.state),
        status=run.status,
        pid=run.pid,
        session=run.session_id,
        resumed="yes" if run.resumed else "no",
        interrupted="yes" if run.interrupted else "",
        epoch=run.epoch,
        instance=run.instance,
        generation=run.generation,
        saved=moment(run.save_time),
        not_saved_for=f"{run.lag_seconds:.1f} s" if run.lag_seconds else "",
        active_tools=", ".join(run.active_tools),
        messages=run.message_count,
        lost_generations=", ".join(map(str, run.lost_generations)),
        exit_reason=run.exit_reason,
        error=run.error,
    )
