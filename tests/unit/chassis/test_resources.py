"""Which resources a request is about, read from the real contracts."""

from __future__ import annotations

from typing import Any

import pytest

from services.chassis.resources import _fields, resource_names
from townkeeper.registry.v1 import registry_pb2 as registry
from townkeeper.registry.v1 import resources_pb2 as resources
from townkeeper.snapshots.v1 import snapshots_pb2 as snapshots
from townkeeper.supervisor.v1 import supervisor_pb2 as supervisor

A = "towns/t/agents/a"
B = "towns/t/agents/b"
I = "towns/t/instances/i"  # noqa: E741  beside A and B it reads well


@pytest.mark.parametrize(
    ("request_", "names"),
    [
        (registry.GetAgentRequest(name=A), [A]),
        (registry.ListAgentsRequest(parent="towns/t"), ["towns/t"]),
        (registry.UpdateAgentRequest(agent=resources.Agent(name=A)), [A]),
        (registry.ClaimAgentsRequest(instance=I, agents=[A, B]), [I, A, B]),
        (registry.EnqueueMessageRequest(parent=A, text="towns/x"), [A]),
        (snapshots.ForkSnapshotRequest(name=f"{A}/snapshots/1", target=B), None),
        (
            snapshots.UploadSnapshotRequest(header=snapshots.UploadHeader(parent=A)),
            [A],
        ),
        (snapshots.UploadSnapshotRequest(), []),
        (supervisor.DrainRequest(parent="towns/t"), ["towns/t"]),
    ],
    ids=lambda value: type(value).__name__,
)
def test_names_of_real_requests(request_: Any, names: list[str] | None) -> None:
    """Every field that names a resource is found, text that only looks so is not."""
    expected = names if names is not None else [f"{A}/snapshots/1", B]

    assert sorted(resource_names(request_)) == sorted(expected)


def test_bare_ids_are_no_names() -> None:
    """An id says nothing of its town; another field must."""
    request = registry.ClaimAgentsRequest(instance=I, agents=["a", "b"])

    assert list(resource_names(request)) == [I]


def test_a_malformed_name_is_still_one() -> None:
    """What stands in `name` is judged, not passed over."""
    request = registry.GetAgentRequest(name="../../t")

    assert list(resource_names(request)) == ["../../t"]


@pytest.mark.parametrize(
    "method",
    [
        method
        for contract in (registry, snapshots, supervisor)
        for service in contract.DESCRIPTOR.services_by_name.values()
        for method in service.methods
    ],
    ids=lambda method: str(method.name),
)
def test_every_request_can_name_its_resource(method: Any) -> None:
    """A new method whose names are looked for elsewhere would be refused to all."""
    assert _fields(method.input_type) != ()
