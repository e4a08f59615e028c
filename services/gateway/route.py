"""What a route is: a method and an exact path, who may call it, what answers.

A path matches as it was sent, segment by segment; only ids may be percent-encoded.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from typing import TypeAlias
from urllib.parse import unquote_to_bytes

from starlette.responses import Response

from services.chassis.auth import Kind, Rule, rule
from services.gateway.exchange import Exchange, Style

Handler: TypeAlias = Callable[[Exchange], Awaitable[Response]]


@dataclass(frozen=True, slots=True)
class Access:
    """Who may call. Of the rest, `known` kinds are told 403 and strangers 401."""

    kinds: frozenset[Kind]
    known: frozenset[Kind] = frozenset()
    # The body names the agent: the handler holds an agent's token to it.
    by_body: bool = False

    @property
    def open(self) -> bool:
        return not self.kinds

    @property
    def rule(self) -> Rule:
        return rule(*self.kinds)

    def refusal(self, kind: Kind) -> int | None:
        """The status for a kind of credential; None lets it in."""
        if kind in self.kinds:
            return None
        return 403 if kind in self.known else 401


class Body(StrEnum):
    """What a route takes: nothing, JSON, or bytes that stream through, in or out."""

    NONE = "none"
    JSON = "json"
    BYTES = "bytes"


@dataclass(frozen=True)
class Route:
    """One row. The pattern's `{town}`, `{rig}` and `{agent}` are ids."""

    method: str
    pattern: str
    access: Access
    handler: Handler
    body: Body = Body.NONE
    style: Style = Style.ENVELOPE
    # How long after its end a token still counts here.
    grace_s: float = 0.0

    @property
    def summary(self) -> str:
        """What the handler says of itself, in one line."""
        return (self.handler.__doc__ or "").partition("\n")[0]

    @cached_property
    def segments(self) -> tuple[bytes, ...]:
        return tuple(self.pattern.encode().split(b"/"))

    def match(self, segments: tuple[bytes, ...]) -> dict[str, bytes] | None:
        """The ids of a path that is this route's, as they were sent."""
        if len(segments) != len(self.segments):
            return None
        ids = {}
        for sent, wanted in zip(segments, self.segments, strict=True):
            if wanted.startswith(b"{"):
                if not sent:
                    return None
                ids[wanted[1:-1].decode()] = sent
            elif sent != wanted:
                return None
        return ids


def decode_ids(ids: Mapping[str, bytes]) -> dict[str, str]:
    """Ids without their percent-encoding; what is no UTF-8 will be no id either."""
    return {
        name: unquote_to_bytes(sent).decode("utf-8", "replace")
        for name, sent in ids.items()
    }
