"""Who may call what: every credential on every gRPC method of every service.

What is expected comes from the comments of the protos, never from the policies, and no
row of a policy can be missing, or say something else, unseen. The gateway's routes have
the same matrix in `gateway/test_access.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from services.chassis.auth import OPEN, Kind, Rule
from services.registry.policy import POLICY as REGISTRY
from services.snapshots.policy import POLICY as SNAPSHOTS
from services.supervisor.policy import POLICY as SUPERVISOR
from tests.support.access_matrix import CREDENTIALS, Method, differences, methods_of
from tests.support.tokens import Tokens
from townkeeper.registry.v1 import registry_pb2
from townkeeper.snapshots.v1 import snapshots_pb2
from townkeeper.supervisor.v1 import supervisor_pb2

POLICIES: dict[str, Mapping[str, Rule]] = {
    "registry": REGISTRY,
    "snapshots": SNAPSHOTS,
    "supervisor": SUPERVISOR,
}
METHODS: dict[str, list[Method]] = {
    "registry": methods_of(registry_pb2),
    "snapshots": methods_of(snapshots_pb2),
    "supervisor": methods_of(supervisor_pb2),
}
ROWS = [
    pytest.param(service, method, id=f"{service} {method.name}")
    for service, methods in METHODS.items()
    for method in methods
]


@pytest.fixture
def tokens(tmp_path: Path) -> Tokens:
    return Tokens(tmp_path)


def test_nothing_is_left_out() -> None:
    """Every row is of a method, every method has a row, and every kind of credential
    is tried, with every way in which one can be bad."""
    for service, policy in POLICIES.items():
        assert {method.path for method in METHODS[service]} == policy.keys()
    assert set(Kind) == {each.kind for each in CREDENTIALS.values() if each.kind}


@pytest.mark.parametrize(("service", "method"), ROWS)
async def test_each_credential_gets_what_the_contract_says(
    service: str, method: Method, tokens: Tokens
) -> None:
    """On an agent of its own, on another one, and in another town."""
    assert {} == await differences([method], POLICIES[service], tokens)


@pytest.mark.parametrize(("service", "method"), ROWS)
async def test_no_row_can_go_unseen(
    service: str, method: Method, tokens: Tokens
) -> None:
    """Without its row a method is refused to those whom it is for: a missing row is a
    refusal, and a difference."""
    rest = {path: row for path, row in POLICIES[service].items() if path != method.path}

    found = await differences([method], rest, tokens)

    assert "ROLE_INSUFFICIENT" in found.values()
    assert "OK" not in found.values()
    assert {each.value for each in method.kinds} <= {who for _, who, _ in found}


@pytest.mark.parametrize(("service", "method"), ROWS)
async def test_no_row_can_open_unseen(
    service: str, method: Method, tokens: Tokens
) -> None:
    """A row for one kind more is a difference for each kind, and an open one for
    whoever has no good token."""
    row = POLICIES[service][method.path]
    for kind in set(Kind) - method.kinds:
        wider = {method.path: replace(row, kinds=row.kinds | {kind})}
        found = await differences([method], wider, tokens)
        assert kind.value in {who for _, who, _ in found}

    found = await differences([method], {method.path: OPEN}, tokens)
    bad = {who for who, each in CREDENTIALS.items() if each.refusal}
    assert bad - {"expired"} <= {who for _, who, _ in found}
