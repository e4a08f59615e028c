"""Start requests and specs, back and forth."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.gateway import transcode
from services.gateway.json_body import Fields
from townkeeper.registry.v1 import resources_pb2 as registry
from townkeeper.supervisor.v1 import resources_pb2 as supervisor

TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8)
REQUESTS = st.fixed_dictionaries(
    {name: TEXT for name in transcode.TEXTS},
    optional={
        "role": st.sampled_from(list(transcode.ROLES)),
        "runtime": st.sampled_from(list(transcode.RUNTIMES)),
        "resume": st.sampled_from(list(transcode.RESUMES)),
        "envVars": st.dictionaries(TEXT, TEXT, min_size=1),
        "command": st.lists(TEXT, min_size=1),
        "lightweight": st.just(True),
        "rigs": st.lists(st.fixed_dictionaries({"rigId": TEXT}), min_size=1),
    },
)


@given(REQUESTS)
def test_a_request_survives_the_way_there_and_back(request: dict[str, Any]):
    """Nothing of it is lost or invented."""
    fields = Fields(request)

    spec = transcode.spec_from_json(fields)

    fields.done()
    back = transcode.spec_to_json(spec, "a", "t")
    assert {**request, "agentId": "a", "townId": "t"} == back


def test_every_field_of_a_spec_can_be_sent():
    """A field added to the proto is missing here until somebody thinks about it."""
    known = {
        *transcode.TEXTS.values(),
        *("role", "runtime", "resume", "env_vars", "command", "lightweight", "rigs"),
    }

    assert {field.name for field in registry.AgentSpec.DESCRIPTOR.fields} == known


@pytest.mark.parametrize("state", supervisor.Run.State.values())
def test_every_state_of_a_run_has_a_word(state: int):
    """One of the original's five."""
    run = supervisor.Run(state=state)  # type: ignore[arg-type]

    words = {"starting", "running", "stopping", "exited", "failed"}
    assert transcode.run_status(run) in words


def test_entries_of_a_list_stay_as_they_are():
    """Beside those composed from a spec."""
    kept = '{"agentId" : "a", "n":1.0}'
    agents = [
        registry.Agent(name="towns/t/agents/a", entry_json=kept),
        registry.Agent(name="towns/t/agents/b"),
    ]

    text = transcode.entries_to_json(agents).decode()

    assert kept in text
    entries = json.loads(text)["data"]
    assert ["a", "b"] == [entry["agentId"] for entry in entries]
    assert {"agentId", "request", "workdir", "env"} == entries[1].keys()


@pytest.mark.parametrize(
    ("given", "shown"),
    [(1.0, "1"), (1.5, "1.5"), (2.0**60, str(2.0**60)), (float("inf"), "null")],
)
def test_numbers_of_events(given: float, shown: str):
    """Whole ones as whole; what JSON cannot say as null."""
    event = supervisor.Event()
    event.data.update({"n": given})

    assert f'{{"n": {shown}}}' == json.dumps(transcode.event_to_json(event)["data"])


def test_a_mayor_is_a_mayor():
    """Role and rig are not asked for."""
    fields = Fields({"rigId": "own"})

    assert registry.ROLE_MAYOR == transcode.mayor_spec(fields, "t").role
    assert "own" == transcode.mayor_spec(fields, "t").rig_id
    assert "mayor-t" == transcode.mayor_spec(Fields({}), "t").rig_id
