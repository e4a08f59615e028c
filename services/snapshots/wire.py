"""Proto messages ⇄ values, and what is wrong with a message by itself."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import AsyncIterator, Mapping
from datetime import datetime
from typing import Final

from google.protobuf.timestamp_pb2 import Timestamp

from services.chassis.errors import Reason, ServiceError
from services.chassis.names import AgentName, InstanceName, SnapshotName
from services.snapshots.amendment import Amendment
from services.snapshots.downloads import Part
from services.snapshots.generations import Claim, Format, Kind, Origin, Snapshot
from services.snapshots.rebuild import Rebuilt
from services.snapshots.staging import PausedUpload
from services.snapshots.upload import (
    Body,
    Chunk,
    Frame,
    Header,
    Trailer,
    no_header,
)
from townkeeper.snapshots.v1 import resources_pb2
from townkeeper.snapshots.v1 import snapshots_pb2 as pb

# What Redis's scripts, which count in doubles, still tell apart.
EPOCH_MAX: Final = 2**53 - 1
BOOT_ID_LENGTH_MAX: Final = 128
# Names of programs and their versions, ids of sessions: none known is longer than 60.
TEXT_LENGTH_MAX: Final = 256
LABELS_MAX: Final = 16
LABEL_LENGTH_MAX: Final = 63
# What a mask may name.
AMENDABLE: Final = frozenset({"labels", "hold"})
ALL_GENERATIONS: Final = "/snapshots/-"

_UUID: Final = re.compile(
    r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", re.ASCII
)
_BODIES: Final = {
    pb.UploadHeader.BODY_SEGMENT: Body.SEGMENT,
    pb.UploadHeader.BODY_FILE: Body.FILE,
}
_FORMATS: Final = {
    Format.PAGES: resources_pb2.FORMAT_PAGES,
    Format.OPAQUE: resources_pb2.FORMAT_OPAQUE,
}
_KINDS: Final = {
    Kind.BASE: resources_pb2.Segment.KIND_BASE,
    Kind.DELTA: resources_pb2.Segment.KIND_DELTA,
    Kind.OPAQUE: resources_pb2.Segment.KIND_OPAQUE,
}


def invalid(field: str, wrong: str) -> ServiceError:
    return ServiceError(
        Reason.FIELD_INVALID, f"cannot use {field}: {wrong}", field=field
    )


def required(field: str) -> ServiceError:
    return ServiceError(
        Reason.FIELD_REQUIRED, f"cannot go on without {field}: set it", field=field
    )


def owner(agent: AgentName, request: pb.AdvanceEpochRequest) -> Claim:
    """Who is to own the agent; all of it must be given."""
    if not request.instance:
        raise required("instance")
    if not request.boot_id:
        raise required("boot_id")
    epoch = _epoch(request.epoch)
    if not epoch:
        raise required("epoch")
    return Claim(
        epoch,
        _instance(agent, request.instance),
        _text(request.boot_id, "boot_id", BOOT_ID_LENGTH_MAX),
    )


def deletion(request: pb.DeleteSnapshotRequest) -> tuple[AgentName, int | None]:
    """The agent, and one of its generations or None for all of them."""
    if request.name.endswith(ALL_GENERATIONS):
        return AgentName.parse(request.name.removesuffix(ALL_GENERATIONS)), None
    name = SnapshotName.parse(request.name)
    return AgentName(name.town, name.agent), name.generation


def amendment(request: pb.UpdateSnapshotRequest) -> Amendment:
    """What the mask names, and nothing else of the record."""
    paths = set(request.update_mask.paths)
    if not paths:
        raise required("update_mask")
    if unknown := sorted(paths - AMENDABLE):
        raise invalid("update_mask", f"{unknown[0]!r} cannot be changed")
    given = request.snapshot
    return Amendment(
        labels=_labels(given.labels, "labels") if "labels" in paths else None,
        hold=given.hold if "hold" in paths else None,
    )


def optional_epoch(request: pb.DeleteSnapshotRequest | pb.UploadHeader) -> int | None:
    return _epoch(request.epoch) if request.HasField("epoch") else None


def generation_match(
    request: pb.DeleteSnapshotRequest | pb.UploadHeader,
) -> int | None:
    if not request.HasField("if_generation_match"):
        return None
    if request.if_generation_match < 0:
        raise invalid("if_generation_match", "give 0 or a generation")
    return request.if_generation_match


def upload_id(text: str, field: str = "upload_id") -> str:
    if not text:
        raise required(field)
    if not _UUID.fullmatch(text):
        raise invalid(field, "give a UUID4 in small letters")
    return text


def read_time(
    request: pb.GetSnapshotRequest | pb.DownloadSnapshotRequest,
) -> int | None:
    """In microseconds, as generations are timed; None if none is given."""
    return request.read_time.ToMicroseconds() if request.HasField("read_time") else None


class Frames(AsyncIterator[Frame]):
    """The frames of a stream, each checked by itself. No generator: that would keep a
    frame in memory while it waits for the next, and there are many streams."""

    def __init__(self, requests: AsyncIterator[pb.UploadSnapshotRequest]) -> None:
        self._requests = requests

    async def __anext__(self) -> Frame:
        return frame(await anext(self._requests))


def frame(request: pb.UploadSnapshotRequest) -> Frame:
    match request.WhichOneof("frame"):
        case "header":
            return header(request.header)
        case "chunk":
            part = request.chunk
            return Chunk(part.offset, part.data, part.crc32)
        case "trailer":
            end = request.trailer
            return Trailer(end.size_bytes, end.blake3, end.fingerprint)
        case _:
            raise no_header("an empty frame")


def header(given: pb.UploadHeader) -> Header:
    agent = AgentName.parse(given.parent)
    if given.body == pb.UploadHeader.BODY_UNSPECIFIED:
        raise required("header.body")
    if given.body not in _BODIES:
        raise invalid("header.body", "give BODY_SEGMENT or BODY_FILE")
    if given.write_offset < 0:
        raise invalid("header.write_offset", "give 0 or more bytes")
    instance = _instance(agent, given.instance) if given.instance else ""
    return Header(
        agent=agent,
        body=_BODIES[given.body],
        origin=Origin(
            upload_id=upload_id(given.upload_id),
            runtime=_text(given.runtime, "header.runtime"),
            runtime_version=_text(given.runtime_version, "header.runtime_version"),
            session_id=_text(given.session_id, "header.session_id"),
            labels=_labels(given.labels, "header.labels"),
        ),
        claim=Claim(
            optional_epoch(given),
            instance,
            _text(given.boot_id, "header.boot_id", BOOT_ID_LENGTH_MAX),
        ),
        write_offset=given.write_offset,
        if_generation_match=generation_match(given),
    )


def page_token(agent: AgentName, below: int | None) -> str:
    if below is None:
        return ""
    return base64.urlsafe_b64encode(f"1:{below}:{agent}".encode()).decode()


def below(agent: AgentName, token: str) -> int | None:
    """Where a page goes on. Raises FIELD_INVALID for a token that is not ours."""
    if not token:
        return None
    try:
        text = base64.urlsafe_b64decode(token.encode()).decode()
    except (binascii.Error, ValueError):
        text = ""
    found = re.fullmatch(r"1:([1-9][0-9]{0,18}):(.*)", text, re.ASCII)
    if not found or found[2] != str(agent):
        raise invalid("page_token", "give one of the last answer, or none")
    return int(found[1])


def snapshot(value: Snapshot) -> resources_pb2.Snapshot:
    content, origin, gone = value.content, value.origin, value.deletion
    return resources_pb2.Snapshot(
        name=value.name,
        generation=value.generation,
        format=_FORMATS[content.format],
        size_bytes=content.size_bytes,
        page_size_bytes=content.page_size_bytes,
        page_count=content.page_count,
        segments=[
            resources_pb2.Segment(
                blake3=part.blake3,
                kind=_KINDS[part.kind],
                size_bytes=part.size_bytes,
                page_count=part.page_count,
            )
            for part in content.segments
        ],
        fingerprint=content.fingerprint,
        runtime=origin.runtime,
        runtime_version=origin.runtime_version,
        session_id=origin.session_id,
        epoch=value.epoch,
        instance=value.instance,
        upload_id=origin.upload_id,
        labels=dict(origin.labels),
        create_time=_timestamp(value.create_time),
        etag=value.etag,
        hold=value.hold,
        delete_time=_timestamp(gone.time if gone else None),
        purge_time=_timestamp(gone.purge_time if gone else None),
    )


def upload(value: PausedUpload) -> resources_pb2.Upload:
    return resources_pb2.Upload(
        upload_id=value.upload_id,
        parent=str(value.agent),
        persisted_size_bytes=value.persisted_bytes,
        expire_time=_timestamp(value.expire_time),
    )


def part(value: Part) -> pb.DownloadSnapshotResponse:
    if isinstance(value, Chunk):
        chunk = pb.Chunk(offset=value.offset, data=value.data, crc32=value.crc32)
        return pb.DownloadSnapshotResponse(chunk=chunk)
    trailer = pb.DownloadTrailer(size_bytes=value.size_bytes, blake3=value.blake3)
    return pb.DownloadSnapshotResponse(trailer=trailer)


def rebuilt(value: Rebuilt) -> pb.ReindexTownResponse:
    return pb.ReindexTownResponse(
        agent=str(value.agent),
        generation_count=value.generations,
        head=value.head,
        epoch=value.epoch,
    )


def _timestamp(moment: datetime | None) -> Timestamp | None:
    if moment is None:
        return None
    found = Timestamp()
    found.FromDatetime(moment)
    return found


def _epoch(number: int) -> int:
    if not 0 <= number <= EPOCH_MAX:
        raise invalid("epoch", f"give 1 to {EPOCH_MAX}")
    return number


def _instance(agent: AgentName, text: str) -> str:
    name = InstanceName.parse(text)
    if name.town != agent.town:
        raise invalid("instance", f"it is of another town than {agent}")
    return str(name)


def _text(text: str, field: str, length_max: int = TEXT_LENGTH_MAX) -> str:
    if len(text) > length_max:
        raise invalid(field, f"give at most {length_max} characters")
    return text


def _labels(given: Mapping[str, str], field: str) -> tuple[tuple[str, str], ...]:
    if len(given) > LABELS_MAX:
        raise invalid(field, f"give at most {LABELS_MAX}")
    for key, value in given.items():
        if not key or max(len(key), len(value)) > LABEL_LENGTH_MAX:
            raise invalid(
                field,
                f"give keys and values of at most {LABEL_LENGTH_MAX} characters",
            )
    return tuple(sorted(given.items()))
