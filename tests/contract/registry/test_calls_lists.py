"""Whole-list writes over a real port, and what is not served yet."""

from __future__ import annotations

import json
from typing import Any

import pytest

from services.chassis.errors import Reason
from services.registry.entries import ENTRIES_MAX, ENTRY_BYTES_MAX
from tests.support.registry_samples import (
    ADDRESS,
    BOOT,
    FIRST,
    MAYOR,
    SPEC,
    entry_json,
    request,
)
from tests.support.registry_server import Registry, refused
from tests.support.tokens import TOWN
from townkeeper.registry.v1 import registry_pb2 as pb

PARENT = f"towns/{TOWN}"


def without(key: str) -> str:
    """An entry that lacks one key."""
    entry = json.loads(entry_json("b"))
    del entry[key]
    return json.dumps(entry)


class TestReplace:
    async def replace(self, stub: Any, *texts: str) -> Any:
        asked = pb.ReplaceAgentsRequest(parent=PARENT, entries_json=texts)
        return await stub.ReplaceAgents(asked)

    async def test_reads_back_equal(self, stub):
        """In order, word for word."""
        written = [entry_json("b"), entry_json("a", extra=[1.0, 2])]

        answer = await self.replace(stub, *written)

        listed = await stub.ListAgents(pb.ListAgentsRequest(parent=PARENT))
        assert [] == list(answer.kept)
        assert written == [agent.entry_json for agent in listed.agents]

    async def test_names_what_stays(self, registry: Registry, stub):
        """Agents that a live instance runs are named in full."""
        await registry.store.register_agent(MAYOR, SPEC)
        await registry.store.register_instance(FIRST, BOOT, ADDRESS)
        await registry.store.claim(FIRST, BOOT)

        answer = await self.replace(stub, entry_json("b"))

        assert [str(MAYOR)] == list(answer.kept)

    @pytest.mark.parametrize(
        ("spoiled", "reason", "key"),
        [
            pytest.param("[]", Reason.FIELD_INVALID, "", id="no object"),
            pytest.param("{", Reason.FIELD_INVALID, "", id="no JSON"),
            pytest.param("[" * 5000, Reason.FIELD_INVALID, "", id="too deep"),
            pytest.param('{"agentId": NaN}', Reason.FIELD_INVALID, "", id="NaN"),
            *(
                pytest.param(
                    json.dumps(
                        {
                            k: v
                            for k, v in json.loads(entry_json("b")).items()
                            if k != key
                        }
                    ),
                    Reason.FIELD_REQUIRED,
                    key,
                    id=f"without {key}",
                )
                for key in ("agentId", "request", "workdir", "env")
            ),
            *(
                pytest.param(
                    entry_json("b", **{key: None}),
                    Reason.FIELD_INVALID,
                    key,
                    id=f"null {key}",
                )
                for key in ("agentId", "request", "workdir", "env")
            ),
            pytest.param(
                entry_json("b", env={"A": 1}), Reason.FIELD_INVALID, "env", id="env"
            ),
            pytest.param(
                entry_json("../b"), Reason.FIELD_INVALID, "agentId", id="agent id"
            ),
            pytest.param(entry_json("a"), Reason.FIELD_INVALID, "agentId", id="twice"),
        ],
    )
    async def test_refuses_bad_entries_and_changes_nothing(
        self, stub, spoiled, reason, key
    ):
        """The refusal names the entry by index, and the key."""
        await self.replace(stub, entry_json("old"))

        asked = pb.ReplaceAgentsRequest(
            parent=PARENT, entries_json=[entry_json("a"), spoiled]
        )
        error = await refused(stub.ReplaceAgents(asked))

        field = f"entries_json[1].{key}" if key else "entries_json[1]"
        assert (reason, field, "1") == (
            error.reason,
            error.metadata["field"],
            error.metadata["index"],
        )
        listed = await stub.ListAgents(pb.ListAgentsRequest(parent=PARENT))
        assert [entry_json("old")] == [agent.entry_json for agent in listed.agents]

    @pytest.mark.parametrize(
        "texts",
        [
            pytest.param(["{}"] * (ENTRIES_MAX + 1), id="count"),
            pytest.param([entry_json("a", x="x" * ENTRY_BYTES_MAX)], id="one entry"),
            pytest.param(
                [entry_json(f"a{n}", x="x" * 250_000) for n in range(13)], id="all"
            ),
        ],
    )
    async def test_refuses_lists_that_are_too_large(self, stub, texts):
        """Before anything is read out of them."""
        asked = pb.ReplaceAgentsRequest(parent=PARENT, entries_json=texts)

        error = await refused(stub.ReplaceAgents(asked))

        assert Reason.REQUEST_TOO_LARGE is error.reason

    async def test_keeps_an_entry_that_no_one_could_start(self, stub):
        """It is read back, without a spec and with the reason."""
        await self.replace(stub, entry_json("b", request=request("b", role="wizard")))

        agent = (
            await stub.GetAgent(pb.GetAgentRequest(name=f"{PARENT}/agents/b"))
        ).agent
        assert not agent.HasField("spec")
        assert "request.role" in agent.last_error
