"""Generation records as JSON, and where blobs lie. Pure.

Records are for ever (promise P10): fields may be added, none may change its meaning.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any, Final

from services.chassis.names import AgentName, is_id
from services.snapshots.generations import (
    Content,
    Deletion,
    Format,
    Kind,
    Origin,
    Segment,
    Snapshot,
)

# A record is of version 2 once it was changed after its commit; of version 3 if a
# program that knows neither holds nor deletions would do harm with it.
VERSION: Final = 3
TOWNS: Final = "towns"
_DIGITS: Final = 19  # of the largest generation, so that names sort as numbers do
_SUFFIX: Final = ".json"
_DIGEST: Final = re.compile(r"[0-9a-f]{64}", re.ASCII)


def to_json(snapshot: Snapshot) -> str:
    content, origin = snapshot.content, snapshot.origin
    record: dict[str, Any] = {
        "version": _version(snapshot),
        "town": snapshot.agent.town,
        "agent": snapshot.agent.agent,
        "generation": snapshot.generation,
        "format": content.format,
        "size_bytes": content.size_bytes,
        "page_size_bytes": content.page_size_bytes,
        "page_count": content.page_count,
        "segments": [
            [part.blake3.hex(), part.kind, part.size_bytes, part.page_count]
            for part in content.segments
        ],
        "fingerprint": content.fingerprint.hex(),
        "upload_id": origin.upload_id,
        "runtime": origin.runtime,
        "runtime_version": origin.runtime_version,
        "session_id": origin.session_id,
        "labels": dict(origin.labels),
        "epoch": snapshot.epoch,
        "instance": snapshot.instance,
        "create_time_us": microseconds(snapshot.create_time),
    }
    if snapshot.revision:
        record["revision"] = snapshot.revision
    if snapshot.hold:
        record["hold"] = True
    if snapshot.deletion is not None:
        record["delete_time_us"] = microseconds(snapshot.deletion.time)
        record["purge_time_us"] = microseconds(snapshot.deletion.purge_time)
    return json.dumps(record, separators=(",", ":"), ensure_ascii=False)


def _version(snapshot: Snapshot) -> int:
    if snapshot.hold or snapshot.deletion is not None:
        return VERSION
    return 2 if snapshot.revision else 1


def from_json(text: str | bytes) -> Snapshot:
    """The record; ValueError if it is none that this version can read."""
    try:
        record = json.loads(text)
        if record["version"] > VERSION:
            raise ValueError(f"a record of version {record['version']}")
        return _snapshot(record)
    except (KeyError, TypeError, IndexError) as error:
        raise ValueError(f"no generation record: {error!r}") from error


def _snapshot(record: dict[str, Any]) -> Snapshot:
    content = Content(
        format=Format(record["format"]),
        size_bytes=record["size_bytes"],
        page_size_bytes=record["page_size_bytes"],
        page_count=record["page_count"],
        segments=tuple(
            Segment(bytes.fromhex(digest), Kind(kind), size, pages)
            for digest, kind, size, pages in record["segments"]
        ),
        fingerprint=bytes.fromhex(record["fingerprint"]),
    )
    origin = Origin(
        upload_id=record["upload_id"],
        runtime=record["runtime"],
        runtime_version=record["runtime_version"],
        session_id=record["session_id"],
        labels=tuple(record["labels"].items()),
    )
    return Snapshot(
        agent=AgentName(record["town"], record["agent"]),
        generation=record["generation"],
        content=content,
        origin=origin,
        epoch=record["epoch"],
        instance=record["instance"],
        create_time=from_microseconds(record["create_time_us"]),
        revision=record.get("revision", 0),
        hold=record.get("hold", False),
        deletion=_deletion(record),
    )


def _deletion(record: dict[str, Any]) -> Deletion | None:
    if "delete_time_us" not in record:
        return None
    return Deletion(
        from_microseconds(record["delete_time_us"]),
        from_microseconds(record["purge_time_us"]),
    )


def microseconds(moment: datetime) -> int:
    """Since 1970; exact, which a float would not be."""
    since = moment - datetime(1970, 1, 1, tzinfo=UTC)
    return (since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds


def from_microseconds(count: int) -> datetime:
    seconds, rest = divmod(count, 1_000_000)
    return datetime.fromtimestamp(seconds, UTC).replace(microsecond=rest)


def segment_folder(town: str) -> str:
    return f"{TOWNS}/{town}/segments"


def segment_key(town: str, digest: bytes) -> str:
    name = digest.hex()
    return f"{segment_folder(town)}/{name[:2]}/{name}"


def agent_folder(town: str) -> str:
    return f"{TOWNS}/{town}/agents"


def record_folder(agent: AgentName) -> str:
    return f"{agent_folder(agent.town)}/{agent.agent}/records"


def record_key(agent: AgentName, generation: int) -> str:
    return f"{record_folder(agent)}/{generation:0{_DIGITS}d}{_SUFFIX}"


def ids(names: Iterable[str]) -> list[str]:
    """Those of the names that can be of a town or an agent: folders hold strays."""
    return sorted(name for name in names if is_id(name))


def digest_of(name: str) -> bytes | None:
    """The digest that a file of a segment folder is named by; None for others."""
    return bytes.fromhex(name) if _DIGEST.fullmatch(name) else None


def generation_of(name: str) -> int | None:
    """The generation that a file of a record folder is about; None for others."""
    stem = name.removesuffix(_SUFFIX)
    return int(stem) if stem != name and stem.isdecimal() else None
