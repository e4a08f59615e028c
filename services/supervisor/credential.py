"""The token of one run: asked for at its start, kept fresh in a file, taken back at its
end.

The agent reads the file whenever it needs the token, so a fresh one costs no restart.
A registry that is away holds up no start: the token comes when it is back.
"""

from __future__ import annotations

import asyncio
import os
import secrets
from collections.abc import Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final, Protocol

import structlog

from services.chassis.clock import Clock
from services.chassis.errors import Code, Reason, ServiceError
from services.chassis.names import AgentName
from services.supervisor.run import backoff_s

log = structlog.get_logger()

# As the original names the token of one agent; ours names the file.
TOKEN_VARIABLE: Final = "GASTOWN_SESSION_TOKEN"
FILE_VARIABLE: Final = "TOWNKEEPER_TOKEN_FILE"
LIFE_S: Final = 3600.0
# Between two tokens, whatever our clock says.
PAUSE_MIN_S: Final = 60.0
# A start waits no longer for its token.
FIRST_S: Final = 2.0
# Then the token is taken back by the next run's, or expires.
TAKE_BACK_TRIES: Final = 5


@dataclass(frozen=True, slots=True)
class IssuedToken:
    """A token and when it expires."""

    token: str
    expires: datetime


class Issuer(Protocol):
    """The registry, as far as it issues tokens to runs."""

    async def issue_agent_token(
        self, name: AgentName, epoch: int, run: str, life_s: float
    ) -> IssuedToken: ...

    async def revoke_run(self, name: AgentName, run: str, expires: datetime) -> None:
        """Makes all tokens of the run worthless; the last expires then."""


class Credential:
    """Of one run of an agent."""

    def __init__(
        self,
        name: AgentName,
        epoch: int,
        run: str,
        file: Path,
        issuer: Issuer,
        clock: Clock,
        keep: Callable[[Coroutine[object, object, None]], None],
    ) -> None:
        self._name = name
        self._epoch = epoch
        self._run = run
        self._file = file
        self._issuer = issuer
        self._clock = clock
        self._keep = keep
        self._issued: IssuedToken | None = None
        self._ended = False

    async def begin(self, *, fresh: bool = True) -> dict[str, str]:
        """What the run's environment says of its token. What an earlier run has left in
        the file goes first, if this one is fresh."""
        if fresh:
            self._file.unlink(missing_ok=True)
        environ = {FILE_VARIABLE: str(self._file)}
        try:
            async with asyncio.timeout(FIRST_S):
                await self._renew()
        except (ServiceError, TimeoutError) as error:
            self._complain(error)
        if self._issued is not None:
            environ[TOKEN_VARIABLE] = self._issued.token
        return environ

    async def keep_fresh(self) -> None:
        """Renews the token at half its life, until it is cancelled or the lease is
        another's."""
        failures = 0
        while True:
            await asyncio.sleep(backoff_s(failures) if failures else self._fresh_s())
            try:
                await self._renew()
                failures = 0
            except ServiceError as error:
                if error.reason is Reason.LEASE_FENCED:
                    return
                if not failures:
                    self._complain(error)
                failures += 1

    async def end(self) -> None:
        """Takes the token back, beside whatever comes next."""
        if self._ended:
            return
        self._ended = True
        with suppress(OSError):
            self._file.unlink(missing_ok=True)
        if self._issued is not None:
            self._keep(self._take_back(self._issued))

    async def _renew(self) -> None:
        issued = await self._issuer.issue_agent_token(
            self._name, self._epoch, self._run, LIFE_S
        )
        if not self._ended:
            self._issued = issued
            await asyncio.to_thread(_write, self._file, issued.token)

    async def _take_back(self, issued: IssuedToken) -> None:
        for failures in range(1, TAKE_BACK_TRIES + 1):
            try:
                await self._issuer.revoke_run(self._name, self._run, issued.expires)
                return
            except ServiceError as error:
                if error.code is not Code.UNAVAILABLE:
                    self._complain(error)
                    return
                if failures == TAKE_BACK_TRIES:
                    self._complain(error)
            await asyncio.sleep(backoff_s(failures))

    def _fresh_s(self) -> float:
        if self._issued is None:
            return 0.0
        left_s = (self._issued.expires - self._clock.now()).total_seconds()
        # By a clock that is ahead no token is ever fresh.
        return max(left_s - LIFE_S / 2, PAUSE_MIN_S)

    def _complain(self, error: Exception) -> None:
        why = str(error) or "no answer in time"
        log.warning("agent.credential_failed", agent=str(self._name), why=why)


def _write(file: Path, token: str) -> None:
    # Renamed into place: whoever reads it reads one token, whole.
    aside = file.with_name(f"{file.name}.{secrets.token_hex(4)}.new")
    descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="ascii") as opened:
        opened.write(token)
    os.replace(aside, file)
