"""Outgoing calls: bearer token, request id, deadline, retry, keepalive.

Each channel is two connections: one for short calls, which are retried, and one for
streams, so that a gigabyte on its way never holds up a heartbeat.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Protocol

import grpc
import structlog

from services.chassis.early_status import keep_early_status
from services.chassis.errors import Reason, ServiceError
from services.chassis.telemetry import REQUEST_ID_KEY
from services.chassis.tls import TlsSettings

DEADLINE_S: Final = 10.0
_AUTHORIZATION: Final = "authorization"

_OPTIONS: Final[tuple[tuple[str, Any], ...]] = (
    # Calls between services never go through a proxy meant for the web.
    ("grpc.enable_http_proxy", 0),
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    # A service that restarts is back in a second; the default would wait longer. Less
    # time lies between two attempts to connect than the retries below last.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 500),
    ("grpc.min_reconnect_backoff_ms", 2_000),
)
_BALANCE: Final[dict[str, Any]] = {"loadBalancingConfig": [{"round_robin": {}}]}
# Only what may be repeated: UNAVAILABLE, and (by the connection it is on) short calls.
# gRPC itself spreads each wait by a fifth: 1.2 to 1.8 s in all. Not throttled: calls
# that failed in an outage, which cost nobody anything, would leave none for its end.
# A save is asked for once: tried again, it could reach the container's next boot, and
# call durable what was lost with the one before.
_ONCE: Final = {
    "service": "townkeeper.supervisor.v1.SupervisorService",
    "method": "SaveAgent",
}
_RETRY: Final[dict[str, Any]] = {
    "methodConfig": [
        {"name": [_ONCE]},
        {
            "name": [{}],
            "retryPolicy": {
                "maxAttempts": 5,
                "initialBackoff": "0.1s",
                "maxBackoff": "1s",
                "backoffMultiplier": 2,
                "retryableStatusCodes": ["UNAVAILABLE"],
            },
        },
    ]
}


class TokenSource(Protocol):
    """Where a channel takes its token from, at each call."""

    def token(self) -> str:
        """The bearer token to send now."""


class StaticToken:
    """A token that never changes."""

    def __init__(self, token: str) -> None:
        self._token = token

    def token(self) -> str:
        return self._token


class FileToken:
    """A token in a file that somebody keeps fresh."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen: tuple[int, int, int] | None = None
        self._token = ""

    def token(self) -> str:
        try:
            about = self._path.stat()
            seen = (about.st_ino, about.st_mtime_ns, about.st_size)
            if seen != self._seen:
                self._token = self._path.read_text("ascii").strip()
                self._seen = seen
        except (OSError, UnicodeDecodeError) as error:
            raise ServiceError(
                Reason.TOKEN_MISSING,
                f"cannot read a token from {self._path}: put one there",
                path=self._path,
            ) from error
        return self._token


def open_channel(
    address: str,
    token: TokenSource | None = None,
    *,
    tls: TlsSettings | None = None,
    read_ahead_bytes: int | None = None,
) -> grpc.aio.Channel:
    """A channel for asyncio; open it inside the loop that will use it.

    `read_ahead_bytes` bounds what gRPC keeps of a stream that is read slowly, beside
    the message that is read; without it that grows to megabytes a stream.
    """
    credentials = (tls or TlsSettings()).channel_credentials()

    def connect(options: Any) -> grpc.aio.Channel:
        if credentials is None:
            return grpc.aio.insecure_channel(address, options=options)
        return grpc.aio.secure_channel(address, credentials, options=options)

    return _AsyncChannel(connect(_short()), connect(_long(read_ahead_bytes)), token)


def open_sync_channel(
    address: str, token: TokenSource | None = None, *, tls: TlsSettings | None = None
) -> grpc.Channel:
    """The same for synchronous callers, such as the command line."""
    credentials = (tls or TlsSettings()).channel_credentials()

    def connect(options: Any) -> grpc.Channel:
        if credentials is None:
            return grpc.insecure_channel(address, options=options)
        return grpc.secure_channel(address, credentials, options=options)

    return _SyncChannel(connect(_short()), connect(_long()), token)


def _short() -> list[tuple[str, Any]]:
    return [*_OPTIONS, ("grpc.service_config", json.dumps(_BALANCE | _RETRY))]


def _long(read_ahead_bytes: int | None = None) -> list[tuple[str, Any]]:
    options = [
        *_OPTIONS,
        # Without a pool of its own, gRPC would share the connection after all.
        ("grpc.use_local_subchannel_pool", 1),
        ("grpc.service_config", json.dumps(_BALANCE)),
    ]
    if read_ahead_bytes is None:
        return options
    return [
        *options,
        # Probing is what makes the window grow.
        ("grpc.http2.bdp_probe", 0),
        ("grpc.http2.lookahead_bytes", read_ahead_bytes),
    ]


class _Outgoing:
    """A method of a stub: adds metadata and deadline, then is the method itself."""

    __slots__ = ("_deadline_s", "_inner", "_token")

    def __init__(
        self, inner: Any, token: TokenSource | None, deadline_s: float | None
    ) -> None:
        self._inner = inner
        self._token = token
        self._deadline_s = deadline_s

    def __call__(self, request: Any = None, **options: Any) -> Any:
        return self._inner(request, **self._complete(options))

    def with_call(self, request: Any = None, **options: Any) -> Any:
        return self._inner.with_call(request, **self._complete(options))

    def future(self, request: Any = None, **options: Any) -> Any:
        return self._inner.future(request, **self._complete(options))

    def _complete(self, options: dict[str, Any]) -> dict[str, Any]:
        if options.get("timeout") is None:
            options["timeout"] = self._deadline_s
        options["metadata"] = self._metadata(options.get("metadata") or ())
        return options

    def _metadata(self, given: Iterable[tuple[str, Any]]) -> tuple[Any, ...]:
        metadata = list(given)
        keys = {key for key, _ in metadata}
        if self._token is not None and _AUTHORIZATION not in keys:
            metadata.append((_AUTHORIZATION, f"Bearer {self._token.token()}"))
        request_id = structlog.contextvars.get_contextvars().get("request_id")
        if request_id and REQUEST_ID_KEY not in keys:
            metadata.append((REQUEST_ID_KEY, str(request_id)))
        return tuple(metadata)


class _OutgoingStream:
    """A method that sends many: refused early, it says what the server said."""

    __slots__ = ("_outgoing",)

    def __init__(self, outgoing: _Outgoing) -> None:
        self._outgoing = outgoing

    def __call__(self, requests: Any = None, **options: Any) -> Any:
        return keep_early_status(self._outgoing(requests, **options))


class _Methods:
    """The four shapes of methods, over the two connections."""

    def __init__(self, short: Any, long: Any, token: TokenSource | None) -> None:
        self._short = short
        self._long = long
        self._token = token

    def unary_unary(self, *args: Any, **options: Any) -> Any:
        inner = self._short.unary_unary(*args, **options)
        return _Outgoing(inner, self._token, DEADLINE_S)

    def unary_stream(self, *args: Any, **options: Any) -> Any:
        return _Outgoing(self._long.unary_stream(*args, **options), self._token, None)

    def stream_unary(self, *args: Any, **options: Any) -> Any:
        return _Outgoing(self._long.stream_unary(*args, **options), self._token, None)

    def stream_stream(self, *args: Any, **options: Any) -> Any:
        return _Outgoing(self._long.stream_stream(*args, **options), self._token, None)


class _AsyncChannel(_Methods, grpc.aio.Channel):
    def stream_unary(self, *args: Any, **options: Any) -> Any:
        return _OutgoingStream(super().stream_unary(*args, **options))

    def stream_stream(self, *args: Any, **options: Any) -> Any:
        return _OutgoingStream(super().stream_stream(*args, **options))

    async def close(self, grace: float | None = None) -> None:
        await self._short.close(grace)
        await self._long.close(grace)

    def get_state(self, try_to_connect: bool = False) -> grpc.ChannelConnectivity:
        state: grpc.ChannelConnectivity = self._short.get_state(try_to_connect)
        return state

    async def wait_for_state_change(
        self, last_observed_state: grpc.ChannelConnectivity
    ) -> None:
        await self._short.wait_for_state_change(last_observed_state)

    async def channel_ready(self) -> None:
        await self._short.channel_ready()

    async def __aenter__(self) -> _AsyncChannel:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_val: BaseException | None,
        exc_tb: TracebackType | None,
    ) -> None:
        await self.close()


class _SyncChannel(_Methods, grpc.Channel):
    def close(self) -> None:
        self._short.close()
        self._long.close()

    def subscribe(self, callback: Any, try_to_connect: bool | None = False) -> None:
        self._short.subscribe(callback, try_to_connect=try_to_connect)

    def unsubscribe(self, callback: Any) -> None:
        self._short.unsubscribe(callback)

    def __enter__(self) -> _SyncChannel:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_val: BaseException | None,
        exc_tb: TracebackType | None,
    ) -> None:
        self.close()
