"""`townkeeper agents message|watch|logs`."""

import io
import json
import sys

import pytest
from google.protobuf.struct_pb2 import Struct
from google.protobuf.timestamp_pb2 import Timestamp

from tests.unit.cli.conftest import CommandLine
from townkeeper.registry.v1 import registry_pb2
from townkeeper.registry.v1.resources_pb2 import Message
from townkeeper.supervisor.v1 import supervisor_pb2
from townkeeper.supervisor.v1.resources_pb2 import Event

NAME = "towns/town-1/agents/mayor/messages/m1"


def message(
    state: Message.State.ValueType = Message.STATE_PENDING, name: str = NAME
) -> Message:
    return Message(name=name, state=state, generation=5)


def accepted(**fields: bool) -> registry_pb2.EnqueueMessageResponse:
    return registry_pb2.EnqueueMessageResponse(message=message(), **fields)


def test_a_message_is_sent_with_its_id(townkeeper: CommandLine) -> None:
    """The id that is given makes sending it again safe."""
    townkeeper.services.answers["EnqueueMessage"] = accepted(created=True)

    assert 0 == townkeeper("agents", "message", "mayor", "hello", "--id", "m1")

    request = townkeeper.services.asked(registry_pb2.EnqueueMessageRequest)
    assert ("m1", "hello") == (request.message_id, request.text)
    assert "pending" in townkeeper.out


def test_a_message_without_an_id_gets_one(townkeeper: CommandLine) -> None:
    """Retries below the command are safe as well."""
    townkeeper.services.answers["EnqueueMessage"] = accepted()

    townkeeper("agents", "message", "mayor", "hello")

    assert townkeeper.services.asked(registry_pb2.EnqueueMessageRequest).message_id


def test_a_message_is_read_from_standard_input(
    townkeeper: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A long message can be piped in."""
    townkeeper.services.answers["EnqueueMessage"] = accepted()
    monkeypatch.setattr(sys, "stdin", io.StringIO("two\nlines"))

    townkeeper("agents", "message", "mayor", "-")

    request = townkeeper.services.asked(registry_pb2.EnqueueMessageRequest)
    assert "two\nlines" == request.text


def test_waiting_ends_when_the_message_has_left_the_inbox(
    townkeeper: CommandLine,
) -> None:
    """`--wait` looks through all pages, until the turn is proven over."""
    other = message(Message.STATE_DELIVERED, NAME + "0")
    townkeeper.services.answers["EnqueueMessage"] = accepted()
    townkeeper.services.answers["ListMessages"] = [
        registry_pb2.ListMessagesResponse(messages=[other], next_page_token="2"),
        registry_pb2.ListMessagesResponse(messages=[message()]),
        registry_pb2.ListMessagesResponse(messages=[message(Message.STATE_DELIVERED)]),
    ]

    assert 0 == townkeeper("agents", "message", "mayor", "hi", "--wait", "--json")

    assert "STATE_DELIVERED" == json.loads(townkeeper.out)["state"]


def test_waiting_has_an_end(townkeeper: CommandLine) -> None:
    """A message that stays in the inbox is not waited for without end."""
    townkeeper.services.answers["EnqueueMessage"] = accepted()
    townkeeper.services.answers["ListMessages"] = registry_pb2.ListMessagesResponse(
        messages=[message()]
    )

    assert 1 == townkeeper(
        "agents", "message", "mayor", "hi", "--wait", "--wait-limit", "1ms"
    )

    assert "stays accepted" in townkeeper.err


def seen(number: int, **data: str) -> supervisor_pb2.WatchEventsResponse:
    content = Struct()
    content.update(data)
    return supervisor_pb2.WatchEventsResponse(
        event=Event(
            sequence=number,
            type="agent.saved",
            data=content,
            event_time=Timestamp(seconds=60),
        ),
        resume_token=f"token-{number}",
    )


def test_events_are_one_line_each(townkeeper: CommandLine) -> None:
    """Events are read in order; a long one does not hide the next."""
    townkeeper.services.answers["WatchEvents"] = [seen(1, a="b"), seen(2, a="x" * 999)]

    assert 0 == townkeeper("agents", "watch", "mayor", "--no-follow")

    first, second = townkeeper.out.splitlines()
    assert '1970-01-01 00:01:00Z  agent.saved  {"a": "b"}' == first
    assert 200 > len(second)
    assert townkeeper.services.asked(supervisor_pb2.WatchEventsRequest).kept_only


def test_events_for_programs_are_json_lines(townkeeper: CommandLine) -> None:
    """Each line is a document of its own, with the token to go on from."""
    townkeeper.services.answers["WatchEvents"] = [seen(1), seen(2)]

    assert 0 == townkeeper("agents", "watch", "mayor", "--json", "--resume-token=t")

    lines = [json.loads(line) for line in townkeeper.out.splitlines()]
    assert ["token-1", "token-2"] == [line["resumeToken"] for line in lines]
    asked = townkeeper.services.asked(supervisor_pb2.WatchEventsRequest)
    assert ("t", False) == (asked.resume_token, asked.kept_only)


def test_output_comes_as_it_was_printed(townkeeper: CommandLine) -> None:
    """Bytes of the agent's process are not touched."""
    townkeeper.services.answers["TailOutput"] = [
        supervisor_pb2.TailOutputResponse(data=b"no newline, "),
        supervisor_pb2.TailOutputResponse(data="än ümlaut\n".encode(), offset=12),
    ]

    assert 0 == townkeeper("agents", "logs", "mayor", "--bytes", "99")

    assert "no newline, än ümlaut\n" == townkeeper.out
    assert 99 == townkeeper.services.asked(supervisor_pb2.TailOutputRequest).limit
