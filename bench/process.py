"""What processes use: processor time and memory, as the kernel counts them."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable
from pathlib import Path

KIB = 1 << 10


def processor_s(pids: Iterable[int]) -> float:
    """Seconds of processor time, all threads, ended ones included."""
    # The clock of another process, as clock_getcpuclockid(3) makes it: to the ns,
    # where /proc counts in hundredths of a second.
    return sum(time.clock_gettime((~pid << 3) | 2) for pid in pids)


def resident_bytes(pid: int) -> int:
    return _status_bytes(pid, "VmRSS")


def reset_peak(pid: int) -> None:
    """The peak is counted anew from here."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")


def peak_bytes(pid: int) -> int:
    """The most that was resident since the last reset."""
    return _status_bytes(pid, "VmHWM")


def _status_bytes(pid: int, field: str) -> int:
    text = Path(f"/proc/{pid}/status").read_text()
    found = re.search(rf"^{field}:\s+(\d+) kB$", text, re.MULTILINE)
    assert found is not None, f"no {field} of {pid}"
    return int(found[1]) * KIB
