"""The exception that services raise and clients catch, and its one table to status.

A new reason is two lines: one here, one in `protos/townkeeper/errors/v1`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from enum import StrEnum
from typing import Any, Final

import grpc
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2

Code = grpc.StatusCode

DOMAIN: Final = "townkeeper"
DETAILS_KEY: Final = "grpc-status-details-bin"
# gRPC refuses metadata beyond 8 KiB. The message travels twice, once with every odd
# byte as three, and the details once more as base64: 4 x 1 KiB + 4/3 x 2 KiB < 8 KiB.
MESSAGE_BYTES_MAX: Final = 1024
METADATA_BYTES_MAX: Final = 2048

_HTTP: Final = {
    Code.INVALID_ARGUMENT: 400,
    Code.UNAUTHENTICATED: 401,
    Code.PERMISSION_DENIED: 403,
    Code.NOT_FOUND: 404,
    Code.ALREADY_EXISTS: 409,
    Code.ABORTED: 409,
    Code.FAILED_PRECONDITION: 400,
    Code.OUT_OF_RANGE: 400,
    Code.RESOURCE_EXHAUSTED: 429,
    Code.UNAVAILABLE: 503,
    Code.UNIMPLEMENTED: 501,
    Code.DATA_LOSS: 500,
    Code.DEADLINE_EXCEEDED: 504,
    Code.CANCELLED: 499,
    Code.INTERNAL: 500,
}


class Reason(StrEnum):
    """Why a call failed: its name, its status code, its HTTP status if unusual."""

    _value_: str
    code: grpc.StatusCode
    http: int

    def __new__(cls, name: str, code: grpc.StatusCode, http: int = 0) -> Reason:
        reason = str.__new__(cls, name)
        reason._value_ = name
        reason.code = code
        reason.http = http or _HTTP[code]
        return reason

    # wrong whatever the state: fix the call
    NAME_MALFORMED = "NAME_MALFORMED", Code.INVALID_ARGUMENT
    FIELD_REQUIRED = "FIELD_REQUIRED", Code.INVALID_ARGUMENT
    FIELD_INVALID = "FIELD_INVALID", Code.INVALID_ARGUMENT
    FRAME_ORDER = "FRAME_ORDER", Code.INVALID_ARGUMENT
    CHUNK_TOO_LARGE = "CHUNK_TOO_LARGE", Code.INVALID_ARGUMENT
    CHUNK_CORRUPT = "CHUNK_CORRUPT", Code.INVALID_ARGUMENT
    DIGEST_MISMATCH = "DIGEST_MISMATCH", Code.INVALID_ARGUMENT
    NOT_A_DATABASE = "NOT_A_DATABASE", Code.INVALID_ARGUMENT
    SEGMENT_MALFORMED = "SEGMENT_MALFORMED", Code.INVALID_ARGUMENT
    COMMAND_INVALID = "COMMAND_INVALID", Code.INVALID_ARGUMENT
    # no or bad token: get a new one
    TOKEN_MISSING = "TOKEN_MISSING", Code.UNAUTHENTICATED
    TOKEN_EXPIRED = "TOKEN_EXPIRED", Code.UNAUTHENTICATED
    TOKEN_INVALID = "TOKEN_INVALID", Code.UNAUTHENTICATED
    TOKEN_REVOKED = "TOKEN_REVOKED", Code.UNAUTHENTICATED
    # known and not allowed, said before existence is looked up: stop
    TOWN_FOREIGN = "TOWN_FOREIGN", Code.PERMISSION_DENIED
    AGENT_FOREIGN = "AGENT_FOREIGN", Code.PERMISSION_DENIED
    ROLE_INSUFFICIENT = "ROLE_INSUFFICIENT", Code.PERMISSION_DENIED
    EXEC_DISABLED = "EXEC_DISABLED", Code.PERMISSION_DENIED
    # allowed and absent: stop
    AGENT_NOT_FOUND = "AGENT_NOT_FOUND", Code.NOT_FOUND
    SNAPSHOT_NOT_FOUND = "SNAPSHOT_NOT_FOUND", Code.NOT_FOUND
    UPLOAD_NOT_FOUND = "UPLOAD_NOT_FOUND", Code.NOT_FOUND
    RUN_NOT_FOUND = "RUN_NOT_FOUND", Code.NOT_FOUND
    INSTANCE_NOT_FOUND = "INSTANCE_NOT_FOUND", Code.NOT_FOUND
    MESSAGE_NOT_FOUND = "MESSAGE_NOT_FOUND", Code.NOT_FOUND
    # same id, other content: pick another id
    AGENT_EXISTS = "AGENT_EXISTS", Code.ALREADY_EXISTS
    AGENT_RUNNING = "AGENT_RUNNING", Code.ALREADY_EXISTS
    UPLOAD_REUSED = "UPLOAD_REUSED", Code.ALREADY_EXISTS
    MESSAGE_REUSED = "MESSAGE_REUSED", Code.ALREADY_EXISTS
    # lost a race: read again, redo
    ETAG_MISMATCH = "ETAG_MISMATCH", Code.ABORTED
    GENERATION_MISMATCH = "GENERATION_MISMATCH", Code.ABORTED
    UPLOAD_BUSY = "UPLOAD_BUSY", Code.ABORTED
    # state must change first: act, then retry
    LEASE_FENCED = "LEASE_FENCED", Code.FAILED_PRECONDITION, 409
    LEASE_HELD = "LEASE_HELD", Code.FAILED_PRECONDITION, 409
    DRAINING = "DRAINING", Code.FAILED_PRECONDITION, 503
    DRAIN_MISMATCH = "DRAIN_MISMATCH", Code.FAILED_PRECONDITION, 409
    RUN_NOT_RUNNING = "RUN_NOT_RUNNING", Code.FAILED_PRECONDITION, 409
    AGENT_ENDED = "AGENT_ENDED", Code.FAILED_PRECONDITION, 409
    SNAPSHOT_OPAQUE = "SNAPSHOT_OPAQUE", Code.FAILED_PRECONDITION, 409
    SNAPSHOT_HELD = "SNAPSHOT_HELD", Code.FAILED_PRECONDITION, 409
    PARENT_MISMATCH = "PARENT_MISMATCH", Code.FAILED_PRECONDITION, 409
    NO_START_REQUEST = "NO_START_REQUEST", Code.FAILED_PRECONDITION, 409
    RUNTIME_MISSING = "RUNTIME_MISSING", Code.FAILED_PRECONDITION, 409
    RUNTIME_MISMATCH = "RUNTIME_MISMATCH", Code.FAILED_PRECONDITION, 409
    START_FAILED = "START_FAILED", Code.FAILED_PRECONDITION, 500
    STORE_FOREIGN = "STORE_FOREIGN", Code.FAILED_PRECONDITION, 409
    # beyond what exists: resume where told
    OFFSET_MISMATCH = "OFFSET_MISMATCH", Code.OUT_OF_RANGE, 416
    RESUME_TOKEN_EXPIRED = "RESUME_TOKEN_EXPIRED", Code.OUT_OF_RANGE
    # a limit or a full disk: back off, tell someone
    SNAPSHOT_TOO_LARGE = "SNAPSHOT_TOO_LARGE", Code.RESOURCE_EXHAUSTED, 413
    MESSAGE_TOO_LARGE = "MESSAGE_TOO_LARGE", Code.RESOURCE_EXHAUSTED, 413
    REQUEST_TOO_LARGE = "REQUEST_TOO_LARGE", Code.RESOURCE_EXHAUSTED, 413
    STORAGE_FULL = "STORAGE_FULL", Code.RESOURCE_EXHAUSTED, 507
    TOO_MANY_AGENTS = "TOO_MANY_AGENTS", Code.RESOURCE_EXHAUSTED
    TOO_MANY_RUNS = "TOO_MANY_RUNS", Code.RESOURCE_EXHAUSTED
    TOO_MANY_CALLS = "TOO_MANY_CALLS", Code.RESOURCE_EXHAUSTED
    INBOX_FULL = "INBOX_FULL", Code.RESOURCE_EXHAUSTED
    WATCHER_TOO_SLOW = "WATCHER_TOO_SLOW", Code.RESOURCE_EXHAUSTED
    # a dependency or ourselves, soon better: retry with backoff
    STORE_UNAVAILABLE = "STORE_UNAVAILABLE", Code.UNAVAILABLE
    STORE_FORBIDDEN = "STORE_FORBIDDEN", Code.UNAVAILABLE
    SERVICE_UNAVAILABLE = "SERVICE_UNAVAILABLE", Code.UNAVAILABLE
    SHUTTING_DOWN = "SHUTTING_DOWN", Code.UNAVAILABLE
    NOT_DURABLE = "NOT_DURABLE", Code.UNAVAILABLE
    SAVE_PENDING = "SAVE_PENDING", Code.UNAVAILABLE
    NO_INSTANCE = "NO_INSTANCE", Code.UNAVAILABLE
    RUNTIME_UNREACHABLE = "RUNTIME_UNREACHABLE", Code.UNAVAILABLE
    KEYS_UNAVAILABLE = "KEYS_UNAVAILABLE", Code.UNAVAILABLE
    # of a service that is older than its caller
    NOT_SERVED_YET = "NOT_SERVED_YET", Code.UNIMPLEMENTED
    SIGNING_DISABLED = "SIGNING_DISABLED", Code.UNIMPLEMENTED
    # stored bytes fail their digest: call someone
    SNAPSHOT_CORRUPT = "SNAPSHOT_CORRUPT", Code.DATA_LOSS
    RECORD_CORRUPT = "RECORD_CORRUPT", Code.DATA_LOSS
    # the clock: the caller decides
    DEADLINE = "DEADLINE", Code.DEADLINE_EXCEEDED
    # the caller's own doing
    CANCELLED = "CANCELLED", Code.CANCELLED
    # our defect: the text says nothing, the log says all
    INTERNAL = "INTERNAL", Code.INTERNAL


# What a status means when no reason came with it: a proxy, an old peer, gRPC itself.
_BY_CODE: Final = {
    Code.INVALID_ARGUMENT: Reason.FIELD_INVALID,
    Code.UNAUTHENTICATED: Reason.TOKEN_INVALID,
    Code.PERMISSION_DENIED: Reason.ROLE_INSUFFICIENT,
    Code.RESOURCE_EXHAUSTED: Reason.REQUEST_TOO_LARGE,
    Code.UNAVAILABLE: Reason.SERVICE_UNAVAILABLE,
    Code.UNIMPLEMENTED: Reason.NOT_SERVED_YET,
    Code.DEADLINE_EXCEEDED: Reason.DEADLINE,
    Code.CANCELLED: Reason.CANCELLED,
    Code.DATA_LOSS: Reason.SNAPSHOT_CORRUPT,
}


class ServiceError(Exception):
    """A refusal with a stable reason; the text says what to do about it."""

    def __init__(self, reason: Reason, message: str, /, **metadata: object) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.metadata: dict[str, str] = {
            key: str(value) for key, value in metadata.items() if value is not None
        }

    def __reduce__(self) -> tuple[object, ...]:
        return _rebuild, (self.reason, self.message, self.metadata)

    @property
    def code(self) -> grpc.StatusCode:
        return self.reason.code

    @property
    def http(self) -> int:
        return self.reason.http

    @classmethod
    def from_rpc(cls, error: grpc.RpcError) -> ServiceError:
        """What the server meant; without details, what its status code means."""
        # The sync and asyncio failures of a call share their methods and no class.
        call: Any = error
        if not hasattr(call, "trailing_metadata"):
            return cls(Reason.INTERNAL, f"cannot read the failure of a call: {error}")
        status = _details(call.trailing_metadata() or ())
        for packed in status.details:
            info = error_details_pb2.ErrorInfo()
            if packed.Unpack(info) and info.reason in Reason.__members__:
                reason = Reason.__members__[info.reason]
                return cls(reason, status.message, **dict(info.metadata))
        fallback = _BY_CODE.get(call.code(), Reason.INTERNAL)
        name = call.code().name if call.code() else "no status"
        return cls(fallback, str(call.details() or f"cannot finish the call: {name}"))


def _rebuild(reason: Reason, message: str, metadata: dict[str, str]) -> ServiceError:
    return ServiceError(reason, message, **metadata)


def _details(metadata: Iterable[tuple[str, str | bytes]]) -> status_pb2.Status:
    for key, value in metadata:
        if key == DETAILS_KEY and isinstance(value, bytes):
            with suppress(DecodeError):
                return status_pb2.Status.FromString(value)
    return status_pb2.Status()


@contextmanager
def rpc_errors() -> Iterator[None]:
    """Turns the failure of a call to another service into a ServiceError."""
    try:
        yield
    except grpc.RpcError as error:
        raise ServiceError.from_rpc(error) from error


def to_status(error: ServiceError, domain: str = DOMAIN) -> status_pb2.Status:
    """The error as `google.rpc.Status`, cut to what gRPC metadata can carry."""
    code: int = error.code.value[0]
    info = error_details_pb2.ErrorInfo(reason=error.reason.name, domain=domain)
    room = METADATA_BYTES_MAX
    for key, value in error.metadata.items():
        kept = _cut(value, room - len(key))
        room -= len(key) + len(kept.encode())
        if room < 0:
            break
        info.metadata[key] = kept
    status = status_pb2.Status(
        code=code, message=_cut(error.message, MESSAGE_BYTES_MAX)
    )
    status.details.add().Pack(info)
    return status


def _cut(text: str, size_bytes: int) -> str:
    raw = text.encode("utf-8", "replace")
    return raw[: max(size_bytes, 0)].decode("utf-8", "ignore")
