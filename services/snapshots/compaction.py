"""Which segments of a chain become one, so that every read is short. Pure.

Sizes fall from old to new: a delta is written again only together with others that
are as large, so all that is ever written is a small multiple of what was saved.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from services.snapshots.generations import Segment, Snapshot

# What a generation reads as, at most, once its chain was compacted.
SEGMENTS_MAX: Final = 16
# The youngest deltas always go together, and so few older ones stay beside them.
_RUN_MIN: Final = 8
_OLDER_MAX: Final = 7
# An older delta joins when it is at most so many times as large as all younger ones.
_FACTOR: Final = 2


@dataclass(frozen=True, slots=True)
class Run:
    """Segments of a chain that become one; with the base it becomes a base."""

    before: tuple[Segment, ...]
    segments: tuple[Segment, ...]

    @property
    def folds(self) -> bool:
        return not self.before


def plan(chain: Sequence[Segment]) -> Run | None:
    """What to merge next; None while the chain is short enough."""
    if len(chain) <= SEGMENTS_MAX:
        return None
    sizes = [segment.size_bytes for segment in chain]
    start = max(1, len(chain) - _RUN_MIN)
    total = sum(sizes[start:])
    while start > 1 and (sizes[start - 1] <= _FACTOR * total or start > 1 + _OLDER_MAX):
        start -= 1
        total += sizes[start]
    if start == 1 and 2 * total >= sizes[0]:
        # So much has changed that writing all of it again costs no more than that.
        start = 0
    return Run(tuple(chain[:start]), tuple(chain[start:]))


def followers(snapshot: Snapshot, run: Run) -> tuple[Segment, ...] | None:
    """The deltas that were saved on top of the run since; None if another base began,
    or somebody else merged."""
    chain = snapshot.content.segments
    end = len(run.before) + len(run.segments)
    return chain[end:] if chain[:end] == run.before + run.segments else None


def compacted(snapshot: Snapshot, segments: tuple[Segment, ...]) -> Snapshot:
    """The same state, read from other segments."""
    return replace(
        snapshot,
        content=replace(snapshot.content, segments=segments),
        revision=snapshot.revision + 1,
    )
