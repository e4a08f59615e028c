"""Uploads and downloads as the rules see them, past the wire."""

from __future__ import annotations

import zlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

from blake3 import blake3

from services.chassis.names import AgentName
from services.snapshots.downloads import Downloads, Range
from services.snapshots.generations import Claim, Origin, Snapshot
from services.snapshots.upload import Body, Chunk, Frame, Header, Trailer
from tests.support import segments as made

CHUNK_BYTES = 700


@dataclass(frozen=True)
class Save:
    """Something to upload, under one id, and what a download must then give."""

    agent: AgentName
    upload_id: str
    body: Body
    data: bytes = field(repr=False)
    content: bytes = field(repr=False)
    claim: Claim
    match: int | None
    fingerprint: bytes = field(default=b"", repr=False)

    def frames(self, offset: int = 0) -> list[Frame]:
        """All of it, or what is left from an offset on."""
        header = Header(
            agent=self.agent,
            body=self.body,
            origin=Origin(self.upload_id),
            claim=self.claim,
            write_offset=offset,
            if_generation_match=self.match,
        )
        parts: list[Frame] = [
            Chunk(at, part, zlib.crc32(part))
            for at in range(offset, len(self.data), CHUNK_BYTES)
            if (part := self.data[at : at + CHUNK_BYTES])
        ]
        digest = blake3(self.data).digest()
        end = Trailer(len(self.data), digest, self.fingerprint)
        return [header, *parts, end]


async def downloaded(downloads: Downloads, snapshot: Snapshot) -> bytes:
    """The file that a generation holds."""
    async with downloads.file(snapshot, Range()) as parts:
        return b"".join([part.data async for part in parts if isinstance(part, Chunk)])


async def streamed(frames: list[Frame]) -> AsyncIterator[Frame]:
    for frame in frames:
        yield frame


def base(
    agent: AgentName, upload_id: str, image: made.Image, claim: Claim, match: int
) -> Save:
    return Save(
        agent,
        upload_id,
        Body.SEGMENT,
        made.base(image),
        b"".join(image),
        claim,
        match,
        bytes(made.fingerprint(image)),
    )


def delta(
    agent: AgentName,
    upload_id: str,
    old: made.Image,
    new: made.Image,
    claim: Claim,
    match: int,
) -> Save:
    return Save(
        agent,
        upload_id,
        Body.SEGMENT,
        made.delta(old, new),
        b"".join(new),
        claim,
        match,
        bytes(made.fingerprint(new)),
    )


def file(
    agent: AgentName,
    upload_id: str,
    data: bytes,
    claim: Claim,
    match: int | None = None,
) -> Save:
    return Save(agent, upload_id, Body.FILE, data, data, claim, match)
