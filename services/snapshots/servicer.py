"""The RPCs: wire in, rules and stores, wire out."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, TypeAlias

import grpc

from services.chassis.auth import current_caller
from services.chassis.names import AgentName, SnapshotName, TownName
from services.snapshots import wire
from services.snapshots.assembly import Parts
from services.snapshots.downloads import Range
from services.snapshots.generations import (
    AgentState,
    Claim,
    Snapshot,
    absent,
    check_live,
)
from services.snapshots.policy import check_holder
from services.snapshots.staging import PausedUpload
from townkeeper.snapshots.v1 import snapshots_pb2 as pb
from townkeeper.snapshots.v1 import snapshots_pb2_grpc

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"
_Content = pb.DownloadSnapshotRequest


class SnapshotServicer(snapshots_pb2_grpc.SnapshotServiceServicer):
    """Generations of agents' sessions."""

    def __init__(self, parts: Parts) -> None:
        self._intake = parts.intake
        self._shelf = parts.shelf
        self._downloads = parts.downloads
        self._editor = parts.editor
        self._forker = parts.forker
        self._rebuilder = parts.rebuilder
        self._verifier = parts.verifier

    async def AdvanceEpoch(
        self, request: pb.AdvanceEpochRequest, context: Context
    ) -> pb.AdvanceEpochResponse:
        agent = AgentName.parse(request.name)
        state = await self._shelf.advance(agent, wire.owner(agent, request))
        head = wire.snapshot(state.head) if state.head else None
        return pb.AdvanceEpochResponse(head=head, generation=state.last)

    async def UploadSnapshot(
        self,
        request_iterator: AsyncIterator[pb.UploadSnapshotRequest],
        context: Context,
    ) -> pb.UploadSnapshotResponse:
        outcome = await self._intake.upload(wire.Frames(request_iterator))
        if isinstance(outcome, PausedUpload):
            return pb.UploadSnapshotResponse(upload=wire.upload(outcome))
        return pb.UploadSnapshotResponse(snapshot=wire.snapshot(outcome))

    async def GetUpload(
        self, request: pb.GetUploadRequest, context: Context
    ) -> pb.GetUploadResponse:
        agent = AgentName.parse(request.parent)
        upload = await self._intake.paused(agent, wire.upload_id(request.upload_id))
        return pb.GetUploadResponse(upload=wire.upload(upload))

    async def AbortUpload(
        self, request: pb.AbortUploadRequest, context: Context
    ) -> pb.AbortUploadResponse:
        agent = AgentName.parse(request.parent)
        await self._intake.abort(agent, wire.upload_id(request.upload_id))
        return pb.AbortUploadResponse()

    async def DownloadSnapshot(
        self, request: pb.DownloadSnapshotRequest, context: Context
    ) -> AsyncIterator[pb.DownloadSnapshotResponse]:
        wanted = _wanted(request)
        _, snapshot = await self._find(request.name, wire.read_time(request))
        check_live(snapshot)
        opened = (
            self._downloads.segments(snapshot)
            if wanted is None
            else self._downloads.file(snapshot, wanted)
        )
        async with opened as parts:
            yield pb.DownloadSnapshotResponse(header=wire.snapshot(snapshot))
            async for part in parts:
                yield wire.part(part)

    async def GetSnapshot(
        self, request: pb.GetSnapshotRequest, context: Context
    ) -> pb.GetSnapshotResponse:
        state, snapshot = await self._find(request.name, wire.read_time(request))
        return pb.GetSnapshotResponse(
            snapshot=wire.snapshot(snapshot), epoch=state.epoch
        )

    async def ListSnapshots(
        self, request: pb.ListSnapshotsRequest, context: Context
    ) -> pb.ListSnapshotsResponse:
        agent = AgentName.parse(request.parent)
        if request.page_size < 0:
            raise wire.invalid("page_size", "give 0 or more")
        below = wire.below(agent, request.page_token)
        page = await self._shelf.page(
            agent, below, request.page_size, deleted=request.show_deleted
        )
        return pb.ListSnapshotsResponse(
            snapshots=map(wire.snapshot, page.snapshots),
            next_page_token=wire.page_token(agent, page.below),
        )

    async def UpdateSnapshot(
        self, request: pb.UpdateSnapshotRequest, context: Context
    ) -> pb.UpdateSnapshotResponse:
        name = SnapshotName.parse(request.snapshot.name)
        amendment = wire.amendment(request)
        if amendment.hold is not None:
            check_holder(current_caller.get())
        changed = await self._editor.amend(
            AgentName(name.town, name.agent),
            name.generation,
            amendment,
            request.snapshot.etag,
        )
        return pb.UpdateSnapshotResponse(snapshot=wire.snapshot(changed))

    async def DeleteSnapshot(
        self, request: pb.DeleteSnapshotRequest, context: Context
    ) -> pb.DeleteSnapshotResponse:
        agent, generation = wire.deletion(request)
        claim = Claim(wire.optional_epoch(request))
        match = wire.generation_match(request)
        if generation is None or request.purge:
            gone = await self._shelf.delete(agent, generation, claim, match)
            return pb.DeleteSnapshotResponse(deleted_count=len(gone))
        changed, found = await self._editor.delete(agent, generation, claim, match)
        return pb.DeleteSnapshotResponse(
            deleted_count=int(changed), snapshot=wire.snapshot(found)
        )

    async def UndeleteSnapshot(
        self, request: pb.UndeleteSnapshotRequest, context: Context
    ) -> pb.UndeleteSnapshotResponse:
        name = SnapshotName.parse(request.name)
        agent = AgentName(name.town, name.agent)
        found = await self._editor.undelete(agent, name.generation)
        return pb.UndeleteSnapshotResponse(snapshot=wire.snapshot(found))

    async def ForkSnapshot(
        self, request: pb.ForkSnapshotRequest, context: Context
    ) -> pb.ForkSnapshotResponse:
        source = SnapshotName.parse(request.name)
        forked = await self._forker.fork(
            AgentName(source.town, source.agent),
            source.generation,
            AgentName.parse(request.target),
            wire.upload_id(request.request_id, "request_id"),
        )
        return pb.ForkSnapshotResponse(snapshot=wire.snapshot(forked))

    async def VerifySnapshot(
        self, request: pb.VerifySnapshotRequest, context: Context
    ) -> pb.VerifySnapshotResponse:
        _, snapshot = await self._find(request.name)
        check_live(snapshot)
        return pb.VerifySnapshotResponse(
            read_bytes=await self._verifier.verify(snapshot)
        )

    async def ReindexTown(
        self, request: pb.ReindexTownRequest, context: Context
    ) -> AsyncIterator[pb.ReindexTownResponse]:
        if "/agents/" in request.name:
            agent = AgentName.parse(request.name)
            yield wire.rebuilt(await self._rebuilder.agent(agent))
            return
        async for found in self._rebuilder.town(TownName.parse(request.name).town):
            yield wire.rebuilt(found)

    async def _find(
        self, name: str, moment_us: int | None = None
    ) -> tuple[AgentState, Snapshot]:
        """The generation that a name means, and who owns the agent."""
        parsed = SnapshotName.parse(name, latest=True)
        agent = AgentName(parsed.town, parsed.agent)
        state = await self._shelf.state(agent)
        if moment_us is not None:
            if not parsed.latest:
                raise wire.invalid("read_time", "give it with .../snapshots/latest")
            return state, await self._shelf.at(agent, moment_us)
        if not parsed.latest:
            return state, await self._shelf.snapshot(agent, parsed.generation)
        if state.head is None:
            raise absent(agent, None)
        return state, state.head


def _wanted(request: pb.DownloadSnapshotRequest) -> Range | None:
    """Which bytes of the file; None when segments are asked for."""
    if request.offset < 0 or request.limit < 0:
        raise wire.invalid("offset", "give offset and limit of 0 or more")
    if request.content == _Content.CONTENT_SEGMENTS:
        if request.offset or request.limit:
            raise wire.invalid("offset", "segments are sent whole")
        return None
    if request.content not in (_Content.CONTENT_UNSPECIFIED, _Content.CONTENT_FILE):
        raise wire.invalid("content", "give CONTENT_FILE or CONTENT_SEGMENTS")
    return Range(request.offset, request.limit)
