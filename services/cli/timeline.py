"""A history as people read it: days, hours, and in them what stands out. Pure.

2026-01-31
  14:00   9-12   4 saved, 3.1 MiB
            12  14:55:01  3.1 MiB  newest
            10  14:50:00  2.9 MiB  held  before=the move
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from itertools import groupby

from google.protobuf.timestamp_pb2 import Timestamp

from services.cli.output import size
from townkeeper.snapshots.v1.resources_pb2 import FORMAT_OPAQUE, Snapshot


def marks(snapshot: Snapshot) -> str:
    """What stands out about a generation by itself; empty for most."""
    found = []
    if snapshot.hold:
        found.append("held")
    if snapshot.HasField("delete_time"):
        purged = _time(snapshot.purge_time)
        found.append(f"deleted, gone after {purged:%Y-%m-%d %H:%M}Z")
    if snapshot.format == FORMAT_OPAQUE:
        found.append("opaque")
    found += [
        f"{key}={value}" if value else key
        for key, value in sorted(snapshot.labels.items())
    ]
    return "  ".join(found)


def lines(snapshots: Sequence[Snapshot]) -> Iterator[str]:
    """Newest first, as they are listed."""
    live = [one for one in snapshots if not one.HasField("delete_time")]
    newest = live[0].generation if live else 0
    digits = len(str(max((one.generation for one in snapshots), default=0)))
    for day, of_day in groupby(snapshots, lambda one: _time(one.create_time).date()):
        yield f"{day:%Y-%m-%d}"
        for hour, of_hour in groupby(of_day, lambda one: _time(one.create_time).hour):
            yield from _hour(hour, list(of_hour), newest, digits)


def _hour(
    hour: int, found: Sequence[Snapshot], newest: int, digits: int
) -> Iterator[str]:
    first, last = found[-1].generation, found[0].generation
    span = f"{last}" if first == last else f"{first}-{last}"
    largest = max(one.size_bytes for one in found)
    width = 2 * digits + 1
    yield f"  {hour:02}:00  {span:>{width}}  {len(found)} saved, {size(largest)}"
    for one in found:
        said = [text for text in (_newest(one, newest), marks(one)) if text]
        if said:
            at = f"{_time(one.create_time):%H:%M:%S}"
            shown = f"{one.generation:>{width}}  {at}  {size(one.size_bytes)}"
            yield f"{'':9}{shown}  {'  '.join(said)}"


def _newest(snapshot: Snapshot, newest: int) -> str:
    return "newest" if snapshot.generation == newest else ""


def _time(moment: Timestamp) -> datetime:
    return moment.ToDatetime(tzinfo=UTC)
