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

from services.segments.decode import Chunk
from services.segments.layout import malformed
from services.segments.page_file import PageFile
from services.segments.unpack import unpack
from services.snapshots.delta_proof import chunks


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
            self._fill()
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

    def _fill(self) -> None:
        self._file = PageFile(self._descriptor, self._page_size)
        for path, ordinals in reversed(self._plan()):
            for ordinal, chunk in enumerate(chunks(path)):
                if ordinal in ordinals:
                    self._file.write(chunk.numbers, self._unpacked(chunk))

    def _plan(self) -> list[tuple[Path, set[int]]]:
        """Which chunks of which deltas, newest first, are needed."""
        plan = []
        wanted = self._wanted
        for path in reversed(self._deltas):
            ordinals: set[int] = set()
            found: set[int] = set()
            deeper: set[int] = set()
            for ordinal, chunk in enumerate(chunks(path)):
                if hits := wanted.intersection(chunk.numbers):
                    ordinals.add(ordinal)
                    found |= hits
                    deeper.update(chunk.prefix)
            wanted = (wanted - found) | deeper
            plan.append((path, ordinals))
        if wanted:
            raise malformed("a prefix names a page that no earlier delta carries")
        return plan

    def _unpacked(self, chunk: Chunk) -> bytes:
        prefix = self._file.read(chunk.prefix) if chunk.prefix else b""
        return unpack(chunk, prefix)
