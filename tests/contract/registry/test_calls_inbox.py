"""Calls about messages, over a real port."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import pytest

from services.chassis.auth import Kind
from services.chassis.errors import Reason, ServiceError
from services.registry.hints import HINTS_MAX, Handed, Offered
from services.registry.inbox import TEXT_BYTES_MAX
from tests.contract.registry.test_policy import METHODS, outcome, request_about
from tests.support.registry_samples import (
    ADDRESS,
    BOOT,
    FIRST,
    MAYOR,
    OTHER_BOOT,
    POLECAT,
    SPEC,
    message,
)
from tests.support.registry_server import Registry, refused
from tests.support.tokens import TOWN
from townkeeper.registry.v1 import registry_pb2 as pb
from townkeeper.registry.v1 import resources_pb2 as resources

PARENT = f"towns/{TOWN}"
PENDING = resources.Message.STATE_PENDING
DELIVERED = resources.Message.STATE_DELIVERED
INTERRUPTED = resources.Message.STATE_INTERRUPTED


def enqueue(text: str = "Hello", **options: Any) -> Any:
    return pb.EnqueueMessageRequest(
        **{"parent": str(MAYOR), "message_id": "m-1", "text": text, **options}
    )


def acknowledge(**options: Any) -> Any:
    given = {
        "name": str(message("m-1")),
        "epoch": 1,
        "instance": str(FIRST),
        "boot_id": BOOT,
        "generation": 5,
        "outcome": DELIVERED,
    }
    return pb.AcknowledgeMessageRequest(**{**given, **options})


@pytest.fixture
async def inbox(registry: Registry, stub: Any) -> Any:
    """A stub; one agent, held with epoch 1."""
    await registry.store.register_agent(MAYOR, SPEC)
    await registry.store.register_instance(FIRST, BOOT, ADDRESS)
    await registry.store.claim(FIRST, BOOT)
    return stub


class TestEnqueue:
    @pytest.mark.parametrize("kind", sorted(set(Kind) - {Kind.SERVICE}))
    async def test_answers_with_the_message_as_accepted(self, registry, inbox, kind):
        """Whoever may send one; the same again is the same message."""
        stub = registry.stub(kind)
        first = await stub.EnqueueMessage(enqueue(model="a/b"))
        again = await stub.EnqueueMessage(enqueue(model="a/b"))

        assert (True, False) == (first.created, again.created)
        assert first.message == again.message
        assert (str(message("m-1")), "Hello", "a/b", PENDING, 1) == (
            first.message.name,
            first.message.text,
            first.message.model,
            first.message.state,
            first.message.sequence,
        )
        assert first.message.HasField("accept_time")
        assert not first.message.HasField("acknowledge_time")

    async def test_chooses_an_id_where_none_is_given(self, inbox):
        """Two without one are two messages."""
        names = {
            (await inbox.EnqueueMessage(enqueue(message_id=""))).message.name
            for _ in range(2)
        }

        assert 2 == len(names)

    @pytest.mark.parametrize(
        ("asked", "reason"),
        [
            pytest.param(enqueue(""), Reason.FIELD_REQUIRED, id="no text"),
            pytest.param(
                enqueue("x" * (TEXT_BYTES_MAX + 1)),
                Reason.MESSAGE_TOO_LARGE,
                id="too large",
            ),
            pytest.param(
                enqueue("\u00fc" * (TEXT_BYTES_MAX // 2 + 1)),
                Reason.MESSAGE_TOO_LARGE,
                id="too large in bytes",
            ),
            pytest.param(
                enqueue(message_id="a/b"), Reason.NAME_MALFORMED, id="message id"
            ),
            pytest.param(
                enqueue(parent=PARENT), Reason.NAME_MALFORMED, id="town as parent"
            ),
            pytest.param(enqueue(model="a\nb"), Reason.FIELD_INVALID, id="model"),
            pytest.param(
                enqueue(parent=str(POLECAT)), Reason.AGENT_NOT_FOUND, id="no agent"
            ),
        ],
    )
    async def test_refuses(self, inbox, asked, reason):
        """And accepts nothing."""
        assert reason is (await refused(inbox.EnqueueMessage(asked))).reason
        listed = await inbox.ListMessages(pb.ListMessagesRequest(parent=str(MAYOR)))
        assert [] == list(listed.messages)

    async def test_takes_the_largest_text(self, inbox):
        """The limit itself is allowed, and comes back whole."""
        text = "x" * TEXT_BYTES_MAX

        await inbox.EnqueueMessage(enqueue(text))

        listed = await inbox.ListMessages(pb.ListMessagesRequest(parent=str(MAYOR)))
        assert [text] == [each.text for each in listed.messages]

    async def test_refuses_another_content_under_the_id(self, inbox):
        """One id is one message."""
        await inbox.EnqueueMessage(enqueue())

        error = await refused(inbox.EnqueueMessage(enqueue("Other")))

        assert (Reason.MESSAGE_REUSED, "ALREADY_EXISTS") == (
            error.reason,
            error.code.name,
        )


class TestList:
    async def test_pages_and_filters(self, inbox):
        """Oldest first; a token is of the list that it came from."""
        for name in ("c", "b", "a"):
            await inbox.EnqueueMessage(enqueue(message_id=name))
        await inbox.AcknowledgeMessage(acknowledge(name=str(message("c"))))
        asked = pb.ListMessagesRequest(parent=str(MAYOR), page_size=1, state=PENDING)

        first = await inbox.ListMessages(asked)
        asked.page_token = first.next_page_token
        second = await inbox.ListMessages(asked)
        asked.state = DELIVERED
        foreign = await refused(inbox.ListMessages(asked))

        names = [each.name for each in [*first.messages, *second.messages]]
        assert [str(message("b")), str(message("a"))] == names
        assert "" == second.next_page_token
        assert (Reason.FIELD_INVALID, "page_token") == (
            foreign.reason,
            foreign.metadata["field"],
        )

    @pytest.mark.parametrize(("field", "value"), [("page_size", -1), ("state", 99)])
    async def test_refuses_bad_fields(self, inbox, field, value):
        """Numbers that mean nothing are no filters."""
        asked = pb.ListMessagesRequest(**{"parent": str(MAYOR), field: value})

        error = await refused(inbox.ListMessages(asked))

        assert (Reason.FIELD_INVALID, field) == (error.reason, error.metadata["field"])

    async def test_refuses_an_agent_that_is_not_there(self, inbox):
        """It has no inbox."""
        asked = pb.ListMessagesRequest(parent=str(POLECAT))

        assert (
            Reason.AGENT_NOT_FOUND is (await refused(inbox.ListMessages(asked))).reason
        )


class TestAcknowledge:
    @pytest.mark.parametrize("how", [DELIVERED, INTERRUPTED])
    @pytest.mark.parametrize("who", [str(FIRST), FIRST.instance], ids=["name", "id"])
    async def test_settles_the_message(self, inbox, how, who):
        """With the generation that proves it; the same again answers the same."""
        await inbox.EnqueueMessage(enqueue())

        first = await inbox.AcknowledgeMessage(acknowledge(outcome=how, instance=who))
        again = await inbox.AcknowledgeMessage(acknowledge(outcome=how, instance=who))

        assert first == again
        assert (how, 5, True) == (
            first.message.state,
            first.message.generation,
            first.message.HasField("acknowledge_time"),
        )

    @pytest.mark.parametrize(
        ("asked", "reason"),
        [
            pytest.param(acknowledge(outcome=0), Reason.FIELD_REQUIRED, id="none"),
            pytest.param(
                acknowledge(outcome=PENDING), Reason.FIELD_INVALID, id="pending"
            ),
            pytest.param(acknowledge(outcome=9), Reason.FIELD_INVALID, id="unknown"),
            pytest.param(acknowledge(boot_id=""), Reason.FIELD_REQUIRED, id="no boot"),
            pytest.param(
                acknowledge(instance=""), Reason.NAME_MALFORMED, id="no instance"
            ),
            pytest.param(
                acknowledge(generation=0), Reason.FIELD_REQUIRED, id="no generation"
            ),
            pytest.param(
                acknowledge(generation=-1), Reason.FIELD_INVALID, id="generation"
            ),
            pytest.param(acknowledge(epoch=7), Reason.LEASE_FENCED, id="epoch"),
            pytest.param(
                acknowledge(boot_id=OTHER_BOOT), Reason.LEASE_FENCED, id="boot"
            ),
            pytest.param(
                acknowledge(name=str(message("m-2"))),
                Reason.MESSAGE_NOT_FOUND,
                id="no message",
            ),
            pytest.param(
                acknowledge(name=str(MAYOR)), Reason.NAME_MALFORMED, id="agent's name"
            ),
        ],
    )
    async def test_refuses(self, inbox, asked, reason):
        """The message stays where it is."""
        await inbox.EnqueueMessage(enqueue())

        assert reason is (await refused(inbox.AcknowledgeMessage(asked))).reason
        listed = await inbox.ListMessages(pb.ListMessagesRequest(parent=str(MAYOR)))
        assert [PENDING] == [each.state for each in listed.messages]


class TestWatch:
    def watch(self, stub: Any) -> Any:
        return stub.WatchMessages(pb.WatchMessagesRequest(parent=PARENT))

    async def hint(self, call: Any) -> str:
        async with asyncio.timeout(5):
            return str((await call.read()).agent)

    async def test_names_all_that_wait_then_each_new_one(self, registry, inbox):
        """An empty hint stands between the two."""
        await registry.store.register_agent(POLECAT, SPEC)
        await inbox.EnqueueMessage(enqueue(parent=str(POLECAT)))
        call = self.watch(inbox)

        first = [await self.hint(call), await self.hint(call)]
        await inbox.EnqueueMessage(enqueue())

        assert [str(POLECAT), ""] == first
        assert str(MAYOR) == await self.hint(call)

    async def test_names_who_was_handed_leases(self, registry, inbox):
        """No agent then."""
        call = self.watch(inbox)
        assert "" == await self.hint(call)
        registry.store.watchers.tell(TOWN, Handed("two"))

        async with asyncio.timeout(5):
            hint = await call.read()
        assert pb.WatchMessagesResponse(instance=f"{PARENT}/instances/two") == hint

    async def test_says_that_leases_are_on_offer(self, registry, inbox):
        """To all, so without a name."""
        call = self.watch(inbox)
        assert "" == await self.hint(call)
        registry.store.watchers.tell(TOWN, Offered())

        async with asyncio.timeout(5):
            hint = await call.read()
        assert pb.WatchMessagesResponse(claimable=True) == hint

    async def test_names_all_again_when_hints_were_lost(self, registry, inbox):
        """After the store came back, whoever waits is named once more."""
        call = self.watch(inbox)
        assert "" == await self.hint(call)
        told, registry.store.watchers.tell = registry.store.watchers.tell, _lost
        await inbox.EnqueueMessage(enqueue())
        registry.store.watchers.tell = told

        registry.store.watchers.missed()

        assert str(MAYOR) == await self.hint(call)

    async def test_drops_a_watcher_that_does_not_read(self, registry, inbox):
        """It is told why, and watches again."""
        call = self.watch(inbox)
        assert "" == await self.hint(call)
        for index in range(HINTS_MAX + 1):
            registry.store.watchers.tell(TOWN, f"agent-{index}")

        error = await refused(_last(call))
        assert Reason.WATCHER_TOO_SLOW is error.reason

    async def test_ends_when_the_server_stops(self, registry, inbox):
        """A watch keeps no server from stopping."""
        call = self.watch(inbox)
        assert "" == await self.hint(call)

        await registry.server.server.stop(grace_s=5)

        error = await refused(call.read())
        assert Reason.SHUTTING_DOWN is error.reason


async def _last(call: Any) -> Any:
    """Reads until the stream ends."""
    while (read := await call.read()) is not grpc.aio.EOF:
        last = read
    return last


def _lost(town: str, agent: str) -> None:
    """A hint that nobody hears."""


SERVED = [
    method
    for method in METHODS
    if method
    not in {
        # These ask no store while they are answered.
        "GetPublicKeys",
        "IssueContainerToken",
        "WatchRevocations",
    }
]


@pytest.mark.parametrize("method", SERVED)
async def test_a_store_that_is_away_is_said_to_be(registry, method):
    """Every call answers UNAVAILABLE, which is safe to repeat, and none crashes."""
    registry.store.failure = ServiceError(
        Reason.STORE_UNAVAILABLE, "cannot reach the store: try again soon"
    )
    asked = request_about(method)
    complete: dict[str, Any] = {
        "RegisterAgent": {"spec": {"rig_id": "r", "role": 1, "lightweight": True}},
        "UpdateAgent": {"update_mask": {"paths": ["spec.model"]}},
        "RegisterInstance": {"address": ADDRESS},
        "ConfirmReady": {"nonce": "n"},
        "EnqueueMessage": {"text": "Hello"},
        "EnqueueNudge": {"nudge": {"text": "Hello"}},
        "AppendAgentEvent": {"event": {"type": "said"}},
        "ReportAgent": {"heartbeat": {}},
        "IssueAgentToken": {"instance": str(FIRST), "run": "r"},
        "AcknowledgeMessage": {"outcome": DELIVERED, "instance": str(FIRST)},
    }
    asked.MergeFrom(type(asked)(**complete.get(method, {})))

    assert Reason.STORE_UNAVAILABLE is await outcome(registry.stub(), method, asked)
