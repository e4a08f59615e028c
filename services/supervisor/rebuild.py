"""Segments on disk → the database in its place, every page proven on the way."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from services.segments.chain import ChainBuilder, Expected
from services.segments.fingerprint import Fingerprint
from services.segments.page_map import PageMap
from services.segments.read import file_parts
from services.supervisor.place import place
from services.supervisor.places import Places
from services.supervisor.snapshots_client import Generation


def rebuild(
    segments: Sequence[Path], generation: Generation, places: Places, database: Path
) -> PageMap:
    """Builds beside the place, proves, then moves in. Blocks: call it from a thread.

    Raises DIGEST_MISMATCH, SEGMENT_MALFORMED or NOT_A_DATABASE when the generation is
    not sound, STORAGE_FULL, LEASE_HELD while a process has the old file open.
    """
    built = places.scratch / f"{generation.number}.rebuilt"
    built.unlink(missing_ok=True)
    expected = Expected(
        generation.page_size,
        generation.page_count,
        Fingerprint.from_bytes(generation.fingerprint),
    )
    with ChainBuilder(built, expected) as chain:
        for segment in segments:
            with segment.open("rb") as file:
                chain.add(file_parts(file))
        page_map = chain.finish()
    place(built, database, root=places.home)
    return page_map
