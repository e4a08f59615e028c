"""When agents may be started, by what the last heartbeat said."""

import asyncio
from pathlib import Path

from services.chassis.clock import SystemClock
from services.supervisor.events import EventLog
from services.supervisor.freezer import Freezer
from services.supervisor.ledger import Ledger


async def test_an_answer_that_comes_too_late_starts_nothing(tmp_path: Path) -> None:
    """Sent more than a TTL ago, by a supervisor that stood still: others may have what
    it leased. The next answer says more."""
    may_start = asyncio.Event()
    events = EventLog("boot", SystemClock())
    freezer = Freezer("t", Ledger(tmp_path), events, may_start)
    now = asyncio.get_running_loop().time()

    await freezer.renewed(now - 20.0, 10.0, 2, ())
    assert not may_start.is_set()

    await freezer.renewed(now, 10.0, 2, ())
    assert may_start.is_set()
