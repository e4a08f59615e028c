"""The snapshot of one agent as a plain file: read, replaced, deleted, listed."""

from __future__ import annotations

from typing import Final

from starlette.responses import Response

from services.chassis.errors import Reason, ServiceError
from services.gateway.conditions import Conditions, etag, parse_range
from services.gateway.exchange import Exchange, bare
from services.gateway.problems import from_service
from services.gateway.stream import UploadTerms
from services.gateway.streaming import StreamedFile
from services.gateway.transcode import snapshot_to_json

EPOCH_HEADER: Final = "x-townkeeper-epoch"
GENERATION_HEADER: Final = "x-townkeeper-generation"
BYTES: Final = "application/octet-stream"


async def read_snapshot(exchange: Exchange) -> Response:
    """Sends a generation, whole or in part.

    The generation is pinned first, so that headers and bytes are of the same one.
    """
    wanted = exchange.query_number("generation", least=1)
    conditions = Conditions.of(exchange.headers)
    snapshot, epoch = await exchange.snapshots.get(_name(exchange, wanted or "latest"))
    headers = {
        "etag": etag(snapshot.generation),
        "accept-ranges": "bytes",
        "cache-control": "no-store",
        GENERATION_HEADER: str(snapshot.generation),
        EPOCH_HEADER: str(epoch),
    }
    if conditions.unchanged(snapshot.generation):
        return Response(status_code=304, headers=headers)
    part = None
    if exchange.headers.get("if-range", headers["etag"]) == headers["etag"]:
        part = parse_range(exchange.headers.get("range"), snapshot.size_bytes)
    size_bytes = part.size_bytes if part else snapshot.size_bytes
    headers["content-length"] = str(size_bytes)
    if part:
        headers["content-range"] = part.content_range
    status = 206 if part else 200
    if exchange.request.method == "HEAD" or size_bytes == 0:
        return Response(None, status, headers, BYTES)
    download = exchange.snapshots.download(
        _name(exchange, snapshot.generation),
        part.offset if part else 0,
        size_bytes,
    )
    return await StreamedFile.open(download, status, headers, exchange.report)


async def write_snapshot(exchange: Exchange) -> Response:
    """Makes the body the agent's next generation."""
    epoch = exchange.header_number(EPOCH_HEADER, least=1)
    conditions = Conditions.of(exchange.headers)
    terms = UploadTerms(
        agent=exchange.agent,
        epoch=epoch,
        expected=await _expected(exchange, conditions),
    )
    try:
        snapshot = await exchange.snapshots.upload(terms, exchange.body())
    except ServiceError as error:
        raise from_service(error, conditional=bool(conditions)) from error
    response = bare({"success": True})
    response.headers["etag"] = etag(snapshot.generation)
    response.headers[GENERATION_HEADER] = str(snapshot.generation)
    return response


async def delete_snapshot(exchange: Exchange) -> Response:
    """Deletes all generations, absent ones too, or the one that is named."""
    epoch = exchange.header_number(EPOCH_HEADER, least=1)
    generation = exchange.query_number("generation", least=1)
    conditions = Conditions.of(exchange.headers)
    expected = await _expected(exchange, conditions)
    name = _name(exchange, generation or "-")
    try:
        await exchange.snapshots.delete(name, epoch, expected)
    except ServiceError as error:
        if error.reason is not Reason.SNAPSHOT_NOT_FOUND or generation:
            raise from_service(error, conditional=bool(conditions)) from error
    return bare({"success": True})


async def list_generations(exchange: Exchange) -> Response:
    """Lists the generations, newest first."""
    page_size = exchange.query_number("pageSize") or 0
    page_token = exchange.request.query_params.get("pageToken", "")
    found, next_token = await exchange.snapshots.list(
        exchange.agent, page_size, page_token
    )
    return bare(
        {
            "success": True,
            "data": [snapshot_to_json(snapshot) for snapshot in found],
            "nextPageToken": next_token or None,
        }
    )


def _name(exchange: Exchange, generation: int | str) -> str:
    return f"{exchange.agent}/snapshots/{generation}"


async def _expected(exchange: Exchange, conditions: Conditions) -> int | None:
    """The head that a write needs; looked up where the headers leave it open."""
    if not conditions or conditions.expected is not None:
        return conditions.expected
    head = await exchange.snapshots.find(_name(exchange, "latest"))
    generation = head.generation if head else 0
    conditions.check_write(generation)
    return generation
