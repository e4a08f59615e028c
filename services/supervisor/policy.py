"""Who may call what. A method without a row is refused."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from services.chassis.auth import Kind, Rule, rule

_SERVICE: Final = "/townkeeper.supervisor.v1.SupervisorService/"
_CONTAINER_ONLY: Final = rule(Kind.CONTAINER)
_PEOPLE: Final = rule(Kind.CONTAINER, Kind.USER, Kind.OPERATOR)
_ALL: Final = rule(Kind.CONTAINER, Kind.USER, Kind.OPERATOR, Kind.AGENT)

POLICY: Final[Mapping[str, Rule]] = {
    _SERVICE + "StartAgent": _PEOPLE,
    _SERVICE + "StopAgent": _PEOPLE,
    _SERVICE + "UpdateAgentModel": _PEOPLE,
    _SERVICE + "SaveAgent": _ALL,
    _SERVICE + "RestoreAgent": rule(Kind.USER, Kind.OPERATOR),
    _SERVICE + "GetRun": _ALL,
    _SERVICE + "ListRuns": _PEOPLE,
    _SERVICE + "WatchEvents": _ALL,
    _SERVICE + "TailOutput": _PEOPLE,
    _SERVICE + "RefreshCredentials": _CONTAINER_ONLY,
    _SERVICE + "Drain": rule(Kind.CONTAINER, Kind.OPERATOR),
}
