"""Takes uploads in: frames → staged bytes → commit.

A commit that has begun is finished even if its client is gone: the client will ask
again by the upload's id, and finds it committed.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import suppress
from functools import partial
from typing import Final

from services.chassis.errors import Reason, ServiceError
from services.chassis.names import AgentName
from services.snapshots.commit import Committer
from services.snapshots.disk_work import to_the_end
from services.snapshots.generations import (
    AgentState,
    Snapshot,
    check_claim,
    check_match,
)
from services.snapshots.shelf import Shelf
from services.snapshots.staging import PausedUpload, Staged, Staging
from services.snapshots.store import Catalog, Known
from services.snapshots.upload import (
    Chunk,
    Frame,
    Header,
    State,
    Trailer,
    Upload,
    check_header,
    no_header,
    reused,
)

# A client that sends nothing for so long is gone or stuck; its bytes are kept.
FRAME_WAIT_S: Final = 120.0
# However many streams there are, so many write at once and have their next frame come
# in meanwhile.
WRITES_AT_ONCE: Final = 4


class Intake:
    """All uploads of this process."""

    def __init__(
        self,
        catalog: Catalog,
        shelf: Shelf,
        staging: Staging,
        committer: Committer,
        *,
        size_bytes_max: int,
    ) -> None:
        self._catalog = catalog
        self._shelf = shelf
        self._staging = staging
        self._committer = committer
        self._size_bytes_max = size_bytes_max
        self._commits: set[asyncio.Task[Snapshot]] = set()
        self._turns = asyncio.Semaphore(WRITES_AT_ONCE)

    async def upload(self, frames: AsyncIterator[Frame]) -> Snapshot | PausedUpload:
        """One stream, to its end or its trailer."""
        header = await _next(frames)
        if not isinstance(header, Header):
            raise no_header("a stream that begins without a header")
        check_header(header)
        state, known = await self._catalog.look(header.agent, header.upload_id)
        if known is not None:
            return await self._committed(header, known)
        check_claim(header.agent, state, header.claim)
        check_match(header.agent, state.head_generation, header.if_generation_match)
        async with self._staging.opened(header) as staged:
            snapshot = await self._receive(header, state, staged, frames)
        return snapshot or await self.paused(header.agent, header.upload_id)

    async def paused(self, agent: AgentName, upload_id: str) -> PausedUpload:
        """How far an upload got. Raises UPLOAD_NOT_FOUND."""
        found = await self._staging.find(agent, upload_id)
        if found is None:
            raise ServiceError(
                Reason.UPLOAD_NOT_FOUND,
                f"cannot find upload {upload_id} of {agent}: it committed, expired or "
                "never was; start it at 0",
                upload_id=upload_id,
            )
        return found

    async def abort(self, agent: AgentName, upload_id: str) -> None:
        await self._staging.abort(agent, upload_id)

    async def close(self) -> None:
        """Waits for commits whose clients are gone."""
        if self._commits:
            await asyncio.wait(self._commits)

    async def _committed(self, header: Header, known: Known) -> Snapshot:
        if known.agent != header.agent.agent:
            raise reused(header, "another agent has it")
        try:
            snapshot = await self._shelf.live(header.agent, known.generation)
        except ServiceError as error:
            if error.reason is not Reason.SNAPSHOT_NOT_FOUND:
                raise
            raise reused(header, "its generation was deleted") from error
        with suppress(ServiceError):  # busy: that stream will remove them itself
            # A crash between commit and answer left the bytes.
            await self._staging.abort(header.agent, header.upload_id)
        return await self._committer.acknowledge(snapshot)

    async def _receive(
        self,
        header: Header,
        state: AgentState,
        staged: Staged,
        frames: AsyncIterator[Frame],
    ) -> Snapshot | None:
        upload = Upload(self._size_bytes_max)
        try:
            upload.begin(header, staged.size_bytes)
        except ServiceError:
            staged.discarded = not staged.size_bytes
            raise
        try:
            trailer = await self._take_chunks(upload, staged, frames)
            if trailer is None:
                return None
            upload.finish(trailer, staged.digest.digest())
            commit = partial(
                self._committer.commit, header, state, staged.path, trailer
            )
            return await self._finish(upload, commit)
        finally:
            staged.discarded = upload.state in (State.DISCARDED, State.COMMITTED)

    async def _take_chunks(
        self, upload: Upload, staged: Staged, frames: AsyncIterator[Frame]
    ) -> Trailer | None:
        """Everything up to the trailer, or to the end of a stream without one. The
        next frame comes in while one is written."""
        reading = asyncio.create_task(_next(frames))
        try:
            while True:
                match frame := await reading:
                    case None | Trailer():
                        return frame
                    case Chunk():
                        async with self._turns:
                            reading = asyncio.create_task(_next(frames))
                            await staged.take(upload, frame)
                    case _:
                        raise upload.repeat_header()
                del frame  # not kept while its stream sends the next
        finally:
            reading.cancel()

    async def _finish(
        self, upload: Upload, commit: Callable[[], Coroutine[None, None, Snapshot]]
    ) -> Snapshot:
        async def settled() -> Snapshot:
            try:
                snapshot = await commit()
            except ServiceError as error:
                upload.settle(error.reason)
                raise
            upload.settle(None)
            return snapshot

        task = asyncio.create_task(settled(), name="commit")
        self._commits.add(task)
        task.add_done_callback(self._commits.discard)
        return await to_the_end(task)


async def _next(frames: AsyncIterator[Frame]) -> Frame | None:
    async with asyncio.timeout(FRAME_WAIT_S):
        return await anext(frames, None)
