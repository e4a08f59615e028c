"""Calls about records, over a real port: answers and every refusal."""

from __future__ import annotations

from typing import Any

import pytest
from google.protobuf.field_mask_pb2 import FieldMask

from services.chassis.auth import Kind
from services.chassis.errors import Reason
from services.registry import wire
from services.registry.specs import PROMPT_BYTES_MAX
from tests.support.registry_samples import (
    ADDRESS,
    BOOT,
    FIRST,
    MAYOR,
    OTHER_SPEC,
    POLECAT,
    SPEC,
    entries,
    entry_json,
)
from tests.support.registry_server import Registry, refused
from tests.support.tokens import TOWN
from townkeeper.registry.v1 import registry_pb2 as pb
from townkeeper.registry.v1 import resources_pb2 as resources

PARENT = f"towns/{TOWN}"
SPEC_MESSAGE = wire.spec_to_proto(SPEC, reveal=True)


def register(spec: resources.AgentSpec = SPEC_MESSAGE, **options: Any) -> Any:
    return pb.RegisterAgentRequest(name=str(MAYOR), spec=spec, **options)


def changed(**values: Any) -> resources.AgentSpec:
    """The sample spec, with fields replaced."""
    spec = resources.AgentSpec()
    spec.CopyFrom(SPEC_MESSAGE)
    for name, value in values.items():
        spec.ClearField(name)  # type: ignore[arg-type]
        spec.MergeFrom(resources.AgentSpec(**{name: value}))
    return spec


class TestRegister:
    async def test_answers_with_the_record_as_stored(self, stub):
        """All of the spec is there, and it is found again."""
        made = (await stub.RegisterAgent(register())).agent

        found = (await stub.GetAgent(pb.GetAgentRequest(name=str(MAYOR)))).agent
        assert made == found
        assert SPEC_MESSAGE == found.spec
        assert (str(MAYOR), resources.Agent.STATE_ACTIVE) == (found.name, found.state)
        assert found.HasField("create_time")
        assert not found.HasField("lease")

    async def test_names_every_missing_field_at_once(self, stub):
        """One refusal is enough to mend the request."""
        error = await refused(stub.RegisterAgent(register(resources.AgentSpec())))

        assert Reason.FIELD_REQUIRED is error.reason
        assert "spec.rig_id" == error.metadata["field"]
        assert {
            "spec.rig_id",
            "spec.role",
            "spec.model",
            "spec.git_url",
            "spec.branch",
        } == set(error.metadata["fields"].split(","))

    @pytest.mark.parametrize(
        ("field", "spec"),
        [
            pytest.param("spec.role", changed(role=77), id="unknown role"),
            pytest.param("spec.runtime", changed(runtime=9), id="unknown runtime"),
            pytest.param("spec.resume", changed(resume=-1), id="unknown resume"),
            pytest.param("spec.rig_id", changed(rig_id="a/b"), id="rig id"),
            pytest.param(
                "spec.env_vars.A-B", changed(env_vars={"A-B": "/"}), id="variable"
            ),
            pytest.param("spec.command", changed(command=["x"]), id="command"),
            pytest.param(
                "spec.prompt", changed(prompt="x" * (PROMPT_BYTES_MAX + 1)), id="size"
            ),
        ],
    )
    async def test_refuses_a_bad_field(self, stub, field, spec):
        """It is named, and nothing is stored."""
        error = await refused(stub.RegisterAgent(register(spec)))

        assert (Reason.FIELD_INVALID, field) == (error.reason, error.metadata["field"])
        absent = await refused(stub.GetAgent(pb.GetAgentRequest(name=str(MAYOR))))
        assert Reason.AGENT_NOT_FOUND is absent.reason

    async def test_refuses_a_stale_etag(self, stub):
        """The caller reads again."""
        error = await refused(stub.RegisterAgent(register(etag="77")))

        assert Reason.ETAG_MISMATCH is error.reason

    async def test_repeats_by_request_id(self, stub):
        """The same id answers as the first did; another request under it is refused."""
        first = await stub.RegisterAgent(register(request_id="r-1"))
        await stub.RegisterAgent(register(changed(model="kilo/other")))

        again = await stub.RegisterAgent(register(request_id="r-1"))
        other = register(changed(model="kilo/third"), request_id="r-1")
        error = await refused(stub.RegisterAgent(other))

        assert first == again
        assert ("request_id", Reason.FIELD_INVALID) == (
            error.metadata["field"],
            error.reason,
        )

    @pytest.mark.parametrize(
        "bad",
        [
            pytest.param({"request_id": "no spaces"}, id="request id"),
            pytest.param({"name": f"{PARENT}/agents/.."}, id="agent id"),
            pytest.param({"name": PARENT}, id="town"),
        ],
    )
    async def test_refuses_malformed_names(self, stub, bad):
        """Names and ids have one form."""
        asked = pb.RegisterAgentRequest(
            **{"name": str(MAYOR), "spec": SPEC_MESSAGE, **bad}
        )

        error = await refused(stub.RegisterAgent(asked))

        assert Reason.NAME_MALFORMED is error.reason


class TestVisibility:
    @pytest.mark.parametrize(
        ("kind", "shown"),
        [
            (Kind.CONTAINER, True),
            (Kind.AGENT, False),
            (Kind.USER, False),
            (Kind.OPERATOR, False),
        ],
    )
    async def test_values_are_for_containers(self, registry: Registry, kind, shown):
        """All others see which variables there are, and no entry of a list."""
        await registry.store.replace_agents(TOWN, entries(entry_json(MAYOR.agent)))

        asked = pb.GetAgentRequest(name=str(MAYOR))
        agent = (await registry.stub(kind).GetAgent(asked)).agent

        variables = {"GIT_TOKEN": "s3cret", "GASTOWN_TOWN_ID": TOWN}
        seen = variables if shown else dict.fromkeys(variables, "")
        assert seen == dict(agent.spec.env_vars)
        assert shown == bool(agent.entry_json)

    @pytest.mark.parametrize("kind", [Kind.USER, Kind.OPERATOR])
    async def test_values_show_in_no_other_answer(self, registry: Registry, kind):
        """Neither in lists nor in what a change answers."""
        await registry.store.replace_agents(TOWN, entries(entry_json("a")))
        stub = registry.stub(kind)
        update = pb.UpdateAgentRequest(
            agent=resources.Agent(
                name=str(MAYOR), spec=resources.AgentSpec(model="kilo/new")
            ),
            update_mask=FieldMask(paths=["spec.model"]),
        )

        answers = [
            await stub.RegisterAgent(register()),
            await stub.UpdateAgent(update),
            await stub.ListAgents(pb.ListAgentsRequest(parent=PARENT)),
        ]

        for answer in answers:
            assert "s3cret" not in str(answer)
            assert "workdir" not in str(answer)


class TestList:
    async def test_pages_and_filters(self, registry: Registry, stub):
        """Page by page, until the token is empty."""
        written = [entry_json(name) for name in ("c", "a", "b")]
        await stub.ReplaceAgents(
            pb.ReplaceAgentsRequest(parent=PARENT, entries_json=written)
        )
        await stub.RegisterAgent(register())
        asked = pb.ListAgentsRequest(
            parent=PARENT, page_size=2, role=resources.ROLE_POLECAT
        )

        first = await stub.ListAgents(asked)
        asked.page_token = first.next_page_token
        second = await stub.ListAgents(asked)

        assert written == [each.entry_json for each in [*first.agents, *second.agents]]
        assert ("", 2) == (second.next_page_token, len(first.agents))

    @pytest.mark.parametrize(
        "change",
        [
            pytest.param({"page_token": "bm90IG91cnM"}, id="not ours"),
            pytest.param({"page_token": "!"}, id="no base64"),
            pytest.param({"state": resources.Agent.STATE_ACTIVE}, id="other filter"),
            pytest.param({"parent": "towns/town-2"}, id="other town"),
        ],
    )
    async def test_refuses_foreign_page_tokens(self, registry: Registry, change):
        """A token continues the list it came from and no other."""
        stub = registry.stub(registry.tokens.operator())
        await registry.store.replace_agents(
            TOWN, entries(entry_json("a"), entry_json("b"))
        )
        asked = pb.ListAgentsRequest(parent=PARENT, page_size=1)
        page = await stub.ListAgents(asked)
        asked.page_token = page.next_page_token
        asked.MergeFrom(pb.ListAgentsRequest(**change))

        error = await refused(stub.ListAgents(asked))

        assert ("page_token", Reason.FIELD_INVALID) == (
            error.metadata["field"],
            error.reason,
        )

    @pytest.mark.parametrize(
        ("field", "value"),
        [("page_size", -1), ("state", 99), ("role", 99)],
    )
    async def test_refuses_bad_fields(self, stub, field, value):
        """Numbers that mean nothing are no filters."""
        asked = pb.ListAgentsRequest(**{"parent": PARENT, field: value})

        error = await refused(stub.ListAgents(asked))

        assert (Reason.FIELD_INVALID, field) == (error.reason, error.metadata["field"])


class TestUpdate:
    @pytest.fixture(autouse=True)
    async def registered(self, registry: Registry) -> None:
        await registry.store.register_agent(MAYOR, SPEC)

    def update(self, *paths: str, etag: str = "", **spec: Any) -> Any:
        agent = resources.Agent(
            name=str(MAYOR), etag=etag, spec=resources.AgentSpec(**spec)
        )
        return pb.UpdateAgentRequest(agent=agent, update_mask=FieldMask(paths=paths))

    async def test_changes_what_the_mask_names(self, stub):
        """And nothing else."""
        asked = self.update(
            "spec.model", "spec.system_prompt", model="kilo/new", prompt="ignored"
        )

        agent = (await stub.UpdateAgent(asked)).agent

        assert changed(model="kilo/new") == agent.spec

    @pytest.mark.parametrize(
        ("path", "value"),
        [
            ("model", "kilo/new"),
            ("small_model", "kilo/small"),
            ("system_prompt", "Be brief."),
            ("env_vars", {"A": "1"}),
        ],
    )
    async def test_takes_every_path_of_the_contract(self, stub, path, value):
        """Each alone; an empty value empties the field."""
        filled = await stub.UpdateAgent(self.update(f"spec.{path}", **{path: value}))
        emptied = await stub.UpdateAgent(self.update("spec.system_prompt"))

        assert changed(**{path: value}) == filled.agent.spec
        assert "" == emptied.agent.spec.system_prompt

    async def test_replaces_the_whole_spec(self, stub):
        """`spec` takes all of it."""
        spec = wire.spec_to_proto(OTHER_SPEC, reveal=True)
        asked = pb.UpdateAgentRequest(
            agent=resources.Agent(name=str(MAYOR), spec=spec),
            update_mask=FieldMask(paths=["spec"]),
        )

        assert spec == (await stub.UpdateAgent(asked)).agent.spec

    async def test_an_empty_value_of_one_who_sees_none_keeps_the_stored(
        self, registry: Registry, stub
    ):
        """Reading, changing and writing back destroys no secret."""
        env_vars = {"GIT_TOKEN": "", "NEW": "1"}
        asked = self.update("spec.env_vars", env_vars=env_vars)

        await registry.stub(Kind.USER).UpdateAgent(asked)
        kept = (await stub.GetAgent(pb.GetAgentRequest(name=str(MAYOR)))).agent
        emptied = (await stub.UpdateAgent(asked)).agent

        assert {"GIT_TOKEN": "s3cret", "NEW": "1"} == dict(kept.spec.env_vars)
        assert env_vars == dict(emptied.spec.env_vars)

    @pytest.mark.parametrize(
        ("asked", "reason", "field"),
        [
            pytest.param((), Reason.FIELD_REQUIRED, "update_mask", id="no mask"),
            pytest.param(
                ("state",), Reason.FIELD_INVALID, "update_mask", id="output only"
            ),
            pytest.param(
                ("spec.role",), Reason.FIELD_INVALID, "update_mask", id="fixed"
            ),
            pytest.param(
                ("spec",), Reason.FIELD_REQUIRED, "agent.spec.rig_id", id="incomplete"
            ),
        ],
    )
    async def test_refuses_what_cannot_be_changed(self, stub, asked, reason, field):
        """The record stays as it is."""
        error = await refused(stub.UpdateAgent(self.update(*asked)))

        assert (reason, field) == (error.reason, error.metadata["field"])
        kept = await stub.GetAgent(pb.GetAgentRequest(name=str(MAYOR)))
        assert SPEC_MESSAGE == kept.agent.spec

    async def test_holds_to_the_etag(self, stub):
        """A stale one is refused, the right one is taken."""
        stale = self.update("spec.model", etag="77", model="kilo/new")
        error = await refused(stub.UpdateAgent(stale))
        now = await stub.GetAgent(pb.GetAgentRequest(name=str(MAYOR)))
        good = self.update("spec.model", etag=now.agent.etag, model="kilo/new")

        assert Reason.ETAG_MISMATCH is error.reason
        assert "kilo/new" == (await stub.UpdateAgent(good)).agent.spec.model

    async def test_refuses_an_agent_that_is_not_there(self, stub):
        """There is nothing to change."""
        asked = self.update("spec.model", model="kilo/new")
        asked.agent.name = str(POLECAT)

        error = await refused(stub.UpdateAgent(asked))

        assert Reason.AGENT_NOT_FOUND is error.reason

    async def test_wants_a_whole_spec_where_there_is_none(
        self, registry: Registry, stub
    ):
        """A part of nothing is not enough to start from."""
        broken = entry_json(MAYOR.agent, request={"agentId": MAYOR.agent})
        await registry.store.replace_agents(TOWN, entries(broken))

        error = await refused(
            stub.UpdateAgent(self.update("spec.model", model="kilo/new"))
        )

        assert Reason.FIELD_INVALID is error.reason


class TestDeregister:
    async def test_forgets_the_agent(self, stub):
        """Once; then it is not there."""
        await stub.RegisterAgent(register())
        asked = pb.DeregisterAgentRequest(name=str(MAYOR))

        await stub.DeregisterAgent(asked)

        assert (
            Reason.AGENT_NOT_FOUND
            is (await refused(stub.DeregisterAgent(asked))).reason
        )

    async def test_refuses_stale_etags_and_held_agents(self, registry: Registry, stub):
        """Nothing is forgotten then."""
        await stub.RegisterAgent(register())
        stale = pb.DeregisterAgentRequest(name=str(MAYOR), etag="77")
        assert (
            Reason.ETAG_MISMATCH is (await refused(stub.DeregisterAgent(stale))).reason
        )
        await registry.store.register_instance(FIRST, BOOT, ADDRESS)
        await registry.store.claim(FIRST, BOOT)

        held = await refused(
            stub.DeregisterAgent(pb.DeregisterAgentRequest(name=str(MAYOR)))
        )

        assert (Reason.LEASE_HELD, str(FIRST)) == (held.reason, held.metadata["holder"])
