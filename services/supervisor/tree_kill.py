"""Signals exactly the process that is meant, and kills whole trees, proven."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Iterable

from services.supervisor.process_tree import (
    ProcessIdentity,
    identify,
    members,
    newest_member,
)

KILL_S = 10.0  # what is not dead by then is stuck in the kernel
POLL_S = 0.01
NEWEST_LOOKS = 50  # some 2 ms


def send(identity: ProcessIdentity, number: signal.Signals) -> bool:
    """Signals exactly this process; False when it is gone or its pid is another's."""
    with contextlib.suppress(OSError):
        pidfd = os.pidfd_open(identity.pid)
        try:
            if identify(identity.pid) == identity:
                signal.pidfd_send_signal(pidfd, number)
                return True
        finally:
            os.close(pidfd)
    return False


async def kill_tree(
    runs: Iterable[str], roots: Iterable[ProcessIdentity] = ()
) -> tuple[int, tuple[int, ...]]:
    """Kills all processes of these runs and roots; returns how many, and who survived.

    Everybody is stopped first, round after round until nobody new is found: a stopped
    process cannot fork, so none is missed. Proven: it ends with an empty search.
    """
    runs, roots = [name for name in runs if name], set(roots)
    loop = asyncio.get_running_loop()
    deadline = loop.time() + KILL_S
    stopped: set[ProcessIdentity] = set()
    while True:
        found = set(await asyncio.to_thread(_search, runs, roots | stopped))
        new = found - stopped
        if not found or loop.time() > deadline:
            return len(stopped - found), tuple(sorted(p.pid for p in found))
        stopped |= new
        if not new:
            for identity in found:
                send(identity, signal.SIGKILL)
            await asyncio.sleep(POLL_S)


def _search(runs: list[str], roots: set[ProcessIdentity]) -> list[ProcessIdentity]:
    """Finds and stops. When nobody is found the newest process is looked at again and
    again, for one that is always gone before a whole search comes to it."""
    if found := members(runs, roots):
        for identity in found:
            send(identity, signal.SIGSTOP)
        return found
    for _ in range(NEWEST_LOOKS if runs else 0):
        newest = newest_member(runs)
        if newest and send(newest, signal.SIGSTOP):
            return [newest]
    return []


def leftovers(
    runs: Iterable[str], identities: Iterable[ProcessIdentity] = ()
) -> list[ProcessIdentity]:
    """What still lives of a dead predecessor, from what it had written down."""
    return members([name for name in runs if name], identities)
