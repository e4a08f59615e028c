"""What a caller reaches: towns, its own agent, and nothing by omission."""

from __future__ import annotations

import pytest

from services.chassis.access import (
    Caller,
    Kind,
    authorize,
    authorize_names,
    rule,
    town_and_agent,
)
from services.chassis.errors import Reason, ServiceError
from tests.support.clock import EPOCH
from tests.support.tokens import AGENT, FOREIGN_TOWN, OTHER_AGENT, RIG, TOWN


def caller_of(
    kind: Kind, towns: set[str] | None = None, agent: str | None = None
) -> Caller:
    return Caller(
        kind=kind,
        towns=frozenset(towns or {TOWN}),
        rig=RIG if kind is Kind.AGENT else None,
        agent=agent or (AGENT if kind is Kind.AGENT else None),
        user=None,
        token_id="t",
        issued_at=EPOCH,
        expires_at=EPOCH,
    )


def test_the_only_town_must_be_one() -> None:
    """Nobody guesses which town a caller of several means."""
    with pytest.raises(ServiceError) as refused:
        _ = caller_of(Kind.OPERATOR, towns={"a", "b"}).town

    assert refused.value.reason is Reason.FIELD_REQUIRED


class TestAuthorize:
    @pytest.mark.parametrize("kind", Kind)
    def test_of_another_town(self, kind: Kind) -> None:
        """No kind reaches a town that its token does not name."""
        with pytest.raises(ServiceError) as refused:
            authorize(caller_of(kind), rule(*Kind), town=FOREIGN_TOWN, agent=AGENT)

        assert refused.value.reason is Reason.TOWN_FOREIGN

    @pytest.mark.parametrize(
        ("agent", "rig"),
        [
            pytest.param(OTHER_AGENT, None, id="another agent"),
            pytest.param(None, None, id="the whole town"),
            pytest.param(AGENT, "rig-2", id="another rig"),
        ],
    )
    def test_an_agent_beyond_itself(self, agent: str | None, rig: str | None) -> None:
        """An agent's token is for that agent, in its own rig."""
        with pytest.raises(ServiceError) as refused:
            authorize(
                caller_of(Kind.AGENT), rule(*Kind), town=TOWN, agent=agent, rig=rig
            )

        assert refused.value.reason is Reason.AGENT_FOREIGN

    def test_an_agent_in_its_own_rig(self) -> None:
        """Naming its own rig is fine."""
        authorize(caller_of(Kind.AGENT), rule(*Kind), town=TOWN, agent=AGENT, rig=RIG)

    def test_the_star_is_an_operators(self) -> None:
        """Even a container that claims all towns reaches none."""
        star = caller_of(Kind.CONTAINER, towns={"*"})

        with pytest.raises(ServiceError):
            authorize(star, rule(*Kind), town=TOWN, agent=None)

    def test_a_townless_method(self) -> None:
        """A method about no resource is open to its kinds, and to no others."""
        townless = rule(Kind.OPERATOR, townless=True)

        authorize_names(caller_of(Kind.OPERATOR), townless, [])
        with pytest.raises(ServiceError) as refused:
            authorize_names(caller_of(Kind.USER), townless, [])

        assert refused.value.reason is Reason.ROLE_INSUFFICIENT

    def test_a_method_about_something_needs_a_name(self) -> None:
        """Without a name there is nothing to compare a token with."""
        with pytest.raises(ServiceError) as refused:
            authorize_names(caller_of(Kind.OPERATOR), rule(*Kind), [])

        assert refused.value.reason is Reason.FIELD_REQUIRED

    def test_every_name_counts(self) -> None:
        """One foreign name among own ones is enough to refuse."""
        names = [f"towns/{TOWN}/agents/a", f"towns/{FOREIGN_TOWN}/agents/a"]

        with pytest.raises(ServiceError) as refused:
            authorize_names(caller_of(Kind.CONTAINER), rule(*Kind), names)

        assert refused.value.reason is Reason.TOWN_FOREIGN


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("towns/t", ("t", None)),
        ("towns/t/agents/a", ("t", "a")),
        ("towns/t/agents/a/runs/r", ("t", "a")),
        ("towns/t/agents/a/snapshots/latest", ("t", "a")),
        ("towns/t/instances/i", ("t", None)),
    ],
)
def test_where_a_name_lies(name: str, found: tuple[str, str | None]) -> None:
    """Any kind of name tells its town, and its agent if it has one."""
    assert town_and_agent(name) == found


@pytest.mark.parametrize(
    "name",
    [
        "",
        "towns",
        "towns/",
        "town/t",
        "towns/t/agents",
        "towns/t/agents/",
        "towns/t/agents/../x",
        "towns/t/agents/a/runs/r/x/y",
        "/towns/t",
        " towns/t",
    ],
)
def test_where_no_name_lies(name: str) -> None:
    """What is no name is refused, never taken for some town."""
    with pytest.raises(ServiceError) as refused:
        town_and_agent(name)

    assert refused.value.reason is Reason.NAME_MALFORMED
