"""Whatever is wrong with a segment, it is refused with a reason and nothing else."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from services.chassis.errors import Reason, ServiceError
from services.segments import layout
from services.segments.encode import opaque_encoder
from services.segments.fingerprint import hash_page
from services.segments.layout import ChunkHead, Encoding, Header, Kind
from services.segments.pack import Prefix
from services.segments.read import read_pages, verify_parts
from tests.support import segments
from tests.support.crafted import resealed

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
        error = refusal(header.pack())

        assert Reason.SEGMENT_MALFORMED is error.reason
        assert "it ends after" not in error.message

    @pytest.mark.parametrize("at", [11, 28, 31])
    def test_reserved_bytes_are_zero(self, at: int) -> None:
        """What a later version may put there is not ignored by this one."""
        plain = bytearray(BASE[:48])
        plain[at] = 1

        error = refusal(bytes(plain) + hash_page(bytes(plain)))

        assert "reserved bytes" in error.message

    @pytest.mark.parametrize("kind", [0, 4, 255])
    def test_another_kind_is_refused(self, kind: int) -> None:
        """A kind of the future is told, not guessed."""
        plain = bytearray(BASE[:48])
        plain[10] = kind

        assert f"kind {kind}" in refusal(bytes(plain) + hash_page(bytes(plain))).message

    def test_a_flipped_byte_is_seen_at_once(self) -> None:
        """Before anything is made of the sizes that it gives."""
        flipped = bytearray(BASE[:64])
        flipped[17] ^= 1

        error = refusal(bytes(flipped))

        assert "header fails its digest" in error.message

    def test_a_large_claim_allocates_nothing(self) -> None:
        """A header that claims 16 TiB is only a header, until the limit refuses it."""
        claim = Header.base(4096, layout.PAGE_COUNT_MAX).pack()

        with pytest.raises(ServiceError) as refused:
            check(claim, limit=1 << 30)

        assert Reason.SNAPSHOT_TOO_LARGE is refused.value.reason
        assert Reason.SEGMENT_MALFORMED is refusal(claim).reason


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
