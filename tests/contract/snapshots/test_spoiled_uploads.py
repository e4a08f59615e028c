"""Whatever is wrong with an upload, the agent keeps the snapshot that it had."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest

from tests.contract.snapshots.conftest import Saves
from tests.support import segments as made
from tests.support.snapshot_errors import reason_of
from tests.support.snapshot_frames import (
    OTHER_INSTANCE,
    Frame,
    chunk,
    chunks,
    file_header,
    header,
    trailer,
)
from tests.support.snapshots_world import SIZE_BYTES_MAX, World

IMAGE = made.image(40, seed=5)
BASE = made.base(IMAGE)
FINGERPRINT = bytes(made.fingerprint(IMAGE))
BAD = "INVALID_ARGUMENT"
Spoil = Callable[[], list[Frame]]


def frames(data: bytes = BASE, **changes: Any) -> list[Frame]:
    """A good base on top of generation 1, changed as asked."""
    first = header(**{"epoch": 2, "if_generation_match": 1, **changes})
    return [first, *chunks(data, size=1000), trailer(data, FINGERPRINT)]


def without(index: int) -> list[Frame]:
    spoiled = frames()
    del spoiled[index]
    return spoiled


def swapped() -> list[Frame]:
    first, one, two, *rest = frames()
    return [first, two, one, *rest]


def repeated(index: int) -> list[Frame]:
    spoiled = frames()
    return [*spoiled[: index + 1], *spoiled[index:]]


def bit_flipped() -> list[Frame]:
    spoiled = frames()
    data = bytearray(spoiled[1].chunk.data)
    data[10] ^= 1
    spoiled[1].chunk.data = bytes(data)
    return spoiled


def rotten(position: int) -> list[Frame]:
    """Sent faithfully, but the segment itself is damaged."""
    data = bytearray(BASE)
    data[position] ^= 1
    return frames(bytes(data))


def closed_with(**changes: Any) -> list[Frame]:
    return [*frames()[:-1], trailer(BASE, **{"fingerprint": FINGERPRINT, **changes})]


def noise() -> list[Frame]:
    return frames(random.Random(7).randbytes(len(BASE)))


SPOILED = [
    pytest.param(lambda: [], BAD, "FRAME_ORDER", id="nothing"),
    pytest.param(lambda: [Frame()], BAD, "FRAME_ORDER", id="an empty frame"),
    pytest.param(lambda: without(0), BAD, "FRAME_ORDER", id="no header"),
    pytest.param(lambda: frames(parent=""), BAD, "NAME_MALFORMED", id="no parent"),
    pytest.param(
        lambda: [frames()[0], *frames()],
        BAD,
        "FRAME_ORDER",
        id="two headers",
    ),
    pytest.param(
        lambda: [frames()[0], Frame()], BAD, "FRAME_ORDER", id="an empty frame later"
    ),
    pytest.param(lambda: without(1), "OUT_OF_RANGE", "OFFSET_MISMATCH", id="a gap"),
    pytest.param(swapped, "OUT_OF_RANGE", "OFFSET_MISMATCH", id="wrong order"),
    pytest.param(
        lambda: repeated(2), "OUT_OF_RANGE", "OFFSET_MISMATCH", id="repeated chunk"
    ),
    pytest.param(bit_flipped, BAD, "CHUNK_CORRUPT", id="bit flip on the way"),
    pytest.param(
        lambda: [frames()[0], chunk(b"")], BAD, "FIELD_REQUIRED", id="zero bytes"
    ),
    pytest.param(
        lambda: [frames()[0], chunk(bytes((1 << 20) + 1))],
        BAD,
        "CHUNK_TOO_LARGE",
        id="1 MiB + 1",
    ),
    pytest.param(
        lambda: [frames()[0], *chunks(bytes(SIZE_BYTES_MAX + 1))],
        "RESOURCE_EXHAUSTED",
        "SNAPSHOT_TOO_LARGE",
        id="too large a whole",
    ),
    pytest.param(
        lambda: closed_with(blake3=bytes(32)), BAD, "DIGEST_MISMATCH", id="digest"
    ),
    pytest.param(lambda: closed_with(blake3=b""), BAD, "FIELD_INVALID", id="no digest"),
    pytest.param(
        lambda: closed_with(size_bytes=len(BASE) - 1),
        BAD,
        "DIGEST_MISMATCH",
        id="size",
    ),
    pytest.param(
        lambda: closed_with(fingerprint=bytes(16)),
        BAD,
        "DIGEST_MISMATCH",
        id="fingerprint",
    ),
    pytest.param(
        lambda: closed_with(fingerprint=b""),
        BAD,
        "FIELD_INVALID",
        id="no fingerprint",
    ),
    pytest.param(lambda: frames(BASE[:-1]), BAD, "SEGMENT_MALFORMED", id="truncated"),
    pytest.param(lambda: frames(b"x"), BAD, "SEGMENT_MALFORMED", id="one byte"),
    pytest.param(
        lambda: frames(BASE + b"x"), BAD, "SEGMENT_MALFORMED", id="bytes behind"
    ),
    pytest.param(
        lambda: frames(b"".join(IMAGE)), BAD, "SEGMENT_MALFORMED", id="a whole file"
    ),
    pytest.param(noise, BAD, "SEGMENT_MALFORMED", id="noise"),
    pytest.param(lambda: rotten(200), BAD, "DIGEST_MISMATCH", id="rotten chunk"),
    pytest.param(lambda: rotten(-1), BAD, "DIGEST_MISMATCH", id="rotten footer"),
    pytest.param(
        lambda: frames(epoch=1), "FAILED_PRECONDITION", "LEASE_FENCED", id="old epoch"
    ),
    pytest.param(
        lambda: frames(epoch=3),
        "FAILED_PRECONDITION",
        "LEASE_FENCED",
        id="an epoch that nobody advanced",
    ),
    pytest.param(
        lambda: frames(instance=OTHER_INSTANCE),
        "FAILED_PRECONDITION",
        "LEASE_FENCED",
        id="wrong instance",
    ),
    pytest.param(
        lambda: frames(boot_id="boot-2"),
        "FAILED_PRECONDITION",
        "LEASE_FENCED",
        id="wrong boot",
    ),
    pytest.param(
        lambda: frames(if_generation_match=0),
        "ABORTED",
        "GENERATION_MISMATCH",
        id="on no head",
    ),
    pytest.param(
        lambda: frames(if_generation_match=2),
        "ABORTED",
        "GENERATION_MISMATCH",
        id="on a head to come",
    ),
    pytest.param(lambda: frames(epoch=None), BAD, "FIELD_REQUIRED", id="no epoch"),
    pytest.param(lambda: frames(epoch=-1), BAD, "FIELD_INVALID", id="negative epoch"),
    pytest.param(lambda: frames(instance=""), BAD, "FIELD_REQUIRED", id="no instance"),
    pytest.param(
        lambda: frames(instance="i"), BAD, "NAME_MALFORMED", id="no instance name"
    ),
    pytest.param(lambda: frames(boot_id=""), BAD, "FIELD_REQUIRED", id="no boot"),
    pytest.param(
        lambda: frames(if_generation_match=None), BAD, "FIELD_REQUIRED", id="no match"
    ),
    pytest.param(
        lambda: frames(if_generation_match=-1),
        BAD,
        "FIELD_INVALID",
        id="negative match",
    ),
    pytest.param(lambda: frames(upload_id=""), BAD, "FIELD_REQUIRED", id="no id"),
    pytest.param(
        lambda: frames(upload_id="../../etc/passwd"),
        BAD,
        "FIELD_INVALID",
        id="an id that is no UUID",
    ),
    pytest.param(lambda: frames(body=0), BAD, "FIELD_REQUIRED", id="no body"),
    pytest.param(lambda: frames(body=9), BAD, "FIELD_INVALID", id="unknown body"),
    pytest.param(
        lambda: frames(write_offset=-1), BAD, "FIELD_INVALID", id="negative offset"
    ),
    pytest.param(
        lambda: frames(write_offset=5),
        "OUT_OF_RANGE",
        "OFFSET_MISMATCH",
        id="resumes what never was",
    ),
    pytest.param(
        lambda: frames(labels={str(n): "" for n in range(17)}),
        BAD,
        "FIELD_INVALID",
        id="17 labels",
    ),
    pytest.param(
        lambda: frames(labels={"k" * 64: ""}), BAD, "FIELD_INVALID", id="a long label"
    ),
    pytest.param(
        lambda: frames(labels={"k": "v" * 64}), BAD, "FIELD_INVALID", id="a long value"
    ),
    pytest.param(
        lambda: frames(session_id="s" * 257), BAD, "FIELD_INVALID", id="a long session"
    ),
    pytest.param(
        lambda: [file_header(), *frames()[1:]],
        "FAILED_PRECONDITION",
        "LEASE_FENCED",
        id="a whole file without epoch",
    ),
]


@pytest.mark.parametrize(("spoil", "code", "reason"), SPOILED)
async def test_a_spoiled_upload_commits_nothing(
    world: World, saves: Saves, spoil: Spoil, code: str, reason: str
) -> None:
    """The refusal has its reason, and the head is as it was, before and after a
    further good save."""
    saves.epoch = 2
    await saves.client.advance(epoch=2)
    before = await saves.base()

    found = await reason_of(saves.client.send(spoil()))

    assert (code, reason) == found
    assert before == (await saves.client.get()).snapshot
    assert saves.file(1) == (await saves.client.download()).data
    assert 2 == (await saves.delta()).generation
    assert [] == world.scratch
