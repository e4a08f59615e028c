"""Messages and values say the same."""

from __future__ import annotations

from dataclasses import replace

import pytest

from services.registry import wire
from services.registry.specs import Resume, RigRef, Role, Runtime, updated
from tests.support.registry_samples import EXEC_SPEC, SPEC
from townkeeper.registry.v1 import resources_pb2 as resources


@pytest.mark.parametrize("spec", [SPEC, EXEC_SPEC])
def test_specs_survive_the_wire(spec):
    """Into a message and back is the same spec."""
    assert spec == wire.spec_from_proto(wire.spec_to_proto(spec, reveal=True))


def test_every_value_of_an_enum_has_its_word():
    """A new value in the contract must be understood here."""
    assert set(resources.Role.values()) == set(wire.ROLES)
    assert set(resources.Runtime.values()) == set(wire.RUNTIMES)
    assert set(resources.Resume.values()) == set(wire.RESUMES)
    assert set(resources.Agent.State.values()) - {0} == set(wire.STATES)
    assert set(resources.Message.State.values()) - {0} == set(wire.MESSAGE_STATES)
    assert set(resources.Instance.State.values()) - {0} == set(
        wire.INSTANCE_STATES.values()
    )
    for kind, table in (
        (Role, wire.ROLES),
        (Runtime, wire.RUNTIMES),
        (Resume, wire.RESUMES),
    ):
        assert set(kind) == set(table.values())


def test_every_field_of_a_spec_is_carried():
    """A new field in the contract must reach the store."""
    carried = set(resources.AgentSpec.DESCRIPTOR.fields_by_name)

    assert carried == set(type(SPEC).__dataclass_fields__)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://T0KEN@host/r.git", "https://host/r.git"),
        ("https://name:p@ss@host:8443/r.git", "https://host:8443/r.git"),
        ("ssh://git:pass@host/r.git", "ssh://git@host/r.git"),
        ("git@host:r.git", "git@host:r.git"),
        ("https://host/r@v1.git", "https://host/r@v1.git"),
    ],
)
def test_addresses_are_shown_without_their_logins(url, shown):
    """A spec's own and its rigs'; written back so, they mean the stored ones."""
    spec = replace(SPEC, git_url=url, rigs=(RigRef(rig_id="r", git_url=url),))

    message = wire.spec_to_proto(spec, reveal=False)

    assert [shown] * 2 == [message.git_url, message.rigs[0].git_url]
    read = wire.spec_from_proto(message)
    again = updated(spec, read, ["spec"], sees_values=False)
    assert (url, url) == (again.git_url, again.rigs[0].git_url)
