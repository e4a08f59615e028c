"""A TCP proxy that misbehaves as networks do: late, silent or cut, each way alone.

with SlowProxy("127.0.0.1:50052") as proxy:
    ... call proxy.address in place of the service's own
    proxy.delay_s = 2.0               # every answer comes 2 s late
    proxy.to_server.delay_s = 1.0     # and every request 1 s
    proxy.to_client.hole = True       # nothing comes back until it is False again
    proxy.to_server.room_bytes = 9    # the tenth byte and all after it wait for None
    proxy.cut()                       # all connections are reset; new ones may come
    proxy.refusing = True             # new ones are reset as well
"""

from __future__ import annotations

import asyncio
import socket
import struct
import threading
from collections.abc import Coroutine
from dataclasses import dataclass
from types import TracebackType
from typing import Final, Self

_READ_BYTES: Final = 1 << 16
# Parts under way in one direction: bounded, so that a slow peer holds the other back.
_PARTS_MAX: Final = 256
_LOOK_EVERY_S: Final = 0.005
_START_S: Final = 10.0


@dataclass
class Way:
    """One direction. What a hole swallows is not lost: TCP would send it again."""

    delay_s: float = 0.0
    hole: bool = False
    # It becomes a hole after so many more bytes; None: it does not.
    room_bytes: int | None = None

    async def pass_on(
        self, source: asyncio.StreamReader, target: asyncio.StreamWriter
    ) -> None:
        """Passes on all bytes in order, until the source ends or the target is gone."""
        parts: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(_PARTS_MAX)
        reading = asyncio.create_task(self._read(source, parts))
        try:
            while True:
                arrived_at, data = await parts.get()
                await self._open(arrived_at)
                if not data:
                    return
                while data:
                    await self._open(arrived_at)
                    part = data[: self.room_bytes]
                    data = data[len(part) :]
                    if self.room_bytes is not None:
                        self.room_bytes -= len(part)
                    target.write(part)
                    await target.drain()
        except OSError:
            return
        finally:
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)

    async def _open(self, arrived_at: float) -> None:
        """Returns when what arrived then may pass."""
        now = asyncio.get_running_loop().time
        # Asked again all the while: the network may change meanwhile.
        while self.hole or self.room_bytes == 0 or now() < arrived_at + self.delay_s:
            await asyncio.sleep(_LOOK_EVERY_S)

    async def _read(
        self,
        source: asyncio.StreamReader,
        parts: asyncio.Queue[tuple[float, bytes]],
    ) -> None:
        now = asyncio.get_running_loop().time
        try:
            while data := await source.read(_READ_BYTES):
                await parts.put((now(), data))
        except OSError:
            pass  # reset: for the other side it has ended
        await parts.put((now(), b""))


class SlowProxy:
    """Stands between any clients and one server, in a thread of its own."""

    def __init__(self, target: str, delay_s: float = 0.0) -> None:
        self.to_server = Way()
        self.to_client = Way(delay_s)
        self.refusing = False
        self.address = ""
        host, _, port = target.rpartition(":")
        self._target = (host, int(port))
        self._open: set[asyncio.StreamWriter] = set()
        self._loop = asyncio.new_event_loop()
        self._listening = threading.Event()
        self._ended = asyncio.Event()
        self._thread = threading.Thread(target=self._run, name="slow-proxy")

    @property
    def delay_s(self) -> float:
        """How late answers come."""
        return self.to_client.delay_s

    @delay_s.setter
    def delay_s(self, delay_s: float) -> None:
        self.to_client.delay_s = delay_s

    @property
    def hole(self) -> bool:
        """Whether nothing passes in either direction."""
        return self.to_client.hole and self.to_server.hole

    @hole.setter
    def hole(self, swallows: bool) -> None:
        self.to_client.hole = self.to_server.hole = swallows

    def cut(self) -> None:
        """Resets every connection there is."""
        asyncio.run_coroutine_threadsafe(self._cut(), self._loop).result(_START_S)

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._listening.wait(_START_S), "the proxy listens"
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._loop.call_soon_threadsafe(self._ended.set)
        self._thread.join(_START_S)

    async def _cut(self) -> None:
        for writer in self._open:
            _reset(writer)

    def _run(self) -> None:
        try:
            self._loop.run_until_complete(self._serve())
        finally:
            self._loop.close()

    async def _serve(self) -> None:
        server = await asyncio.start_server(self._connect, "127.0.0.1", 0)
        self.address = "{}:{}".format(*server.sockets[0].getsockname())
        self._listening.set()
        await self._ended.wait()
        server.close()
        rest = asyncio.all_tasks() - {asyncio.current_task()}
        for one in rest:
            one.cancel()
        await asyncio.gather(*rest, return_exceptions=True)
        await asyncio.sleep(0)  # sockets are closed in the loop's next turn

    async def _connect(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        ends = {writer}
        try:
            if self.refusing:
                _reset(writer)
            else:
                server_reader, server_writer = await asyncio.open_connection(
                    *self._target
                )
                ends.add(server_writer)
                self._open |= ends
                await _first(
                    self.to_server.pass_on(reader, server_writer),
                    self.to_client.pass_on(server_reader, writer),
                )
        except OSError:
            _reset(writer)  # nobody listens there: it is as if nobody did here
        except asyncio.CancelledError:
            return  # the proxy ends; whoever made this task asks it for no more
        finally:
            self._open -= ends
            for end in ends:
                end.close()


def _reset(writer: asyncio.StreamWriter) -> None:
    # Closed without lingering, a socket sends a reset in place of an end.
    writer.get_extra_info("socket").setsockopt(
        socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
    )
    writer.transport.abort()


async def _first(*ways: Coroutine[object, object, None]) -> None:
    """Runs both until one has ended; the other then has nobody to talk to."""
    tasks = [asyncio.ensure_future(way) for way in ways]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
