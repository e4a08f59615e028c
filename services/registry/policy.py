"""Method → who may call it. A method without a row is refused to all."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from services.chassis.access import RENEWAL_GRACE_S
from services.chassis.auth import Kind, Rule, rule

SERVICE: Final = "townkeeper.registry.v1.RegistryService"

_CONTAINER: Final = rule(Kind.CONTAINER)
_WATCH: Final = rule(Kind.CONTAINER, watch=True)
_FLEET: Final = rule(Kind.CONTAINER, Kind.OPERATOR)
_TOWN: Final = rule(Kind.CONTAINER, Kind.USER, Kind.OPERATOR)
_AGENT: Final = rule(Kind.CONTAINER, Kind.AGENT)
_ITS_OWN: Final = rule(Kind.CONTAINER, Kind.USER, Kind.OPERATOR, Kind.AGENT)

_ROWS: Final = {
    "RegisterAgent": _TOWN,
    "GetAgent": _ITS_OWN,
    "ListAgents": _TOWN,
    "UpdateAgent": _TOWN,
    "DeregisterAgent": _FLEET,
    "ReplaceAgents": _CONTAINER,
    "WatchAgents": rule(Kind.CONTAINER, Kind.USER, Kind.OPERATOR, watch=True),
    "ResolveAgent": _ITS_OWN,
    "RegisterInstance": _CONTAINER,
    "Heartbeat": _CONTAINER,
    "ListInstances": _TOWN,
    "AnnounceDrain": _FLEET,
    "GetDrainStatus": _FLEET,
    "ConfirmReady": _FLEET,
    "ReleaseInstance": _CONTAINER,
    "ClaimAgents": _CONTAINER,
    "ReleaseAgents": _CONTAINER,
    "EnqueueMessage": _ITS_OWN,
    "ListMessages": _ITS_OWN,
    "AcknowledgeMessage": _CONTAINER,
    "WatchMessages": _WATCH,
    "ReportAgent": _AGENT,
    "GetAgentReports": _ITS_OWN,
    "AppendAgentEvent": _AGENT,
    "ListAgentEvents": _ITS_OWN,
    "EnqueueNudge": _ITS_OWN,
    "ListNudges": _ITS_OWN,
    "AcknowledgeNudge": _AGENT,
    "GetPublicKeys": _FLEET,
    "IssueAgentToken": _CONTAINER,
    "IssueContainerToken": rule(Kind.CONTAINER, grace_s=RENEWAL_GRACE_S),
    "RevokeTokens": _FLEET,
    "WatchRevocations": rule(Kind.CONTAINER, Kind.OPERATOR, Kind.SERVICE, watch=True),
}

POLICY: Final[Mapping[str, Rule]] = {
    f"/{SERVICE}/{method}": row for method, row in _ROWS.items()
}
