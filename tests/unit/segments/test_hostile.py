"""Whatever is wrong with a segment, it is refused with a reason and nothing else."""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard
from blake3 import blake3
from hypothesis import given, settings
from hypothesis import strategies as st

from services.chassis.errors import Reason, ServiceError
from services.segments import layout
from services.segments.encode import opaque_encoder
from services.segments.fingerprint import Fingerprint, hash_pages
from services.segments.layout import ChunkHead, Encoding, Header, Kind, Tail
from services.segments.pack import Block, Prefix, pack
from services.segments.read import read_opaque, read_pages, verify, verify_parts
from tests.support import segments

OLD = segments.image(100)
NEW = [*segments.edited(OLD, [1, 30, 99], b"!"), *segments.image(3, seed=1)]
BASE = segments.base(OLD)
DELTA = segments.delta(OLD, NEW)
PREFIXED = segments.delta(
    OLD,
    NEW,
    lambda numbers, lowest, most: Prefix((1, 99), OLD[0] + OLD[98]),
)
OPAQUE = b"".join(opaque_encoder([b"x" * 99]))
SAMPLES = {"base": BASE, "delta": DELTA, "prefixed": PREFIXED, "opaque": OPAQUE}
REFUSALS = {Reason.SEGMENT_MALFORMED, Reason.DIGEST_MISMATCH}


def check(segment: bytes, limit: int | None = None) -> None:
    verify_parts([segment], segments.prefix_pages(OLD), limit)


def refusal(segment: bytes) -> ServiceError:
    with pytest.raises(ServiceError, match=r"^cannot .*[^.]$") as refused:
        check(segment)
    return refused.value


def resealed(segment: bytes) -> bytes:
    """With a footer digest that is right again: only the rules can refuse it."""
    body = segment[: -layout.DIGEST_BYTES]
    return body + blake3(body).digest()


def assembled(header: Header, records: list[bytes]) -> bytes:
    """A segment of these parts whose footer fits them."""
    body = header.pack() + b"".join(records)
    table = b"".join(
        layout.TABLE_ENTRY.pack(len(record), _first(header, record, ordinal))
        for ordinal, record in enumerate(records, 1)
    )
    raw_bytes = sum(ChunkHead.unpack(record[:32]).raw_bytes for record in records)
    tail = Tail(len(body), raw_bytes, segments.fingerprint(NEW))
    foot = layout.FOOTER_HEAD.pack(layout.FOOTER_TAG, b"", len(records))
    return resealed(body + foot + table + tail.pack())


def _first(header: Header, record: bytes, ordinal: int) -> int:
    if header.kind is Kind.OPAQUE:
        return ordinal
    return int(struct.unpack_from("<I", record, 32)[0])


@pytest.mark.parametrize("segment", SAMPLES.values(), ids=SAMPLES)
def test_the_samples_are_sound(segment: bytes) -> None:
    """What the other tests spoil passes when it is not spoiled."""
    check(segment)


@pytest.mark.parametrize("segment", SAMPLES.values(), ids=SAMPLES)
@settings(max_examples=400)
@given(data=st.data())
def test_any_flipped_byte_is_refused(segment: bytes, data: st.DataObject) -> None:
    """Bit rot anywhere, the index and the reserved bytes included."""
    at = data.draw(st.integers(0, len(segment) - 1))
    flip = data.draw(st.integers(1, 255))
    spoiled = bytearray(segment)
    spoiled[at] ^= flip

    assert refusal(bytes(spoiled)).reason in REFUSALS


@pytest.mark.parametrize("segment", SAMPLES.values(), ids=SAMPLES)
@given(data=st.data())
def test_any_truncation_is_refused(segment: bytes, data: st.DataObject) -> None:
    """A cut stream never reads as a shorter database."""
    size = data.draw(st.integers(0, len(segment) - 1))

    assert Reason.SEGMENT_MALFORMED is refusal(segment[:size]).reason


@pytest.mark.parametrize("segment", SAMPLES.values(), ids=SAMPLES)
@given(tail=st.binary(min_size=1, max_size=100))
def test_anything_after_the_end_is_refused(segment: bytes, tail: bytes) -> None:
    """Two segments in a row are not one."""
    assert Reason.SEGMENT_MALFORMED is refusal(segment + tail).reason


@given(st.binary(max_size=500))
def test_noise_is_refused(noise: bytes) -> None:
    """What is no segment says so, whether or not it begins as one."""
    assert Reason.SEGMENT_MALFORMED is refusal(noise).reason
    assert refusal(BASE[:64] + noise).reason in REFUSALS


@settings(max_examples=300)
@given(data=st.data())
def test_no_page_changes_under_a_digest_that_is_right(data: st.DataObject) -> None:
    """Chunk digests hold without the one of the whole: a changed byte is refused, or it
    is one of the few bits that zstd ignores."""
    at = data.draw(st.integers(64, len(BASE) - 33))
    spoiled = bytearray(BASE)
    spoiled[at] ^= data.draw(st.integers(1, 255))

    with contextlib.suppress(ServiceError):
        assert OLD == [page for _, page in read_pages([resealed(bytes(spoiled))])]


class TestHeader:
    def test_another_version_says_which(self) -> None:
        """A file of the future is told apart from a damaged one."""
        future = bytearray(BASE)
        future[8] = 2

        error = refusal(bytes(future))

        assert "version 2" in error.message
        assert {"version": "2"} == error.metadata

    def test_a_database_file_is_told_so(self) -> None:
        """The likely mistake is named."""
        assert "whole database file" in refusal(b"SQLite format 3\0" * 10).message

    @pytest.mark.parametrize(
        "header",
        [
            pytest.param(Header(Kind.BASE, 1000, 1, 1), id="page size"),
            pytest.param(Header(Kind.BASE, 256, 1, 1), id="page size small"),
            pytest.param(Header(Kind.BASE, 1 << 17, 1, 1), id="page size large"),
            pytest.param(Header(Kind.BASE, 512, 0, 0), id="no pages"),
            pytest.param(Header(Kind.BASE, 512, 1 << 32 - 1, 1), id="too many"),
            pytest.param(Header(Kind.BASE, 512, 3, 2), id="base in part"),
            pytest.param(Header(Kind.BASE, 512, 3, 3, 1), id="base on something"),
            pytest.param(Header(Kind.DELTA, 512, 3, 1, 0), id="delta on nothing"),
            pytest.param(Header(Kind.DELTA, 512, 3, 4, 3), id="delta too long"),
            pytest.param(Header(Kind.DELTA, 512, 9, 4, 3), id="growth missing"),
            pytest.param(Header(Kind.OPAQUE, 512), id="opaque pages"),
        ],
    )
    def test_what_no_writer_makes_is_refused(self, header: Header) -> None:
        """A header that is whole and makes no sense."""
        assert Reason.SEGMENT_MALFORMED is refusal(header.pack()).reason

    def test_a_large_claim_allocates_nothing(self) -> None:
        """A header that claims 16 TiB is only a header, until the limit refuses it."""
        claim = Header.base(4096, layout.PAGE_COUNT_MAX).pack()

        with pytest.raises(ServiceError) as refused:
            check(claim, limit=1 << 30)

        assert Reason.SNAPSHOT_TOO_LARGE is refused.value.reason
        assert Reason.SEGMENT_MALFORMED is refusal(claim).reason


def _delta_header(pages: int, page_count: int = 103) -> Header:
    return Header(
        Kind.DELTA, 512, page_count, pages, len(OLD), segments.fingerprint(OLD)
    )


def _record(*numbers: int, prefix: Prefix | None = None) -> bytes:
    data = b"".join(NEW[min(number, len(NEW)) - 1] for number in numbers)
    block = Block(numbers, hash_pages(data, 512), data)
    return pack(Kind.DELTA, block, prefix or Prefix(), 3)


class TestRules:
    """Parts that are each sound, put together as no writer would."""

    def test_the_parts_fit_when_nothing_is_wrong(self) -> None:
        """Else the refusals below would prove nothing."""
        check(assembled(_delta_header(4), [_record(30), _record(101, 102, 103)]))

    @pytest.mark.parametrize(
        ("header", "records", "text"),
        [
            pytest.param(
                _delta_header(4),
                [_record(101, 102, 103), _record(30)],
                "do not rise",
                id="chunks out of order",
            ),
            pytest.param(
                _delta_header(5),
                [_record(30, 30), _record(101, 102, 103)],
                "do not rise",
                id="page twice",
            ),
            pytest.param(
                _delta_header(4),
                [_record(0), _record(101, 102, 103)],
                "do not rise",
                id="page zero",
            ),
            pytest.param(
                _delta_header(4),
                [_record(101, 102, 103), _record(104)],
                "leave the database",
                id="page beyond the end",
            ),
            pytest.param(
                _delta_header(4),
                [_record(30, 31), _record(102, 103)],
                "grew by is missing",
                id="hole in the growth",
            ),
            pytest.param(
                _delta_header(5),
                [_record(30), _record(101, 102, 103)],
                "were announced",
                id="fewer than announced",
            ),
            pytest.param(
                _delta_header(3),
                [_record(30), _record(101, 102, 103)],
                "2 may follow",
                id="more than announced",
            ),
            pytest.param(
                _delta_header(5),
                [
                    _record(30),
                    _record(31, prefix=Prefix((30,), OLD[29])),
                    _record(101, 102, 103),
                ],
                "reader has no more",
                id="prefix overwritten by now",
            ),
            pytest.param(
                _delta_header(4),
                [
                    _record(30, prefix=Prefix((101,), NEW[100])),
                    _record(101, 102, 103),
                ],
                "reader has no more",
                id="prefix not there yet",
            ),
        ],
    )
    def test_they_are_refused(
        self, header: Header, records: list[bytes], text: str
    ) -> None:
        assert text in refusal(assembled(header, records)).message

    def test_a_prefix_needs_someone_who_knows_it(self) -> None:
        """Alone, a delta with a prefix cannot be read, and says so."""
        with pytest.raises(ServiceError, match="earlier deltas of its chain"):
            verify_parts([PREFIXED])

    def test_a_wrong_prefix_is_seen(self) -> None:
        """Another version of the page gives other bytes, which the digest refuses."""
        with pytest.raises(ServiceError) as refused:
            verify_parts([PREFIXED], lambda numbers: bytes(512 * len(numbers)))

        assert Reason.DIGEST_MISMATCH is refused.value.reason

    def test_pages_are_no_opaque_bytes_nor_the_reverse(self) -> None:
        """Each reader refuses the other kind."""
        with pytest.raises(ServiceError, match="no pages"):
            list(read_pages([OPAQUE]))
        with pytest.raises(ServiceError, match="no opaque bytes"):
            list(read_opaque([BASE]))


class TestBombs:
    """A chunk may claim little and unpack to much."""

    @staticmethod
    def _chunk(payload: bytes, raw_bytes: int) -> bytes:
        head = ChunkHead(Encoding.ZSTD, 0, 0, raw_bytes, len(payload))
        return head.pack() + payload

    @pytest.mark.parametrize(
        "claim",
        [
            pytest.param(lambda c: c.compress(bytes(64 << 20)), id="states 64 MiB"),
            pytest.param(lambda c: c.compress(bytes(1000)), id="states less"),
            pytest.param(
                lambda c: c.compress(bytes(99)) + c.compress(bytes(9)), id="two frames"
            ),
        ],
    )
    def test_another_size_is_refused(
        self, claim: Callable[[zstandard.ZstdCompressor], bytes]
    ) -> None:
        """What zstd says it will unpack to is compared before it may allocate."""
        payload = claim(zstandard.ZstdCompressor())
        record = self._chunk(payload, 1 << 20)

        assert "unpack" in refusal(Header.opaque().pack() + record).message

    def test_a_frame_of_unknown_size_is_refused(self) -> None:
        """A streamed frame states no size, so no limit would hold."""
        compressor = zstandard.ZstdCompressor(write_content_size=False)
        record = self._chunk(compressor.compress(bytes(1 << 20)), 1 << 20)

        assert "another size" in refusal(Header.opaque().pack() + record).message

    def test_opaque_bytes_beyond_the_limit_are_refused(self) -> None:
        """Their size is not in the header, so it is counted on the way."""
        with pytest.raises(ServiceError) as refused:
            check(OPAQUE, limit=98)

        assert Reason.SNAPSHOT_TOO_LARGE is refused.value.reason


def test_page_hashes_are_proven_one_by_one(tmp_path: Path) -> None:
    """A writer whose hashes are not those of its pages does not pass verification,
    although its chunks hang together."""
    wrong = segments.image(1, seed=9)
    block = Block(range(1, 2), bytes(16), wrong[0])
    record = pack(Kind.BASE, block, Prefix(), 1)
    header = Header.base(512, 1)
    path = tmp_path / "segment"
    body = header.pack() + record
    foot = layout.FOOTER_HEAD.pack(layout.FOOTER_TAG, b"", 1)
    table = layout.TABLE_ENTRY.pack(len(record), 1)
    tail = Tail(len(body), 512, Fingerprint.of(range(1, 2), bytes(16)))
    path.write_bytes(resealed(body + foot + table + tail.pack()))

    assert [(1, wrong[0])] == list(read_pages([path.read_bytes()]))
    with pytest.raises(ServiceError, match="a page fails its hash"):
        verify(path)
