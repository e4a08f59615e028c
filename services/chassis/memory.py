"""How the C library keeps what was freed.

It gives threads heaps of their own, up to eight a core. A frame of a stream is freed by
another thread than the one that comes to need room next, so each heap grew to what a
hundred streams hold at most: two take a third less, and are as fast.
"""

from __future__ import annotations

import ctypes
import os
from contextlib import suppress
from typing import Final

# Of glibc's malloc.h; other C libraries have no such call, and no such heaps.
_M_ARENA_MAX: Final = -8
HEAPS_MAX: Final = 2


def keep_few_heaps() -> None:
    """Call it first: heaps that exist already stay. An operator's own number counts."""
    if "MALLOC_ARENA_MAX" in os.environ:
        return
    with suppress(AttributeError):
        ctypes.CDLL(None).mallopt(_M_ARENA_MAX, HEAPS_MAX)
