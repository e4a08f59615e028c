"""Start requests and list entries: JSON into specs and back."""

from __future__ import annotations

import json
from dataclasses import fields, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.chassis.errors import Reason, ServiceError
from services.registry.entries import (
    parse_entries,
    read_entry,
    request_from_spec,
    spec_from_request,
    stored_spec,
)
from services.registry.specs import (
    AgentSpec,
    Resume,
    RigRef,
    Role,
    Runtime,
    problems_of,
)
from tests.support.registry_samples import EXEC_SPEC, SPEC, entry_json, request
from tests.support.tokens import OTHER_AGENT

FULL = AgentSpec(
    rig_id="rig-1",
    role=Role.POLECAT,
    display_name="Toast",
    identity="toast",
    prompt="Begin.\n",
    model="kilo/auto",
    small_model="kilo/small",
    system_prompt="Be kind.",
    git_url="https://example.org/r.git",
    branch="polecat/toast",
    default_branch="main",
    env_vars={"A": "1"},
    platform_integration_id="p-1",
    start_point="abc",
    lightweight=True,
    organization_id="o-1",
    rigs=(RigRef("rig-2", "https://example.org/2.git", "main", "p-2"),),
    runtime=Runtime.EXEC,
    command=("/bin/agent", "--fast"),
    database="state/agent.db",
    resume=Resume.LATEST,
)


class TestSpecFromRequest:
    def test_reads_every_key_of_the_original(self):
        """Each key of a StartAgentRequest has its field."""
        assert FULL == spec_from_request(
            {
                "agentId": "a",
                "townId": "t",
                "rigId": "rig-1",
                "role": "polecat",
                "name": "Toast",
                "identity": "toast",
                "prompt": "Begin.\n",
                "model": "kilo/auto",
                "smallModel": "kilo/small",
                "systemPrompt": "Be kind.",
                "gitUrl": "https://example.org/r.git",
                "branch": "polecat/toast",
                "defaultBranch": "main",
                "envVars": {"A": "1"},
                "platformIntegrationId": "p-1",
                "startPoint": "abc",
                "lightweight": True,
                "organizationId": "o-1",
                "rigs": [
                    {
                        "rigId": "rig-2",
                        "gitUrl": "https://example.org/2.git",
                        "defaultBranch": "main",
                        "platformIntegrationId": "p-2",
                    }
                ],
                "runtime": "exec",
                "command": ["/bin/agent", "--fast"],
                "database": "state/agent.db",
                "resume": "latest",
                "somethingNew": {"we": "pass over"},
            }
        )

    def test_takes_null_for_absent_and_keeps_every_variable(self):
        """Workers send both with every start; the supervisor knows which to use."""
        variables = {"GASTOWN_TOWN_ID": "t", "A": "1"}
        spec = spec_from_request(request(smallModel=None, rigs=None, envVars=variables))

        assert ("", (), variables) == (spec.small_model, spec.rigs, spec.env_vars)

    @pytest.mark.parametrize(
        ("changes", "wrong"),
        [
            pytest.param({"role": "wizard"}, "request.role", id="unknown role"),
            pytest.param({"role": 1}, "request.role", id="role as number"),
            pytest.param({"role": ["mayor"]}, "request.role", id="role as list"),
            pytest.param({"role": ""}, "request.role", id="no role"),
            pytest.param({"runtime": "vi"}, "request.runtime", id="unknown runtime"),
            pytest.param({"resume": "never"}, "request.resume", id="unknown resume"),
            pytest.param({"name": 5}, "request.name", id="number as text"),
            pytest.param({"model": "\ud800"}, "request.model", id="half a character"),
            pytest.param({"envVars": []}, "request.envVars", id="variables as list"),
            pytest.param({"envVars": {"A": 1}}, "request.envVars", id="number in it"),
            pytest.param({"lightweight": "yes"}, "request.lightweight", id="no bool"),
            pytest.param({"rigs": {}}, "request.rigs", id="rigs as object"),
            pytest.param({"rigs": [1]}, "request.rigs", id="rig as number"),
            pytest.param({"rigs": [{"rigId": 1}]}, "request.rigs", id="rig id"),
            pytest.param({"command": "ls"}, "request.command", id="command as text"),
            pytest.param({"gitUrl": None}, "request.gitUrl", id="incomplete"),
            pytest.param(
                {"startPoint": "-x"}, "request.startPoint", id="camel case in problems"
            ),
            pytest.param(
                {"envVars": {"A B": ""}}, "request.envVars.A B", id="name of variable"
            ),
        ],
    )
    def test_names_what_is_wrong(self, changes, wrong):
        """By its key in the request."""
        with pytest.raises(ServiceError) as refused:
            spec_from_request(request(**changes))

        assert wrong == refused.value.metadata["field"]
        assert Reason.FIELD_INVALID is refused.value.reason

    def test_names_everything_that_is_wrong(self):
        """One refusal is enough to mend the request."""
        with pytest.raises(ServiceError) as refused:
            spec_from_request(request(role="wizard", branch=None, lightweight=1))

        assert {"request.role", "request.branch", "request.lightweight"} == set(
            refused.value.metadata["fields"].split(",")
        )


texts = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20
)
specs = st.builds(
    AgentSpec,
    **{each.name: texts for each in fields(AgentSpec) if each.type == "str"},
    role=st.sampled_from(Role),
    env_vars=st.dictionaries(texts.filter(lambda name: name.islower()), texts),
    lightweight=st.booleans(),
    rigs=st.lists(st.builds(RigRef, texts, texts, texts, texts)).map(tuple),
    runtime=st.sampled_from(Runtime),
    command=st.lists(texts, min_size=0).map(tuple),
    resume=st.sampled_from(Resume),
)


class TestStored:
    @given(specs)
    def test_a_spec_comes_back_as_it_was_stored(self, spec):
        """Whatever it holds, complete or not."""
        assert spec == stored_spec(json.dumps(request_from_spec(spec)))

    @pytest.mark.parametrize("spec", [SPEC, FULL, EXEC_SPEC])
    def test_a_complete_spec_is_a_complete_request(self, spec):
        """The two forms say the same."""
        assert [] == list(problems_of(spec))
        assert spec == spec_from_request(request_from_spec(spec))

    def test_what_is_not_set_is_left_out(self):
        """An empty spec is an empty request."""
        assert {} == request_from_spec(AgentSpec())


class TestEntries:
    def test_are_read_in_order_with_their_texts(self):
        """The text is what is kept; the spec is what it means."""
        written = [entry_json("b"), entry_json("a")]

        parsed = parse_entries(written)

        assert written == [entry.text for entry in parsed]
        assert ["b", "a"] == [entry.agent for entry in parsed]
        assert spec_from_request(request("b")) == parsed[0].spec

    @pytest.mark.parametrize("number", ["1" * 6000, "1e999", "-0", "1.10"])
    def test_numbers_are_left_alone(self, number):
        """Whatever a number looks like, the entry holding it is taken as text."""
        text = entry_json().replace("{", '{"n": ' + number + ", ", 1)

        (entry,) = parse_entries([text])

        assert text == entry.text
        assert entry == read_entry(text)

    @pytest.mark.parametrize(
        ("changes", "why"),
        [
            pytest.param({"request": {}}, "request.rigId", id="empty"),
            pytest.param({"request": request("other")}, "agentId", id="other agent"),
            pytest.param(
                {"request": request(role="wizard")}, "request.role", id="role"
            ),
        ],
    )
    def test_a_request_that_is_not_understood_says_why(self, changes, why):
        """The entry is taken all the same."""
        (entry,) = parse_entries([entry_json(OTHER_AGENT, **changes)])

        assert entry.spec is None
        assert why in entry.problem

    def test_a_request_need_not_repeat_the_agent(self):
        """The entry says whose it is."""
        spoken = request()
        del spoken["agentId"]

        (entry,) = parse_entries([entry_json(request=spoken)])

        assert spec_from_request(request()) == entry.spec

    def test_a_model_change_is_another_spec(self):
        """Specs compare by what they say."""
        assert spec_from_request(request()) != replace(
            spec_from_request(request()), model="kilo/other"
        )
