"""A place in a fake where a test can hold one call and let it go again."""

from __future__ import annotations

import asyncio


class Pause:
    """Fakes call `here` with the name of each method."""

    def __init__(self) -> None:
        self._method = ""
        self._arrived = asyncio.Event()
        self._go_on = asyncio.Event()

    def at(self, method: str) -> None:
        """The next call of this method waits for `go_on`."""
        self._method = method
        self._arrived.clear()
        self._go_on.clear()

    async def arrived(self) -> None:
        """Returns when that call has come."""
        await self._arrived.wait()

    def go_on(self) -> None:
        self._go_on.set()

    async def here(self, method: str) -> None:
        # As with a real store, others may run meanwhile.
        await asyncio.sleep(0)
        if method == self._method:
            self._method = ""
            self._arrived.set()
            await self._go_on.wait()
