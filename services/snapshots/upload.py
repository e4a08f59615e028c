"""One stream of an upload as a state machine: which frame may follow, what it does.

Pure. A refused frame leaves the upload paused, so that it can be resumed, or
discarded; `state` tells which after the error was raised.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from services.chassis.errors import Reason, ServiceError
from services.chassis.names import AgentName
from services.snapshots.generations import Claim, Origin

# A quarter of gRPC's default limit of 4 MiB for one message.
CHUNK_BYTES_MAX: Final = 1 << 20
DIGEST_BYTES: Final = 32


# Refusals that no repetition of a commit can change; after others it may be tried.
_FINAL: Final = frozenset(
    {
        Reason.DIGEST_MISMATCH,
        Reason.GENERATION_MISMATCH,
        Reason.LEASE_FENCED,
        Reason.PARENT_MISMATCH,
        Reason.SEGMENT_MALFORMED,
        Reason.SNAPSHOT_TOO_LARGE,
    }
)


class Body(StrEnum):
    """What the bytes of an upload are."""

    SEGMENT = "segment"
    FILE = "file"


class State(StrEnum):
    """Where the stream stands."""

    EXPECTING_HEADER = "expecting header"
    RECEIVING = "receiving"
    PAUSED = "paused"
    DISCARDED = "discarded"
    COMMITTING = "committing"
    COMMITTED = "committed"


@dataclass(frozen=True, slots=True)
class Header:
    """What is coming, who sends it, and what must hold for it to commit."""

    agent: AgentName
    body: Body
    origin: Origin
    claim: Claim
    write_offset: int = 0
    if_generation_match: int | None = None

    @property
    def upload_id(self) -> str:
        return self.origin.upload_id


@dataclass(frozen=True, slots=True)
class Chunk:
    """The next bytes."""

    offset: int
    data: bytes
    crc32: int


@dataclass(frozen=True, slots=True)
class Trailer:
    """What all bytes must come to, those of earlier streams included."""

    size_bytes: int
    blake3: bytes
    fingerprint: bytes = b""


Frame = Header | Chunk | Trailer


class Upload:
    """Takes the frames of one stream in order."""

    def __init__(self, size_bytes_max: int) -> None:
        self.state = State.EXPECTING_HEADER
        self.size_bytes = 0
        self._size_bytes_max = size_bytes_max

    def begin(self, header: Header, persisted_bytes: int) -> None:
        """Starts where the bytes on disk end, or tells the client where that is."""
        if self.state is not State.EXPECTING_HEADER:
            raise self._out_of_order("a second header")
        self.state = State.RECEIVING
        self.size_bytes = persisted_bytes
        if header.write_offset != persisted_bytes:
            raise self._misplaced(header.write_offset)

    def take(self, frame: Chunk) -> None:
        """Counts the chunk in if these are the right next bytes."""
        if self.state is not State.RECEIVING:
            raise self._out_of_order("a chunk before the header")
        if frame.offset != self.size_bytes:
            raise self._misplaced(frame.offset)
        if len(frame.data) > CHUNK_BYTES_MAX:
            raise self._paused(
                Reason.CHUNK_TOO_LARGE,
                f"cannot take a chunk of {len(frame.data)} bytes: send at most "
                f"{CHUNK_BYTES_MAX}",
                size_bytes=len(frame.data),
                size_bytes_max=CHUNK_BYTES_MAX,
            )
        if not frame.data:
            raise self._paused(
                Reason.FIELD_REQUIRED,
                "cannot take an empty chunk: send at least one byte",
                field="chunk.data",
            )
        if zlib.crc32(frame.data) != frame.crc32:
            raise self._paused(
                Reason.CHUNK_CORRUPT,
                f"cannot trust the chunk at {frame.offset}: its CRC-32 differs; "
                "send it again",
                offset=frame.offset,
            )
        if self.size_bytes + len(frame.data) > self._size_bytes_max:
            raise self._discarded(
                Reason.SNAPSHOT_TOO_LARGE,
                f"cannot take more than {self._size_bytes_max} bytes: have the "
                "operator raise TOWNKEEPER_SNAPSHOT_BYTES_MAX",
                size_bytes_max=self._size_bytes_max,
            )
        self.size_bytes += len(frame.data)

    def finish(self, trailer: Trailer, digest: bytes) -> None:
        """Goes on to the commit if exactly what the client sent has arrived."""
        if self.state is not State.RECEIVING:
            raise self._out_of_order("a trailer before the header")
        if len(trailer.blake3) != DIGEST_BYTES:
            raise self._paused(
                Reason.FIELD_INVALID,
                f"cannot use a digest of {len(trailer.blake3)} bytes: send the "
                f"{DIGEST_BYTES} of BLAKE3",
                field="trailer.blake3",
            )
        if trailer.size_bytes != self.size_bytes:
            raise self._discarded(
                Reason.DIGEST_MISMATCH,
                f"cannot commit {self.size_bytes} bytes as {trailer.size_bytes}: "
                "send the snapshot again",
                size_bytes=self.size_bytes,
            )
        if trailer.blake3 != digest:
            raise self._discarded(
                Reason.DIGEST_MISMATCH,
                "cannot commit bytes whose BLAKE3 is not the trailer's: "
                "send the snapshot again",
                blake3=digest.hex(),
            )
        self.state = State.COMMITTING

    def pause(self) -> None:
        """The stream ended, was cut, or met a fault that may pass."""
        self.state = State.PAUSED

    def discard(self) -> None:
        """What arrived can never commit."""
        self.state = State.DISCARDED

    def settle(self, refused: Reason | None) -> None:
        """How the commit ended."""
        if refused is None:
            self.state = State.COMMITTED
        elif refused in _FINAL:
            self.discard()
        else:
            self.pause()

    def repeat_header(self) -> ServiceError:
        return self._out_of_order("a second header")

    def _misplaced(self, offset: int) -> ServiceError:
        return self._paused(
            Reason.OFFSET_MISMATCH,
            f"cannot go on at {offset}: {self.size_bytes} bytes are persisted; "
            "start there",
            persisted_size_bytes=self.size_bytes,
        )

    def _out_of_order(self, what: str) -> ServiceError:
        return self._paused(Reason.FRAME_ORDER, out_of_order_text(what))

    def _paused(self, reason: Reason, message: str, **metadata: object) -> ServiceError:
        self.pause()
        return ServiceError(reason, message, **metadata)

    def _discarded(
        self, reason: Reason, message: str, **metadata: object
    ) -> ServiceError:
        self.discard()
        return ServiceError(reason, message, **metadata)


def out_of_order_text(what: str) -> str:
    return f"cannot take {what}: send one header, then chunks, then one trailer"


def no_header(what: str) -> ServiceError:
    return ServiceError(Reason.FRAME_ORDER, out_of_order_text(what))


def check_header(header: Header) -> None:
    """What a header must name so that its body can ever commit."""
    if header.body is Body.FILE:
        return
    required = {
        "epoch": header.claim.epoch is not None,
        "instance": bool(header.claim.instance),
        "boot_id": bool(header.claim.boot_id),
        "if_generation_match": header.if_generation_match is not None,
    }
    for field, given in required.items():
        if not given:
            raise ServiceError(
                Reason.FIELD_REQUIRED,
                f"cannot take a segment without {field}: set it in the header",
                field=f"header.{field}",
            )


def check_reuse(header: Header, agent: str, body: str) -> None:
    """An upload's id belongs to one agent and one kind of body."""
    if (agent, body) != (header.agent.agent, header.body):
        raise reused(header, "another agent or content has it")


def reused(header: Header, why: str) -> ServiceError:
    return ServiceError(
        Reason.UPLOAD_REUSED,
        f"cannot use upload id {header.upload_id} for {header.agent}: {why}; "
        "choose a new one",
        upload_id=header.upload_id,
    )
