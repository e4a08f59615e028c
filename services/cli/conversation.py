"""`townkeeper agents message|watch|logs`: what an agent is told, and what it does."""

from __future__ import annotations

import json
import sys
import time
import uuid
from typing import Annotated, Final

import typer
from google.protobuf.json_format import MessageToDict

from services.cli.connection import Session, connected
from services.cli.output import moment, plain, word
from services.cli.problems import Exit, Problem
from services.cli.tokens import seconds
from services.cli.town_watch import watch_town
from townkeeper.registry.v1 import registry_pb2
from townkeeper.registry.v1.resources_pb2 import Message
from townkeeper.supervisor.v1 import supervisor_pb2

_LOOK_EVERY_S: Final = 0.25
_PAGE: Final = 500
# On a terminal, more of an event than this hides the next one.
_DATA_WIDTH: Final = 160

AgentId = Annotated[
    str,
    typer.Argument(
        metavar="AGENT", help="Its id, or towns/T/agents/A.", show_default=False
    ),
]


@connected
def message(
    session: Session,
    agent: AgentId,
    text: Annotated[
        str, typer.Argument(help="What to say; - reads it.", show_default=False)
    ],
    message_id: Annotated[
        str | None, typer.Option("--id", help="The same id twice is one message.")
    ] = None,
    model: Annotated[str, typer.Option(help="Model for this turn.")] = "",
    wait: Annotated[
        bool, typer.Option("--wait", help="Until its turn is over and saved.")
    ] = False,
    wait_limit: Annotated[str, typer.Option(help="How long to wait.")] = "10m",
) -> None:
    """Say something to an agent; done means that it is accepted and never lost.

    Example: townkeeper agents message mayor "What is next?" --wait
    """
    name, limit_s = session.agent(agent), seconds(wait_limit, "--wait-limit")
    request = registry_pb2.EnqueueMessageRequest(
        parent=str(name),
        message_id=message_id or uuid.uuid4().hex,
        text=sys.stdin.read() if text == "-" else text,
        model=model,
    )
    accepted = session.registry().EnqueueMessage(request).message
    settled = accepted
    if wait:
        with session.out.working(f"{name.agent} is at it"):
            settled = _settled(session, accepted, limit_s)
    if session.out.as_json:
        session.out.json(plain(settled))
        return
    session.out.facts(
        message=settled.name,
        state=word(Message.State, settled.state),
        generation=settled.generation,
    )


def _settled(session: Session, accepted: Message, limit_s: float) -> Message:
    """The message when it has left the inbox."""
    stub, deadline = session.registry(), time.monotonic() + limit_s
    request = registry_pb2.ListMessagesRequest(
        parent=accepted.name.rpartition("/messages/")[0], page_size=_PAGE
    )
    while True:
        answer = stub.ListMessages(request)
        found = next(
            (one for one in answer.messages if one.name == accepted.name), None
        )
        if found is not None and found.state != Message.STATE_PENDING:
            return found
        if found is None and answer.next_page_token:
            request.page_token = answer.next_page_token
            continue
        if time.monotonic() > deadline:
            raise Problem(
                f"cannot see the end of its turn within {limit_s:g} s: the message "
                f"{accepted.name} stays accepted; look again later",
                Exit.FAILED,
            )
        time.sleep(_LOOK_EVERY_S)


@connected
def watch(
    session: Session,
    agent: Annotated[
        str | None,
        typer.Argument(
            metavar="[AGENT]", help="Its id, or towns/T/agents/A; else the town's."
        ),
    ] = None,
    follow: Annotated[
        bool, typer.Option(help="Go on with what is new, until Ctrl-C.")
    ] = True,
    resume_token: Annotated[
        str, typer.Option(help="Go on after what was seen before.")
    ] = "",
) -> None:
    """Print what happens in an agent, the events that are kept first.

    Without an agent: print the agents of the town, then what changes in them.

    Example: townkeeper agents watch mayor --no-follow --json

    Example: townkeeper agents watch --json
    """
    if agent is None:
        watch_town(session, follow=follow, resume_token=resume_token)
        return
    name = session.agent(agent)
    request = supervisor_pb2.WatchEventsRequest(
        parent=str(name), resume_token=resume_token, kept_only=not follow
    )
    for answer in session.supervisor_of(name).WatchEvents(request):
        if session.out.as_json:
            session.out.json_line(plain(answer))
            continue
        data = json.dumps(MessageToDict(answer.event.data), ensure_ascii=False)
        if len(data) > _DATA_WIDTH:
            data = data[: _DATA_WIDTH - 1] + "…"
        when = moment(answer.event.event_time)
        session.out.line(f"{when}  {answer.event.type}  {data}")


@connected
def logs(
    session: Session,
    agent: AgentId,
    follow: Annotated[
        bool, typer.Option("--follow", help="Go on with new output, until Ctrl-C.")
    ] = False,
    limit: Annotated[
        int,
        typer.Option("--bytes", min=0, help="Most bytes of earlier output; 0: all."),
    ] = 0,
) -> None:
    """Print what an agent's process has printed.

    Example: townkeeper agents logs mayor --follow
    """
    name = session.agent(agent)
    request = supervisor_pb2.TailOutputRequest(
        name=str(name), limit=limit, follow=follow
    )
    for answer in session.supervisor_of(name).TailOutput(request):
        if session.out.as_json:
            text = answer.data.decode("utf-8", "replace")
            session.out.json_line({"offset": answer.offset, "text": text})
        else:
            sys.stdout.buffer.write(answer.data)
            sys.stdout.buffer.flush()
