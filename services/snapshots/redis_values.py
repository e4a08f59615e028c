"""What the catalog's scripts are given and give: keys, arguments, answers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final

from services.chassis.names import AgentName
from services.snapshots import records
from services.snapshots.generations import AgentState, Claim, Snapshot
from services.snapshots.store import RECORDS_KEPT, Entry, Known

PREFIX: Final = "tk:snapshots:"
# A retry comes within minutes; a thousand saves are a quarter of an hour at the
# fastest pace, and 150 KB an agent.
UPLOAD_IDS_MAX: Final = 1000


def key(agent: AgentName, kind: str) -> str:
    """Kinds that end in a colon are of the agent, the others of its town."""
    whose = agent.agent if kind.endswith(":") else ""
    return f"{PREFIX}{{{agent.town}}}:{kind}{whose}"


def keys(agent: AgentName, *kinds: str) -> list[str]:
    return [key(agent, kind) for kind in kinds]


def optional(number: int | None) -> str:
    return "" if number is None else str(number)


def claimed(claim: Claim) -> list[str]:
    return [optional(claim.epoch), claim.instance, claim.boot_id]


def adoption(
    agent: AgentName,
    snapshots: Sequence[Snapshot],
    changes: int | None,
    owed: Sequence[Snapshot],
) -> list[str | int]:
    """All that adopt.lua takes over, oldest first."""
    live = [each for each in snapshots if each.deletion is None]
    head = live[-1:]
    recent, ids = snapshots[-RECORDS_KEPT:], snapshots[-UPLOAD_IDS_MAX:]
    kept = {each.generation: each for each in (*owed, *head, *recent)}
    changed = [each for each in snapshots if each.revision]
    return [
        agent.agent,
        max((each.epoch for each in snapshots), default=0),
        snapshots[-1].generation if snapshots else 0,
        head[0].generation if head else 0,
        optional(changes),
        *_counted(member(each) for each in live),
        *_counted(deletion(each) for each in snapshots if each.deletion),
        *_pairs((number, records.to_json(each)) for number, each in kept.items()),
        *_pairs((each.origin.upload_id, each.generation) for each in ids),
        *_pairs((each.generation, mark(each)) for each in changed),
    ]


def mark(snapshot: Snapshot) -> str:
    """What the catalog knows of a record that was changed, wherever that lies."""
    return f"{snapshot.revision}{' held' if snapshot.hold else ''}"


def member(snapshot: Snapshot) -> str:
    """What stands for it in the index."""
    created_us = records.microseconds(snapshot.create_time)
    return f"{snapshot.generation}:{created_us}"


def deletion(snapshot: Snapshot) -> str:
    """What stands for it among the deleted; empty if it is not deleted."""
    if snapshot.deletion is None:
        return ""
    purge_us = records.microseconds(snapshot.deletion.purge_time)
    return f"{member(snapshot)}:{purge_us}"


def texts(answer: Any) -> list[str]:
    return list(map(text, answer))


def text(answer: Any) -> str:
    return str(answer, "utf-8")


def state(answer: Any) -> tuple[AgentState, Known | None]:
    """What look.lua found."""
    epoch, instance, boot_id, last, _, record, upload, revision, changes = texts(answer)
    found = AgentState(
        epoch=int(epoch),
        instance=instance,
        boot_id=boot_id,
        last=int(last),
        head=records.from_json(record) if record else None,
        revision=int(revision),
        changes=int(changes),
    )
    return found, known(upload)


def known(upload: str) -> Known | None:
    agent, slash, generation = upload.partition("/")
    return Known(agent, int(generation)) if slash else None


def entry(given: str) -> Entry:
    generation, created_us, purge_us = (given + "::").split(":")[:3]
    purged = int(purge_us) if purge_us else None
    return Entry(int(generation), int(created_us or 0), purged)


def _pairs(pairs: Iterable[tuple[str | int, str | int]]) -> list[str | int]:
    return _counted(part for pair in pairs for part in pair)


def _counted(parts: Iterable[str | int]) -> list[str | int]:
    """The parts, led by their number."""
    listed = list(parts)
    return [len(listed), *listed]
