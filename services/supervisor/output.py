"""The last bytes that an agent's process printed, and followers of new ones."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Final

KEPT_BYTES_MAX: Final = 262_144
PIECE_BYTES_MAX: Final = 65_536


@dataclass(frozen=True, slots=True)
class Piece:
    """Some output; `offset` counts all bytes of the run, dropped ones included."""

    offset: int
    data: bytes


class OutputBuffer:
    """A ring of pieces. Followers share it: a slow one sees a gap, costs nothing."""

    def __init__(self) -> None:
        self._pieces: deque[Piece] = deque()
        self._kept_bytes = 0
        self._end = 0
        self._closed = False
        self._grown = asyncio.Event()

    @property
    def end(self) -> int:
        return self._end

    def append(self, data: bytes, dropped_bytes: int = 0) -> None:
        """Adds output; `dropped_bytes` were lost just before it."""
        self._end += dropped_bytes
        for start in range(0, len(data), PIECE_BYTES_MAX):
            piece = Piece(self._end, data[start : start + PIECE_BYTES_MAX])
            self._end += len(piece.data)
            self._pieces.append(piece)
            self._kept_bytes += len(piece.data)
        while self._kept_bytes > KEPT_BYTES_MAX:
            self._kept_bytes -= len(self._pieces.popleft().data)
        self._wake()

    def close(self) -> None:
        """Says that the run has ended; followers end with what is kept."""
        self._closed = True
        self._wake()

    def _wake(self) -> None:
        grown, self._grown = self._grown, asyncio.Event()
        grown.set()

    async def tail(self, limit: int, follow: bool) -> AsyncIterator[Piece]:
        """The last `limit` bytes kept (0: all), then new ones if asked."""
        position = self._end - limit if limit else 0
        while True:
            grown = self._grown
            for piece in tuple(self._pieces):
                if piece.offset + len(piece.data) <= position:
                    continue
                skip = max(0, position - piece.offset)
                yield Piece(piece.offset + skip, piece.data[skip:])
                position = piece.offset + len(piece.data)
            if self._closed or not follow:
                return
            await grown.wait()
