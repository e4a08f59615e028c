"""Who calls, and what they may reach: `Caller`, `Rule`, `authorize`.

Everything is refused unless a rule says otherwise, and refused before anything is
looked up, so a refusal tells nothing about what exists.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Final

from services.chassis.errors import Reason, ServiceError
from services.chassis.names import check_id

ANY_TOWN: Final = "*"
# The name of all towns, where a call takes one: for those whose token reaches all.
EVERY_TOWN: Final = "towns/-"
# How long after its end a container's token can still be exchanged for a new one.
RENEWAL_GRACE_S: Final = 24 * 3600.0
# Kinds of collection that a name may have below a town; see names.py.
_AGENTS: Final = "agents"
# Depth of the deepest name, `towns/t/agents/a/runs/r`.
_SEGMENTS_MAX: Final = 6


class Kind(StrEnum):
    """What a credential was made for."""

    CONTAINER = "container"
    AGENT = "agent"
    USER = "user"
    OPERATOR = "operator"
    # A service of the plane, which must know what was revoked, and nothing else.
    SERVICE = "service"


# Kinds that a token can make good for every town.
EVERYWHERE: Final = frozenset({Kind.OPERATOR, Kind.SERVICE})


@dataclass(frozen=True, slots=True)
class Caller:
    """Whoever a verified token speaks for."""

    kind: Kind
    towns: frozenset[str]
    rig: str | None
    agent: str | None
    user: str | None
    token_id: str
    issued_at: datetime
    expires_at: datetime
    # Tokens below a town's token generation are revoked: the second of issue, unless
    # whoever minted counted otherwise.
    generation: int = 0
    # The one run of the agent that an agent's token was issued for.
    run: str = ""
    # The id of the token that this one was renewed from, over however many steps.
    family: str = ""

    @property
    def town(self) -> str:
        """The only town the token is for."""
        if len(self.towns) == 1 and ANY_TOWN not in self.towns:
            return next(iter(self.towns))
        raise ServiceError(
            Reason.FIELD_REQUIRED,
            "cannot tell the town from this token: name the town",
            field="town",
        )

    def reaches(self, town: str) -> bool:
        if self.kind in EVERYWHERE and ANY_TOWN in self.towns:
            return True
        return town in self.towns


@dataclass(frozen=True, slots=True)
class Rule:
    """One row of a policy table: who may call a method, and what kind of call it is.

    An agent's credential reaches only its own agent, whatever the rule. `townless`
    marks a method whose requests name no resource. `watch` marks a stream that lasts
    until somebody ends it: a stopping server ends it first. With a grace the method
    takes tokens that have expired so lately.
    """

    kinds: frozenset[Kind]
    open: bool = False
    townless: bool = False
    watch: bool = False
    grace_s: float = 0.0


OPEN: Final = Rule(frozenset(), open=True)


def rule(
    *kinds: Kind, townless: bool = False, watch: bool = False, grace_s: float = 0.0
) -> Rule:
    """A row for a method that these kinds of credentials may call."""
    return Rule(frozenset(kinds), townless=townless, watch=watch, grace_s=grace_s)


current_caller: ContextVar[Caller] = ContextVar("current_caller")


def authorize(
    caller: Caller,
    rule: Rule,
    *,
    town: str | None,
    agent: str | None,
    rig: str | None = None,
) -> None:
    """Raises unless the caller may use the method on this town, agent and rig."""
    authorize_kind(caller, rule)
    if town is None:
        if not rule.townless:
            raise ServiceError(
                Reason.FIELD_REQUIRED,
                "cannot tell what the request is about: set its name or parent",
                field="name",
            )
        return
    if not caller.reaches(town):
        raise ServiceError(
            Reason.TOWN_FOREIGN,
            f"cannot reach town {town} with this token: use one made for it",
            town=town,
        )
    if caller.kind is not Kind.AGENT:
        return
    if agent != caller.agent or (rig is not None and rig != caller.rig):
        raise ServiceError(
            Reason.AGENT_FOREIGN,
            f"cannot reach beyond agent {caller.agent} with its own token: "
            "name that agent",
            agent=caller.agent,
        )


def authorize_kind(caller: Caller, rule: Rule) -> None:
    """Raises unless this kind of credential may use the method at all."""
    if rule.open or caller.kind in rule.kinds:
        return
    allowed = ", ".join(sorted(rule.kinds)) or "nobody"
    raise ServiceError(
        Reason.ROLE_INSUFFICIENT,
        f"cannot call this with a token of kind {caller.kind}: it is for {allowed}",
        kind=caller.kind,
        allowed=allowed,
    )


def authorize_names(caller: Caller, rule: Rule, names: Iterable[str]) -> None:
    """Like `authorize`, for all resource names of one request."""
    named = False
    for name in names:
        town, agent = town_and_agent(name)
        authorize(caller, rule, town=town, agent=agent)
        named = True
    if not named:
        authorize(caller, rule, town=None, agent=None)


def town_and_agent(name: str) -> tuple[str, str | None]:
    """The town, and the agent if any, that a resource name of any kind lies in."""
    if name == EVERY_TOWN:
        return ANY_TOWN, None
    parts = name.split("/")
    if parts[0] != "towns" or len(parts) % 2 or len(parts) > _SEGMENTS_MAX:
        raise ServiceError(
            Reason.NAME_MALFORMED,
            f"cannot read {name[:80]!r} as a name: start with towns/{{town}}",
            format="towns/{town}",
        )
    town = check_id(parts[1], "town")
    if len(parts) > 2 and parts[2] == _AGENTS:
        return town, check_id(parts[3], "agent")
    return town, None
