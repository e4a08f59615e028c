"""The snapshot service as the gateway calls it, but for bodies (`stream.py`)."""

from __future__ import annotations

from services.chassis.errors import Reason, ServiceError, rpc_errors
from services.gateway.stream import Body, Download, Upload, UploadTerms
from townkeeper.snapshots.v1 import resources_pb2, snapshots_pb2_grpc
from townkeeper.snapshots.v1 import snapshots_pb2 as pb


class SnapshotsClient:
    """Every call raises ServiceError. Names are full, as in the contract."""

    def __init__(
        self, stub: snapshots_pb2_grpc.SnapshotServiceAsyncStub, token: str
    ) -> None:
        self._stub = stub
        self._metadata = (("authorization", f"Bearer {token}"),)

    async def get(self, name: str) -> tuple[resources_pb2.Snapshot, int]:
        """One generation, and the highest epoch ever seen for its agent."""
        request = pb.GetSnapshotRequest(name=name)
        with rpc_errors():
            reply = await self._stub.GetSnapshot(request, metadata=self._metadata)
        return reply.snapshot, reply.epoch

    async def find(self, name: str) -> resources_pb2.Snapshot | None:
        """One generation, None when there is none."""
        try:
            snapshot, _ = await self.get(name)
        except ServiceError as error:
            if error.reason is Reason.SNAPSHOT_NOT_FOUND:
                return None
            raise
        return snapshot

    async def list(
        self, agent: str, page_size: int, page_token: str
    ) -> tuple[list[resources_pb2.Snapshot], str]:
        """A page of generations, newest first, and the token of the next one."""
        request = pb.ListSnapshotsRequest(
            parent=agent, page_size=page_size, page_token=page_token
        )
        with rpc_errors():
            reply = await self._stub.ListSnapshots(request, metadata=self._metadata)
        return list(reply.snapshots), reply.next_page_token

    async def delete(self, name: str, epoch: int | None, expected: int | None) -> None:
        """Deletes one generation, or all of an agent with `…/snapshots/-`."""
        request = pb.DeleteSnapshotRequest(
            name=name, epoch=epoch, if_generation_match=expected
        )
        with rpc_errors():
            await self._stub.DeleteSnapshot(request, metadata=self._metadata)

    def download(self, name: str, offset: int, size_bytes: int) -> Download:
        """So many bytes of a file on their way out, from an offset on."""
        request = pb.DownloadSnapshotRequest(
            name=name,
            content=pb.DownloadSnapshotRequest.CONTENT_FILE,
            offset=offset,
            limit=size_bytes,
        )
        return Download(self._stub, self._metadata, request, size_bytes)

    async def upload(self, terms: UploadTerms, body: Body) -> resources_pb2.Snapshot:
        """Commits a whole file; a body that is cut leaves nothing behind."""
        return await Upload(self._stub, self._metadata, terms).run(body)
