"""The pages that a delta's prefixes name, found in the earlier deltas of its chain.

Only the chunks that are needed are unpacked, oldest first, into a scratch file: a
prefix may rest on a page that rests on a prefix itself. Blocks.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from services.segments.layout import malformed
from services.segments.page_file import PageFile
from services.segments.seek import SegmentFile
from services.segments.unpack import unpack


class OlderPages:
    """A context; `read` gives pages as they were before the delta."""

    def __init__(
        self, deltas: Sequence[Path], wanted: set[int], page_size: int, scratch: Path
    ) -> None:
        self._deltas = deltas
        self._wanted = wanted
        self._page_size = page_size
        self._scratch = scratch
        self._descriptor = -1

    def __enter__(self) -> Self:
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        self._descriptor = os.open(self._scratch, flags, 0o600)
        self._scratch.unlink()
        try:
            self._file = PageFile(self._descriptor, self._page_size)
            fill(self._file, self._deltas, self._wanted)
        except BaseException:
            os.close(self._descriptor)
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        os.close(self._descriptor)

    def read(self, numbers: Sequence[int]) -> bytes:
        return self._file.read(numbers)


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
