"""The upload as a state machine: the table of the contract, row by row."""

from __future__ import annotations

import zlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.chassis.errors import Reason, ServiceError
from services.snapshots.generations import Claim, Origin
from services.snapshots.upload import (
    CHUNK_BYTES_MAX,
    Body,
    Chunk,
    Header,
    State,
    Trailer,
    Upload,
    check_header,
    check_reuse,
)
from tests.support.snapshot_values import INSTANCE, NAME

DIGEST = bytes(32)
LIMIT = 3 * CHUNK_BYTES_MAX


def header(write_offset: int = 0, **changes: Any) -> Header:
    fields = {
        "agent": NAME,
        "body": Body.SEGMENT,
        "origin": Origin("id-1"),
        "claim": Claim(1, INSTANCE, "boot-1"),
        "write_offset": write_offset,
        "if_generation_match": 0,
        **changes,
    }
    return Header(**fields)


def receiving(persisted_bytes: int = 0, size_bytes_max: int = LIMIT) -> Upload:
    upload = Upload(size_bytes_max)
    upload.begin(header(persisted_bytes), persisted_bytes)
    return upload


def chunk(offset: int, data: bytes) -> Chunk:
    return Chunk(offset, data, zlib.crc32(data))


class TestBegin:
    def test_a_new_upload_starts_at_zero(self) -> None:
        """An upload that nobody knows begins with its first byte."""
        upload = receiving()

        assert (State.RECEIVING, 0) == (upload.state, upload.size_bytes)

    def test_resumes_at_the_persisted_size(self) -> None:
        """A stream goes on where the bytes on disk end."""
        upload = receiving(4096)

        assert (State.RECEIVING, 4096) == (upload.state, upload.size_bytes)

    @pytest.mark.parametrize("offset", [0, 4095, 4097])
    def test_elsewhere_is_refused_and_told_where(self, offset: int) -> None:
        """A stream that starts anywhere else is refused and told where to start."""
        upload = Upload(LIMIT)

        with pytest.raises(ServiceError) as refused:
            upload.begin(header(offset), 4096)

        assert Reason.OFFSET_MISMATCH is refused.value.reason
        assert {"persisted_size_bytes": "4096"} == refused.value.metadata
        assert State.PAUSED is upload.state

    def test_a_second_header_is_out_of_order(self) -> None:
        """One stream has one header."""
        upload = receiving()

        with pytest.raises(ServiceError) as refused:
            upload.begin(header(), 0)

        assert Reason.FRAME_ORDER is refused.value.reason
        assert State.PAUSED is upload.state


class TestTake:
    def test_counts_chunks_in_order(self) -> None:
        """Each chunk starts where the one before ended."""
        upload = receiving()

        upload.take(chunk(0, b"abc"))
        upload.take(chunk(3, b"d"))

        assert 4 == upload.size_bytes

    @pytest.mark.parametrize(
        ("wrong", "reason"),
        [
            pytest.param(chunk(2, b"x"), Reason.OFFSET_MISMATCH, id="earlier"),
            pytest.param(chunk(4, b"x"), Reason.OFFSET_MISMATCH, id="later"),
            pytest.param(chunk(-1, b"x"), Reason.OFFSET_MISMATCH, id="negative"),
            pytest.param(Chunk(3, b"x", 0), Reason.CHUNK_CORRUPT, id="crc"),
            pytest.param(chunk(3, b""), Reason.FIELD_REQUIRED, id="empty"),
            pytest.param(
                chunk(3, bytes(CHUNK_BYTES_MAX + 1)),
                Reason.CHUNK_TOO_LARGE,
                id="1 MiB + 1",
            ),
        ],
    )
    def test_a_bad_chunk_pauses_at_the_last_good_byte(
        self, wrong: Chunk, reason: Reason
    ) -> None:
        """What arrived before the bad chunk is kept."""
        upload = receiving()
        upload.take(chunk(0, b"abc"))

        with pytest.raises(ServiceError) as refused:
            upload.take(wrong)

        assert reason is refused.value.reason
        assert (State.PAUSED, 3) == (upload.state, upload.size_bytes)

    def test_the_largest_chunk_is_taken(self) -> None:
        """A chunk of exactly 1 MiB is within the limit."""
        upload = receiving()

        upload.take(chunk(0, bytes(CHUNK_BYTES_MAX)))

        assert CHUNK_BYTES_MAX == upload.size_bytes

    def test_too_large_a_whole_is_discarded(self) -> None:
        """Beyond the limit there is nothing to resume."""
        upload = receiving(size_bytes_max=3)
        upload.take(chunk(0, b"abc"))

        with pytest.raises(ServiceError) as refused:
            upload.take(chunk(3, b"d"))

        assert Reason.SNAPSHOT_TOO_LARGE is refused.value.reason
        assert State.DISCARDED is upload.state

    def test_nothing_before_the_header(self) -> None:
        """A chunk cannot open a stream."""
        with pytest.raises(ServiceError) as refused:
            Upload(LIMIT).take(chunk(0, b"x"))

        assert Reason.FRAME_ORDER is refused.value.reason

    def test_nothing_after_a_refusal(self) -> None:
        """A stream that was refused once stays refused."""
        upload = receiving()
        with pytest.raises(ServiceError):
            upload.take(chunk(9, b"x"))

        with pytest.raises(ServiceError) as refused:
            upload.take(chunk(0, b"x"))

        assert Reason.FRAME_ORDER is refused.value.reason

    @given(st.binary(min_size=1, max_size=200), st.data())
    def test_any_split_is_the_same_upload(self, data: bytes, draw: Any) -> None:
        """Where the bytes are cut into chunks, and streams, changes nothing."""
        cuts = sorted(draw.draw(st.sets(st.integers(1, len(data)))) | {len(data)})
        upload, position = receiving(), 0
        for cut in cuts:
            if draw.draw(st.booleans()):
                upload = receiving(position)
            upload.take(chunk(position, data[position:cut]))
            position = cut

        upload.finish(Trailer(len(data), DIGEST), DIGEST)

        assert State.COMMITTING is upload.state


class TestFinish:
    @pytest.mark.parametrize(
        ("trailer", "reason", "state"),
        [
            pytest.param(
                Trailer(4, DIGEST), Reason.DIGEST_MISMATCH, State.DISCARDED, id="size"
            ),
            pytest.param(
                Trailer(3, bytes(31) + b"x"),
                Reason.DIGEST_MISMATCH,
                State.DISCARDED,
                id="digest",
            ),
            pytest.param(
                Trailer(3, b"short"), Reason.FIELD_INVALID, State.PAUSED, id="length"
            ),
        ],
    )
    def test_a_wrong_trailer_commits_nothing(
        self, trailer: Trailer, reason: Reason, state: State
    ) -> None:
        """Bytes that are not those the client sent can never commit."""
        upload = receiving()
        upload.take(chunk(0, b"abc"))

        with pytest.raises(ServiceError) as refused:
            upload.finish(trailer, DIGEST)

        assert (reason, state) == (refused.value.reason, upload.state)

    def test_no_trailer_before_the_header(self) -> None:
        """A trailer cannot open a stream."""
        with pytest.raises(ServiceError) as refused:
            Upload(LIMIT).finish(Trailer(0, DIGEST), DIGEST)

        assert Reason.FRAME_ORDER is refused.value.reason

    @pytest.mark.parametrize(
        ("reason", "state"),
        [
            (None, State.COMMITTED),
            (Reason.LEASE_FENCED, State.DISCARDED),
            (Reason.GENERATION_MISMATCH, State.DISCARDED),
            (Reason.PARENT_MISMATCH, State.DISCARDED),
            (Reason.SEGMENT_MALFORMED, State.DISCARDED),
            (Reason.STORE_UNAVAILABLE, State.PAUSED),
            (Reason.NOT_DURABLE, State.PAUSED),
            (Reason.STORAGE_FULL, State.PAUSED),
            (Reason.FIELD_INVALID, State.PAUSED),
        ],
    )
    def test_a_commit_settles_it(self, reason: Reason | None, state: State) -> None:
        """What may pass can be tried again; what cannot is thrown away."""
        upload = receiving()
        upload.finish(Trailer(0, DIGEST), DIGEST)

        upload.settle(reason)

        assert state is upload.state


class TestHeader:
    @pytest.mark.parametrize(
        ("changes", "field"),
        [
            ({"claim": Claim(None, INSTANCE, "boot")}, "header.epoch"),
            ({"claim": Claim(1, "", "boot")}, "header.instance"),
            ({"claim": Claim(1, INSTANCE, "")}, "header.boot_id"),
            ({"if_generation_match": None}, "header.if_generation_match"),
        ],
    )
    def test_a_segment_needs_its_owner_and_its_head(
        self, changes: dict[str, Any], field: str
    ) -> None:
        """A delta on an unknown head, or of an unknown owner, can never commit."""
        with pytest.raises(ServiceError) as refused:
            check_header(header(**changes))

        assert (Reason.FIELD_REQUIRED, field) == (
            refused.value.reason,
            refused.value.metadata["field"],
        )

    def test_a_file_needs_neither(self) -> None:
        """A whole file may come from an old client that knows of no epochs."""
        check_header(header(body=Body.FILE, claim=Claim(), if_generation_match=None))

    @pytest.mark.parametrize(
        ("agent", "body"), [("other", Body.SEGMENT), (NAME.agent, Body.FILE)]
    )
    def test_an_id_is_of_one_agent_and_one_body(self, agent: str, body: Body) -> None:
        """An upload id that was used otherwise is refused."""
        with pytest.raises(ServiceError) as refused:
            check_reuse(header(), agent, body)

        assert Reason.UPLOAD_REUSED is refused.value.reason
