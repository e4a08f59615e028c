"""Records of generations, made up."""

from __future__ import annotations

import uuid
from datetime import datetime, timedelta
from typing import Any

from blake3 import blake3

from services.chassis.names import AgentName
from services.snapshots.generations import (
    Content,
    Format,
    Kind,
    Origin,
    Segment,
    Snapshot,
)
from tests.support.clock import EPOCH
from tests.support.tokens import AGENT, TOWN

NAME = AgentName(TOWN, AGENT)
INSTANCE = f"towns/{TOWN}/instances/container-1"


def segment(mark: str = "base", kind: Kind = Kind.BASE) -> Segment:
    return Segment(blake3(mark.encode()).digest(), kind, 1000, 3)


def chain(deltas: int, mark: str = "") -> tuple[Segment, ...]:
    base = segment(f"base {mark}")
    return (
        base,
        *(segment(f"delta {mark}{n}", Kind.DELTA) for n in range(1, deltas + 1)),
    )


def content(deltas: int = 0, **changes: Any) -> Content:
    fields = {
        "format": Format.PAGES,
        "size_bytes": 3 * 4096,
        "page_size_bytes": 4096,
        "page_count": 3,
        "segments": chain(deltas),
        "fingerprint": bytes(range(16)),
        **changes,
    }
    return Content(**fields)


def opaque() -> Content:
    return Content(Format.OPAQUE, 10, 0, 0, (segment("bytes", Kind.OPAQUE),), b"")


def snapshot(generation: int = 1, **changes: Any) -> Snapshot:
    fields = {
        "agent": NAME,
        "generation": generation,
        "content": content(),
        "origin": Origin(str(uuid.uuid4()), runtime="kilo", labels=(("a", "b"),)),
        "epoch": 1,
        "instance": INSTANCE,
        "create_time": at(generation),
        **changes,
    }
    return Snapshot(**fields)


def at(seconds: float) -> datetime:
    return EPOCH + timedelta(seconds=seconds)
