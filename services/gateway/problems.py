"""Refusals: what went wrong → HTTP status, headers and the original's error bodies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import grpc

from services.chassis.errors import Reason, ServiceError

REASON_HEADER: Final = "x-townkeeper-reason"
NOT_FOUND: Final = "Not found"
RIG_TEXT: Final = "Token rigId does not match route"
INTERNAL_TEXT: Final = "Internal server error"
BODY_TEXT: Final = "Invalid request body"
CLIENT_GONE: Final = 499

# The original's own words, which its clients compare. All else is said in ours.
TEXTS: Final[Mapping[Reason, str]] = {
    Reason.TOKEN_MISSING: "Authentication required",
    Reason.TOKEN_EXPIRED: "Token expired",
    Reason.TOKEN_INVALID: "Invalid token signature",
    Reason.TOKEN_REVOKED: "Token revoked",
    Reason.KEYS_UNAVAILABLE: "Token validation failed",
    Reason.TOWN_FOREIGN: "Cross-town access denied",
    Reason.AGENT_FOREIGN: "Token agentId does not match route",
    Reason.SNAPSHOT_NOT_FOUND: "Snapshot not found",
    Reason.DRAINING: "Container is draining, cannot start new agents",
    Reason.INTERNAL: INTERNAL_TEXT,
    # gRPC's own text would tell addresses of services.
    Reason.SERVICE_UNAVAILABLE: "Service unavailable, try again",
}
# What a client needs in order to act on a conflict.
_SHOWN: Final = ("holder", "epoch", "generation")
_CONFLICTS: Final = frozenset({409, 412})
_ABOUT_FIELDS: Final = frozenset(
    {Reason.FIELD_REQUIRED, Reason.FIELD_INVALID, Reason.COMMAND_INVALID}
)
# A service that is away is back within seconds.
_RETRY_AFTER_S: Final = "1"


@dataclass(frozen=True, slots=True)
class Issue:
    """One thing wrong with a JSON body, and where: field names and list indexes."""

    path: tuple[str | int, ...]
    message: str

    def to_json(self) -> dict[str, Any]:
        return {"path": list(self.path), "message": self.message}


class Problem(Exception):
    """A refusal that is ready to be sent."""

    def __init__(
        self,
        status: int,
        error: str,
        *,
        reason: str = "",
        issues: Sequence[Issue] = (),
        fields: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(error)
        self.status = status
        self.error = error
        self.reason = reason
        self.issues = tuple(issues)
        self.fields = dict(fields or {})
        self.headers = dict(headers or {})

    def body(self, *, envelope: bool) -> dict[str, Any]:
        """As the worker says it, or bare as its container does."""
        body: dict[str, Any] = {"success": False} if envelope else {}
        body["error"] = self.error
        if self.issues:
            body["issues"] = [issue.to_json() for issue in self.issues]
        return body | self.fields


def from_service(error: ServiceError, *, conditional: bool = False) -> Problem:
    """What a failed call means over HTTP.

    `conditional` says that the client sent a precondition, so that a head which moved
    is 412; without one the services lost a race among themselves, which is 409.
    """
    status = error.http
    if conditional and error.reason is Reason.GENERATION_MISMATCH:
        status = 412
    return Problem(
        status,
        _text(error),
        reason=error.reason.name,
        issues=_issues(error),
        fields=_conflict(error) if status in _CONFLICTS else None,
        headers=_headers(error, status),
    )


def renewal_problem(error: ServiceError) -> Problem:
    """What the worker says where a token is exchanged for a new one."""
    problem = from_service(error)
    if error.reason is Reason.TOKEN_EXPIRED:
        problem.error = "Token expired beyond refresh grace period"
    elif error.metadata.get("missing_claim") == "exp":
        problem.error = "Token missing exp claim"
    return problem


def _text(error: ServiceError) -> str:
    text = TEXTS.get(error.reason, error.message)
    holder = error.metadata.get("holder", "")
    if holder and holder not in text:
        return f"{text}; the holder is {holder}"
    return text


def _issues(error: ServiceError) -> list[Issue]:
    default = "command" if error.reason is Reason.COMMAND_INVALID else ""
    field = error.metadata.get("field", default)
    if error.reason not in _ABOUT_FIELDS or not field:
        return []
    return [Issue(json_path(field), error.message)]


def json_path(field: str) -> tuple[str, ...]:
    """A field of a proto as JSON spells it: `spec.git_url` → `gitUrl`."""
    if field in _JSON_NAMES:
        return (_JSON_NAMES[field],)
    parts = [part for part in field.split(".") if part not in _CARRIERS] or [field]
    return tuple(_JSON_NAMES.get(part, _camel(part)) for part in parts)


# Fields that are not simply spelled in another case.
_JSON_NAMES: Final = {
    "display_name": "name",
    "name": "agentId",
    "text": "prompt",
    "data_json": "data",
    "event.type": "event_type",
    "nudge.text": "message",
}
# Messages around fields that JSON has at the top.
_CARRIERS: Final = frozenset(
    {"spec", "heartbeat", "completion", "checkpoint", "event", "nudge"}
)


def _camel(name: str) -> str:
    first, *rest = name.split("_")
    return first + "".join(word.capitalize() for word in rest)


def _conflict(error: ServiceError) -> dict[str, Any]:
    shown: dict[str, Any] = {}
    for key in _SHOWN:
        value = error.metadata.get(key)
        if value:
            shown[key] = int(value) if value.isdecimal() else value
    return shown


def _headers(error: ServiceError, status: int) -> dict[str, str]:
    if status == 401:
        return {"www-authenticate": 'Bearer realm="townkeeper"'}
    soon_better = error.code is grpc.StatusCode.UNAVAILABLE
    if soon_better or error.reason is Reason.TOO_MANY_CALLS:
        return {"retry-after": _RETRY_AFTER_S}
    return {}
