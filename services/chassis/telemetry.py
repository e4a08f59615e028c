"""Log format, event names, metrics: everything that operators see has its name here.

Logs are JSON lines on stderr. Payloads are never logged; what looks like a token is
cut out wherever it turns up, tracebacks included.
"""

from __future__ import annotations

import json
import logging
import re
import sys
from collections.abc import MutableMapping
from contextlib import suppress
from enum import StrEnum
from functools import lru_cache
from io import TextIOBase
from typing import Any, Final, TextIO, cast

import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from structlog.typing import EventDict, Processor, WrappedLogger

# The metadata key and HTTP header that carry a request's id from service to service.
REQUEST_ID_KEY: Final = "x-request-id"
REDACTED: Final = "[redacted]"
# Three base64url parts, the first a JSON object; or whatever follows "bearer"; or
# the password of a URL, or a token in the place of the name.
_SECRETS: Final = re.compile(
    r"eyJ[A-Za-z0-9_-]{5,}(?:\.[A-Za-z0-9_-]*){1,4}"
    r"|(?<=bearer )[^\s\"',;]+"
    r"|(?<=://)[^\s/@]*:[^\s/@]+(?=@)"
    r"|(?:(?<=https://)|(?<=http://))[^\s/@]+(?=@)",
    re.IGNORECASE,
)
_SECRET_FIELDS: Final = re.compile(
    r"authorization|token|password|secret|api_?key|credential", re.IGNORECASE
)
# Fields about a secret that are none themselves.
_HARMLESS_FIELDS: Final = frozenset({"token_id", "resume_token", "token_generation"})
_DEPTH_MAX: Final = 6


class Event(StrEnum):
    """Names of log events, `subject.what_happened`; fields carry the rest."""

    CHANGE_AUDITED = "change.audited"
    CALL_ENDED = "call.ended"
    CALL_CRASHED = "call.crashed"
    REQUEST_ENDED = "request.ended"
    REQUEST_CRASHED = "request.crashed"
    POLICY_ROW_MISSING = "policy.row_missing"
    SERVER_STARTED = "server.started"
    SERVER_STOPPING = "server.stopping"
    SERVER_STOPPED = "server.stopped"
    SERVER_STOP_CUT = "server.stop_cut"
    HEALTH_CHANGED = "health.changed"
    KEYS_READ = "keys.read"
    KEYS_UNREADABLE = "keys.unreadable"
    STORE_DURABLE = "store.durable"
    STORE_NOT_DURABLE = "store.not_durable"
    UPLOADS_EXPIRED = "uploads.expired"
    RECORD_UNREADABLE = "record.unreadable"
    RECORD_REPAIRED = "record.repaired"
    AGENT_REINDEXED = "agent.reindexed"
    GENERATIONS_DROPPED = "generations.dropped"
    GENERATIONS_PURGED = "generations.purged"
    SEGMENTS_COLLECTED = "segments.collected"
    CHAIN_COMPACTED = "chain.compacted"
    COMPACTION_FAILED = "compaction.failed"
    SWEEP_FAILED = "sweep.failed"
    SEGMENT_ROTTEN = "segment.rotten"
    SEGMENT_HEALED = "segment.healed"
    SCRUB_FAILED = "scrub.failed"
    STORE_AWAY = "store.away"
    HINTS_BROKEN = "hints.broken"
    FEED_BROKEN = "feed.broken"
    REVOCATIONS_STALE = "revocations.stale"
    REVOCATIONS_FOLLOWED = "revocations.followed"
    REVOCATIONS_UNKNOWN = "revocations.unknown"


REGISTRY: Final = CollectorRegistry()

CALLS: Final = Counter(
    "townkeeper_calls",
    "gRPC calls answered, by method and status code.",
    ["method", "code"],
    registry=REGISTRY,
)
CALL_SECONDS: Final = Histogram(
    "townkeeper_call_seconds",
    "Time from the start of a gRPC call to its status.",
    ["method"],
    # From a cached read to a long transfer.
    buckets=(0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1, 3, 10, 60, 600),
    registry=REGISTRY,
)
CALLS_IN_FLIGHT: Final = Gauge(
    "townkeeper_calls_in_flight", "gRPC calls being answered.", registry=REGISTRY
)
CALL_BYTES: Final = Counter(
    "townkeeper_call_bytes",
    "Bytes of messages, by method and direction.",
    ["method", "direction"],
    registry=REGISTRY,
)
HTTP_REQUESTS: Final = Counter(
    "townkeeper_http_requests",
    "HTTP requests answered, by route, method and status.",
    ["method", "route", "status"],
    registry=REGISTRY,
)
HTTP_REQUEST_SECONDS: Final = Histogram(
    "townkeeper_http_request_seconds",
    "Time from the start of an HTTP request to the end of its answer.",
    ["method", "route"],
    buckets=(0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1, 3, 10, 60, 600),
    registry=REGISTRY,
)
HTTP_REQUESTS_IN_FLIGHT: Final = Gauge(
    "townkeeper_http_requests_in_flight",
    "HTTP requests being answered.",
    registry=REGISTRY,
)
HTTP_BYTES: Final = Counter(
    "townkeeper_http_bytes",
    "Bytes of HTTP bodies, by route, method and direction.",
    ["method", "route", "direction"],
    registry=REGISTRY,
)
HEALTHY: Final = Gauge(
    "townkeeper_healthy",
    "Whether a check of this process passes: 1 or 0.",
    ["check"],
    registry=REGISTRY,
)

SEGMENTS_SCRUBBED: Final = Counter(
    "townkeeper_segments_scrubbed",
    "Stored segments that were read again, by what they were found to be.",
    ["found"],
    registry=REGISTRY,
)
SEGMENTS_ROTTEN: Final = Gauge(
    "townkeeper_segments_rotten",
    "Segments that are marked as damaged or gone.",
    registry=REGISTRY,
)


class _Stderr(TextIOBase):
    """Standard error, whose full disk or closed pipe costs lines and no calls."""

    def write(self, text: str) -> int:
        with suppress(OSError, ValueError):
            sys.stderr.write(text)
        return len(text)

    def flush(self) -> None:
        with suppress(OSError, ValueError):
            sys.stderr.flush()


def configure_logging(service: str, level: str = "info") -> None:
    """Sends structlog and the standard library's loggers to stderr as JSON lines."""
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _named(service),
        structlog.processors.format_exc_info,
        redact,
    ]
    threshold = logging.getLevelNamesMapping()[level.upper()]
    structlog.configure(
        processors=[*shared, _render],
        wrapper_class=structlog.make_filtering_bound_logger(threshold),
        logger_factory=structlog.WriteLoggerFactory(cast(TextIO, _Stderr())),
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(_Stderr())
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                _render,
            ],
        )
    )
    # Libraries only get a word in when something is wrong.
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)


def _named(service: str) -> Processor:
    def add_service(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
        event.setdefault("service", service)
        return event

    return add_service


def redact(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    """Cuts secrets out of every field of a log line."""
    for key, value in event.items():
        event[key] = _clean(key, value, 0)
    return event


def _clean(key: str, value: Any, depth: int) -> Any:
    if isinstance(value, str):
        return REDACTED if value and _is_secret(key) else _cut_secrets(value)
    if isinstance(value, bool | int | float) or value is None:
        return value
    if isinstance(value, bytes | bytearray | memoryview):
        return f"[{len(value)} bytes]"
    if depth >= _DEPTH_MAX:
        return REDACTED
    if isinstance(value, MutableMapping):
        return {str(k): _clean(str(k), v, depth + 1) for k, v in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_clean(key, item, depth + 1) for item in value]
    return REDACTED if _is_secret(key) else _cut_secrets(str(value))


@lru_cache(maxsize=1024)
def _is_secret(key: str) -> bool:
    return key not in _HARMLESS_FIELDS and bool(_SECRET_FIELDS.search(key))


def _cut_secrets(text: str) -> str:
    # A line is written for each call: the cheap look spares nearly all the search.
    lower = text.lower()
    if "eyj" in lower or "bearer " in lower or "://" in lower:
        return _SECRETS.sub(REDACTED, text)
    return text


# One encoder for all lines; what it does not know has been made text by `redact`.
_encode: Final = json.JSONEncoder(ensure_ascii=False, default=str).encode


def _render(_: WrappedLogger, __: str, event: EventDict) -> str:
    return _encode(event)
