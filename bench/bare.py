"""The baseline: gRPC and nothing else, in a process of its own.

`Empty` answers with nothing. `Put` writes what it is sent to a file, synced before it
answers. `Get` sends that file. No auth, no logs, no checks, no messages but raw bytes.
"""

from __future__ import annotations

import asyncio
import os
import selectors
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import grpc

SERVICE: Final = "bench.Bare"
EMPTY: Final = f"/{SERVICE}/Empty"
PUT: Final = f"/{SERVICE}/Put"
GET: Final = f"/{SERVICE}/Get"
FRAME_BYTES: Final = 1 << 20
START_S: Final = 15.0
STOP_S: Final = 10.0


def sync_folder(folder: Path) -> None:
    """Makes names in the folder durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class BareServicer:
    """Raw bytes in and out of one file."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / "bare.bin"

    async def empty(self, request: bytes, context: Any) -> bytes:
        return b""

    async def put(self, frames: AsyncIterator[bytes], context: Any) -> bytes:
        with self._file.open("wb") as file:
            async for frame in frames:
                await asyncio.to_thread(file.write, frame)
            file.flush()
            await asyncio.to_thread(os.fsync, file.fileno())
        await asyncio.to_thread(sync_folder, self._file.parent)
        return b""

    async def get(self, request: bytes, context: Any) -> AsyncIterator[bytes]:
        with self._file.open("rb") as file:
            while data := await asyncio.to_thread(file.read, FRAME_BYTES):
                yield data


async def serve(folder: Path) -> None:
    """Until killed; says on which port it is ready."""
    servicer = BareServicer(folder)
    server = grpc.aio.server()
    handlers: dict[str, grpc.RpcMethodHandler[bytes, bytes]] = {
        "Empty": grpc.unary_unary_rpc_method_handler(servicer.empty),
        "Put": grpc.stream_unary_rpc_method_handler(servicer.put),
        "Get": grpc.unary_stream_rpc_method_handler(servicer.get),
    }
    generic = grpc.method_handlers_generic_handler(SERVICE, handlers)
    server.add_generic_rpc_handlers((generic,))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    sys.stdout.write(f"ready 127.0.0.1:{port}\n")
    sys.stdout.flush()
    await server.wait_for_termination()


@contextmanager
def running(folder: Path) -> Iterator[str]:
    """The address of a bare server that lives as long as the block."""
    folder.mkdir()
    command = [sys.executable, "-m", "bench.bare", str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            with selectors.DefaultSelector() as selector:
                selector.register(process.stdout, selectors.EVENT_READ)
                assert selector.select(START_S), "the bare server does not start"
            yield process.stdout.readline().removeprefix("ready ").strip()
        finally:
            process.kill()
            process.wait(STOP_S)


if __name__ == "__main__":
    asyncio.run(serve(Path(sys.argv[1])))
