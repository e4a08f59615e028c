"""What the index of a write-ahead log (the `-shm` file) says of the log. Pure.

Its first 136 bytes hold one header twice and how much of the log is in the main file.
A writer fills in the second copy first, so two equal copies are one committed state.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final, Self

INDEX_BYTES: Final = 136
_COPY: Final = struct.Struct("=IIIBBHII8s8s8s")
_VERSION: Final = 3007000
_SALT: Final = struct.Struct(">I")


@dataclass(frozen=True, slots=True)
class LogState:
    """A committed state of the database, as the index of its log tells it."""

    salts: bytes  # of this log; another log has others
    frame: int  # the last committed one; 0: the log is empty
    checksum: bytes  # of that frame, as the frame itself holds it
    page_size: int  # 0 while nothing was ever written to this log
    page_count: int
    change: int  # counts commits, modulo 2^32

    @classmethod
    def parse(cls, raw: bytes) -> Self | None:
        """The state; None while a writer changes it, or when it is not understood."""
        if len(raw) < INDEX_BYTES or raw[: _COPY.size] != raw[_COPY.size :][:48]:
            return None
        version, _, change, ready, _, page_size, frame, count, checksum, salts, _ = (
            _COPY.unpack_from(raw)
        )
        if version != _VERSION or not ready:
            return None
        return cls(
            salts=salts,
            frame=frame,
            checksum=struct.pack(">II", *struct.unpack("=II", checksum)),
            page_size=65_536 if page_size == 1 else page_size,
            page_count=count,
            change=change,
        )

    def follows(self, earlier: LogState) -> bool:
        """Whether this log is the one that was begun right after the earlier one."""
        before, after = earlier.salts[:4], self.salts[:4]
        step = _SALT.unpack(after)[0] - _SALT.unpack(before)[0]
        return bool(step % (1 << 32) == 1)


assert _COPY.size == 48
