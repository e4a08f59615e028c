"""From a live database to a segment on disk, in the one thread that holds SQLite."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

from services.chassis.errors import Reason, ServiceError
from services.segments.disk import refusing_full_disk
from services.segments.encode import SegmentEncoder, write_segment
from services.segments.layout import Kind
from services.segments.page_map import PageMap
from services.segments.prefix import PrefixCache
from services.supervisor.capture import Capture, Reading, Source, StateMoved
from services.supervisor.live_source import LiveSource
from services.supervisor.places import Places

T = TypeVar("T")

# Packing a first save uses the second core too; a delta is too small to care.
BASE_THREADS: Final = 2
# The pages of a base are read after its capture, and may move then.
_MOVES_MAX: Final = 6


@dataclass(frozen=True, slots=True)
class Cut:
    """A segment on disk, and what to do once its fate is known."""

    path: Path
    fingerprint: bytes
    base: bool
    capture: Capture
    reading: Reading


class Segmenter:
    """One database's segments. A SQLite connection never leaves its thread."""

    def __init__(self, database: Path, places: Places) -> None:
        self._scratch = places.scratch
        self._kept = places.page_map
        self._prefix = PrefixCache()
        self._thread = ThreadPoolExecutor(1, f"sqlite {database.name}")
        self._open: Callable[[], Source] = lambda: LiveSource(
            database, places.scratch, places.log_position
        )
        self._source: Source | None = None

    async def changed(self) -> bool:
        """Whether anything was written since the last landed cut."""
        return await self._run(lambda: self._held().changed())

    async def cut(self, page_map: PageMap, name: str, *, base: bool) -> Cut | None:
        """What differs from the map, as a segment file; None: nothing does."""
        return await self._run(lambda: self._cut(page_map, name, base))

    async def landed(self, cut: Cut) -> None:
        """The cut is a generation now: later ones are counted from it."""

        def commit() -> None:
            if cut.base:
                self._prefix.reset()
            else:
                self._prefix.commit(cut.capture.header.page_count)
            cut.capture.commit(self._kept)
            self._drop(cut)

        await self._run(commit)

    async def dropped(self, cut: Cut) -> None:
        """The cut will not be a generation."""

        def discard() -> None:
            self._prefix.reset()
            self._drop(cut)

        await self._run(discard)

    async def let_go(self) -> None:
        """Stands in nobody's way until the next cut."""
        await self._run(lambda: self._held().let_go())

    async def close(self) -> None:
        """Lets go of the database."""

        def close() -> None:
            if self._source is not None:
                self._source.close()

        await self._run(close)
        self._thread.shutdown(wait=False)

    def _held(self) -> Source:
        if self._source is None:
            self._source = self._open()
        return self._source

    def _cut(self, page_map: PageMap, name: str, base: bool) -> Cut | None:
        for _ in range(_MOVES_MAX):
            with suppress(StateMoved):
                return self._cut_once(page_map, name, base)
        raise ServiceError(
            Reason.SERVICE_UNAVAILABLE,
            "cannot save: the database was never still while it was read; try again",
        )

    def _cut_once(self, page_map: PageMap, name: str, base: bool) -> Cut | None:
        capture = self._held().capture(page_map, base=base)
        if capture is None:
            return None
        path = self._scratch / f"{name}.segment"
        whole = capture.header.kind is Kind.BASE
        try:
            encoder = self._encoder(capture, whole)
            with refusing_full_disk("a segment"), path.open("wb") as file:
                write_segment(file, encoder)
        except BaseException:
            capture.close()
            self._prefix.discard()
            path.unlink(missing_ok=True)
            raise
        fingerprint = bytes(encoder.info.fingerprint)
        return Cut(path, fingerprint, whole, capture, self._held().reading)

    def _encoder(self, capture: Capture, whole: bool) -> SegmentEncoder:
        if whole:
            threads = min(BASE_THREADS, os.cpu_count() or 1)
            return SegmentEncoder(capture.header, capture.blocks(), threads=threads)
        return SegmentEncoder(
            capture.header,
            map(self._prefix.offer, capture.blocks()),
            capture.fingerprint,
            prefix=self._prefix.source,
        )

    def _drop(self, cut: Cut) -> None:
        cut.capture.close()
        cut.path.unlink(missing_ok=True)

    async def _run(self, step: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, step)
