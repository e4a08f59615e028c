"""Where a verifier finds public keys: a folder read again when it changes, or a URL.

Both keep the keys they have while the source cannot be read, and say so in the log.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final, Protocol

import httpx
import structlog
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from services.chassis.clock import Clock, SystemClock
from services.chassis.errors import Reason, ServiceError
from services.chassis.key_files import KeysError, key_files
from services.chassis.keys import JWKS_FILE, PublicKeys, parse_jwks, read_public_keys
from services.chassis.telemetry import Event

# How old a look at the folder may be: a key that was removed counts that much longer.
LOOK_EVERY_S: Final = 1.0
FETCH_EVERY_S: Final = 300.0
# Between two fetches made for unknown keys, which anybody can invent.
FETCH_PAUSE_S: Final = 10.0
FETCH_TIMEOUT_S: Final = 5.0
JWKS_BYTES_MAX: Final = 256 * 1024

_log = structlog.get_logger(__name__)


class KeySource(Protocol):
    """Public keys by key id; `version` changes whenever the set of keys does."""

    version: int
    keys: PublicKeys

    def refresh(self) -> None:
        """Brings the keys up to date as far as that costs no waiting."""

    async def find(self, kid: str) -> Ed25519PublicKey | None:
        """The key, looked for once more where it may be new; None if unknown."""

    async def aclose(self) -> None:
        """Ends what runs in the background."""


class DirectoryKeys:
    """Keys of a folder; a missing or broken folder at the start is an error."""

    def __init__(self, folder: Path, clock: Clock | None = None) -> None:
        self.version = 0
        self._folder = folder
        self._clock = clock or SystemClock()
        self._complaint = ""
        self._seen = self._fingerprint()
        self.keys = read_public_keys(folder)
        if not self.keys:
            raise KeysError(
                f"cannot verify tokens: {folder} holds no keys; put some in"
            )
        self._looked_at = self._clock.monotonic()

    def refresh(self) -> None:
        if self._clock.monotonic() - self._looked_at >= LOOK_EVERY_S:
            self._look()

    async def find(self, kid: str) -> Ed25519PublicKey | None:
        if kid not in self.keys:
            self._look()
        return self.keys.get(kid)

    async def aclose(self) -> None:
        """Nothing runs in the background."""

    def _look(self) -> None:
        self._looked_at = self._clock.monotonic()
        seen = self._fingerprint()
        if seen == self._seen:
            return
        try:
            self.keys = read_public_keys(self._folder)
        except (KeysError, OSError) as error:
            # Tried again at each look; said once, since unknown keys cost a look each.
            if str(error) != self._complaint:
                self._complaint = str(error)
                _log.error(Event.KEYS_UNREADABLE, folder=str(self._folder), why=error)
            return
        self._complaint = ""
        self._seen = seen
        self.version += 1
        _log.info(Event.KEYS_READ, folder=str(self._folder), count=len(self.keys))

    def _fingerprint(self) -> frozenset[tuple[str, int, int, int]]:
        found = set()
        for path in (*key_files(self._folder), self._folder / JWKS_FILE):
            try:
                about = path.stat()
            except FileNotFoundError:
                continue
            found.add((path.name, about.st_ino, about.st_mtime_ns, about.st_size))
        return frozenset(found)


class FetchedKeys:
    """Keys of a JWKS document, fetched when first needed and then now and again.

    `download` gives the document or raises; `source` names where it comes from.
    """

    def __init__(
        self,
        source: str,
        download: Callable[[], Awaitable[bytes]],
        clock: Clock | None = None,
    ) -> None:
        self.version = 0
        self._source = source
        self._download = download
        self._clock = clock or SystemClock()
        self.keys: PublicKeys = {}
        self._fetched_at: float | None = None
        self._tried_at: float | None = None
        self._fetching: asyncio.Task[None] | None = None

    def refresh(self) -> None:
        """Starts a fetch in the background when the keys are old."""
        if self._fetched_at is not None and self._older(
            self._fetched_at, FETCH_EVERY_S
        ):
            self._start()

    async def find(self, kid: str) -> Ed25519PublicKey | None:
        if kid not in self.keys:
            self._start()
            if self._fetching is not None:
                # Shielded: one caller going away must not end it for the others.
                await asyncio.shield(self._fetching)
        if not self.keys:
            raise ServiceError(
                Reason.KEYS_UNAVAILABLE,
                f"cannot verify tokens, no key was ever read: look at {self._source}",
            )
        return self.keys.get(kid)

    async def aclose(self) -> None:
        if self._fetching is not None:
            self._fetching.cancel()
            await asyncio.gather(self._fetching, return_exceptions=True)

    def _start(self) -> None:
        # A fetch takes less than the pause, so there is never more than one.
        if self._tried_at is None or self._older(self._tried_at, FETCH_PAUSE_S):
            self._tried_at = self._clock.monotonic()
            self._fetching = asyncio.create_task(self._fetch(), name="fetch-jwks")

    def _older(self, moment: float, limit_s: float) -> bool:
        return self._clock.monotonic() - moment >= limit_s

    async def _fetch(self) -> None:
        try:
            async with asyncio.timeout(FETCH_TIMEOUT_S):
                keys = parse_jwks(await self._download(), self._source)
        except (httpx.HTTPError, KeysError, ServiceError, TimeoutError) as error:
            _log.warning(Event.KEYS_UNREADABLE, source=self._source, why=str(error))
            return
        self._fetched_at = self._clock.monotonic()
        if keys != self.keys:
            self.keys = keys
            self.version += 1
            _log.info(Event.KEYS_READ, source=self._source, count=len(keys))


class UrlKeys(FetchedKeys):
    """Keys that an issuer publishes at a URL."""

    def __init__(
        self,
        url: str,
        clock: Clock | None = None,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        super().__init__(url, self._get, clock)
        self._url = url
        self._transport = transport

    async def _get(self) -> bytes:
        body = bytearray()
        async with (
            httpx.AsyncClient(transport=self._transport) as client,
            client.stream("GET", self._url) as answer,
        ):
            answer.raise_for_status()
            async for part in answer.aiter_bytes():
                body += part
                if len(body) > JWKS_BYTES_MAX:
                    raise KeysError(f"cannot read keys from {self._url}: too large")
        return bytes(body)
