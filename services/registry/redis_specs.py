"""How specs and list entries lie in Redis: sealed, each for its own agent.

They hold tokens and passwords, in variables, addresses and configurations, so they are
sealed whole. Records from before there was a key are read as they are, and sealed when
they are written next. The scripts compare and move them; none looks inside.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Any, Final

import structlog

from services.chassis.errors import Reason, ServiceError
from services.chassis.names import AgentName
from services.chassis.sealing import SealingKeys
from services.chassis.telemetry import Event
from services.registry.agents import Agent
from services.registry.entries import Entry, request_from_spec
from services.registry.redis_values import ENTRY, OWN, agent_from
from services.registry.specs import AgentSpec

_PURPOSE: Final = "registry spec"
# In front of what is sealed, in the place of the letters of what is not.
_SEALED: Final = {OWN: b"s", ENTRY: b"e"}
_LETTERS: Final = {sealed: letter for letter, sealed in _SEALED.items()}

_log = structlog.get_logger(__name__)


class StoredSpecs:
    """Seals and opens; without keys, or told not to, it stores in clear."""

    def __init__(self, keys: SealingKeys | None = None, *, seals: bool = True) -> None:
        self._keys = keys
        self._seals = keys if seals else None

    def of_spec(self, name: AgentName, spec: AgentSpec) -> bytes:
        """How a record's own spec is stored; equal specs have equal texts."""
        return self._stored(name, OWN, spec_text(spec))

    def of_entry(self, town: str, entry: Entry) -> bytes:
        """How a list entry is stored: as it came."""
        return self._stored(AgentName(town, entry.agent), ENTRY, entry.text)

    def digest(self, text: str) -> str:
        """By which scripts tell equal texts from others."""
        if self._seals is not None:
            return self._seals.digest(text)
        return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()

    def agent(self, town: str, raw: Sequence[Any]) -> Agent:
        """A record as the prelude's `record` returns it."""
        letter, text = self._opened(AgentName(town, raw[0].decode()), raw[2])
        return agent_from(town, raw, letter, text)

    def listed(self, town: str, raw: Sequence[Any]) -> Agent:
        """The same for one of many: one that cannot be opened says so in its place,
        and the others are told all the same."""
        try:
            return self.agent(town, raw)
        except ServiceError as error:
            agent = raw[0].decode()
            _log.error(Event.RECORD_UNREADABLE, town=town, agent=agent, why=error)
            return agent_from(town, raw, OWN, "", problem=error.message)

    def _stored(self, name: AgentName, letter: str, text: str) -> bytes:
        if self._seals is None:
            return (letter + text).encode()
        place = (_PURPOSE, name.town, name.agent, letter)
        return _SEALED[letter] + self._seals.seal(text.encode(), *place)

    def _opened(self, name: AgentName, stored: bytes) -> tuple[str, str]:
        letter = _LETTERS.get(stored[:1])
        if letter is None:
            text = stored.decode()
            return text[:1], text[1:]
        if self._keys is None:
            raise ServiceError(
                Reason.KEYS_UNAVAILABLE,
                "cannot open what is stored, the registry has no sealing key: set "
                "TOWNKEEPER_SEALING_KEYS_DIR",
            )
        place = (_PURPOSE, name.town, name.agent, letter)
        return letter, self._keys.open(stored[1:], *place).decode()


def spec_text(spec: AgentSpec) -> str:
    """A spec as text; equal specs have equal texts."""
    return json.dumps(request_from_spec(spec), sort_keys=True)
