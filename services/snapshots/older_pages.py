"""The pages that a delta's prefixes name, found in the earlier deltas of its chain.

Only the chunks that are needed are unpacked, oldest first, into a scratch file: a
prefix may rest on a page that rests on a prefix itself. Blocks.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from services.segments.layout import malformed
from services.segments.page_file import PageFile
from services.segments.seek import SegmentFile
from services.segments.unpack import unpack
from services.snapshots.disk_work import nameless_file


@contextmanager
def older_pages(
    deltas: Sequence[Path], wanted: set[int], page_size: int, scratch: Path
) -> Iterator[PageFile]:
    """A context; `read` gives pages as they were before the delta."""
    with nameless_file(scratch) as descriptor:
        file = PageFile(descriptor, page_size)
        fill(file, deltas, wanted)
        yield file


def fill(file: PageFile, deltas: Sequence[Path], wanted: set[int]) -> None:
    """Puts the latest versions of these pages that the deltas carry into the file.

    Raises SEGMENT_MALFORMED if one of them is carried by none.
    """
    for path, hits in reversed(_plan(deltas, wanted)):
        with SegmentFile.opened(path) as segment:
            for chunk, _ in segment.holding(hits, payload=True):
                prefix = file.read(chunk.prefix) if chunk.prefix else b""
                file.write(chunk.numbers, unpack(chunk, prefix))


def _plan(deltas: Sequence[Path], wanted: set[int]) -> list[tuple[Path, list[int]]]:
    """Which pages are taken from which deltas, newest first."""
    plan = []
    for path in reversed(deltas):
        if not wanted:
            break
        found: list[int] = []
        deeper: set[int] = set()
        with SegmentFile.opened(path) as segment:
            for chunk, hits in segment.holding(sorted(wanted)):
                found += hits
                deeper.update(chunk.prefix)
        wanted = (wanted - set(found)) | deeper
        plan.append((path, found))
    if wanted:
        raise malformed("a prefix names a page that no earlier delta carries")
    return plan
