"""The response that sends a download: a chunk at a time, cut off when it fails.

A body that breaks in the middle ends the connection: nobody takes it for a whole one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import aclosing

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from services.chassis.errors import ServiceError
from services.gateway.exchange import STALL_S, Report
from services.gateway.problems import CLIENT_GONE
from services.gateway.stream import Download


class StreamedFile(Response):
    """Made by `open`, which waits until the service has begun to send."""

    def __init__(
        self,
        download: Download,
        status: int,
        headers: Mapping[str, str],
        report: Report,
    ) -> None:
        super().__init__(None, status, headers, "application/octet-stream")
        self._download = download
        self._report = report

    @classmethod
    async def open(
        cls,
        download: Download,
        status: int,
        headers: Mapping[str, str],
        report: Report,
    ) -> StreamedFile:
        try:
            await download.open()
        except BaseException:
            download.close()
            raise
        return cls(download, status, headers, report)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Sends until the end, the client's going, or a failure; then cleans up."""
        sending = asyncio.create_task(self._send(send), name="send-download")
        leaving = asyncio.create_task(gone(receive), name="watch-client")
        try:
            await asyncio.wait({sending, leaving}, return_when=asyncio.FIRST_COMPLETED)
            if sending.done():
                sending.result()
            else:
                self._report.status = CLIENT_GONE
        except (ServiceError, TimeoutError) as error:
            reason = getattr(error, "reason", None)
            self._report.reason = reason.name if reason else "CLIENT_STALLED"
        finally:
            self._download.close()
            for task in (sending, leaving):
                task.cancel()
            await asyncio.gather(sending, leaving, return_exceptions=True)

    async def _send(self, send: Send) -> None:
        await send(
            {
                "type": "http.response.start",
                "status": self.status_code,
                "headers": self.raw_headers,
            }
        )
        async with aclosing(self._download.chunks()) as chunks:
            async for data in chunks:
                async with asyncio.timeout(STALL_S):
                    await send(
                        {"type": "http.response.body", "body": data, "more_body": True}
                    )
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def gone(receive: Receive) -> None:
    """Returns when the client has closed its connection; drops what it still sends."""
    while (await receive())["type"] != "http.disconnect":
        pass
