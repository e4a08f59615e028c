"""Every rule of the format, broken alone: digests that are right do not help."""

from __future__ import annotations

from pathlib import Path

import pytest

from services.chassis.errors import Reason, ServiceError
from services.segments.chain import ChainBuilder
from services.segments.encode import opaque_encoder
from services.segments.fingerprint import ZERO, Fingerprint, hash_pages
from services.segments.layout import CHUNK_BYTES_MAX, Encoding, Header, Kind
from services.segments.pack import Prefix
from services.segments.read import read_opaque, read_pages, verify_parts
from tests.support import segments
from tests.support.crafted import assembled, raw_record, record, resealed

OLD = segments.image(100)
NEW = [*segments.edited(OLD, [1, 30, 99], b"!"), *segments.image(4, seed=1)]
BASE = segments.base(OLD)
AFTER = segments.fingerprint(NEW[:103])
MIB = bytes(CHUNK_BYTES_MAX)


def refusal(segment: bytes) -> ServiceError:
    with pytest.raises(ServiceError, match=r"^cannot .*[^.]$") as refused:
        verify_parts([segment], segments.prefix_pages(OLD))
    return refused.value


def header(pages: int, page_count: int = 103) -> Header:
    parent = segments.fingerprint(OLD)
    return Header(Kind.DELTA, 512, page_count, pages, len(OLD), parent)


def part(*numbers: int, prefix: Prefix | None = None) -> bytes:
    data = b"".join(NEW[number - 1] for number in numbers)
    return record(Kind.DELTA, numbers, data, prefix)


def test_the_parts_fit_when_nothing_is_wrong() -> None:
    """Else the refusals below would prove nothing."""
    parts = [part(30, prefix=Prefix((30,), OLD[29])), part(101, 102, 103)]

    verify_parts([assembled(header(4), parts, AFTER)], segments.prefix_pages(OLD))


GROWN = part(101, 102, 103)
LONG_PREFIX = Prefix(tuple(range(1, 101)) * 3, b"".join(OLD) * 3)


@pytest.mark.parametrize(
    ("pages", "parts", "text"),
    [
        pytest.param(4, [GROWN, part(30)], "do not rise", id="chunks out of order"),
        pytest.param(5, [part(30, 30), GROWN], "do not rise", id="page twice"),
        pytest.param(5, [part(31, 30), GROWN], "do not rise", id="falling"),
        pytest.param(4, [part(0), GROWN], "do not rise", id="page zero"),
        pytest.param(4, [GROWN, part(104)], "leave the database", id="beyond"),
        pytest.param(3, [part(30), part(102, 103)], "is missing", id="hole"),
        pytest.param(3, [part(30), part(101, 102)], "is missing", id="end missing"),
        pytest.param(5, [part(30), GROWN], "were announced", id="too few"),
        pytest.param(3, [part(30), GROWN], "2 may follow", id="too many"),
        pytest.param(
            5,
            [part(30), part(31, prefix=Prefix((30,), OLD[29])), GROWN],
            "reader has no more",
            id="prefix overwritten by now",
        ),
        pytest.param(
            4,
            [part(30, prefix=Prefix((101,), NEW[100])), GROWN],
            "reader has no more",
            id="prefix not there yet",
        ),
        pytest.param(
            4,
            [part(30, prefix=LONG_PREFIX), GROWN],
            "a prefix of 300 pages",
            id="prefix too long",
        ),
    ],
)
def test_pages_of_a_delta(pages: int, parts: list[bytes], text: str) -> None:
    """Numbers, growth, counts, prefixes."""
    assert text in refusal(assembled(header(pages), parts, AFTER)).message


def _base(*counts: int) -> bytes:
    parts, first = [], 1
    for count in counts:
        numbers = range(first, first + count)
        data = b"".join(OLD[number - 1] for number in numbers)
        parts.append(record(Kind.BASE, numbers, data))
        first += count
    whole = Header.base(512, first - 1)
    return assembled(whole, parts, segments.fingerprint(OLD[: first - 1]))


def test_a_base_has_full_chunks() -> None:
    """So its page numbers need no bytes, and a page is found by counting."""
    verify_parts([_base(64, 36)])

    assert "only the last chunk of a base" in refusal(_base(36, 64)).message
    assert "where 64 may follow" in refusal(_base(65, 35)).message


def test_a_base_has_no_prefix() -> None:
    """It stands on nothing."""
    made = record(Kind.BASE, range(1, 2), OLD[0], Prefix((1,), OLD[0]))

    error = refusal(assembled(Header.base(512, 1), [made], segments.fingerprint(OLD)))

    assert "a base has no prefix" in error.message


def test_a_base_has_the_fingerprint_of_its_pages() -> None:
    """A base proves itself."""
    pages = [record(Kind.BASE, range(1, 2), OLD[0])]

    error = refusal(assembled(Header.base(512, 1), pages, ZERO))

    assert Reason.DIGEST_MISMATCH is error.reason
    assert "another fingerprint" in error.message


@pytest.mark.parametrize(
    ("made", "text"),
    [
        pytest.param(
            raw_record(bytes(513), 513, pages=1, index=bytes(16)),
            "as long as its pages",
            id="data too long",
        ),
        pytest.param(
            raw_record(bytes(9), 9, encoding=Encoding.ZSTD, pages=1, index=bytes(16)),
            "shorter than its data",
            id="compression that does not pay",
        ),
        pytest.param(
            raw_record(bytes(9), 512, pages=1, index=bytes(16)),
            "as long as its data",
            id="stored and shorter",
        ),
        pytest.param(
            raw_record(bytes(512), 512, pages=1, prefix_pages=1, index=bytes(20)),
            "if and only if",
            id="prefix without using it",
        ),
        pytest.param(
            raw_record(
                bytes(9), 512, encoding=Encoding.ZSTD_PREFIX, pages=1, index=bytes(16)
            ),
            "if and only if",
            id="prefix of nothing",
        ),
        pytest.param(
            raw_record(bytes(CHUNK_BYTES_MAX + 1), CHUNK_BYTES_MAX + 1),
            "a chunk of 1048577 bytes",
            id="chunk too large",
        ),
    ],
)
def test_sizes_in_a_chunk(made: bytes, text: str) -> None:
    """Checked before anything is allocated or unpacked."""
    assert text in refusal(Header.base(512, 1).pack() + made).message


class TestOpaque:
    def test_only_the_last_chunk_is_short(self) -> None:
        """So a position is found by counting."""
        parts = [record(Kind.OPAQUE, (), b"short"), record(Kind.OPAQUE, (), MIB)]

        error = refusal(assembled(Header.opaque(), parts, ZERO))

        assert "only the last opaque chunk" in error.message

    def test_it_has_no_pages(self) -> None:
        """Bytes that are no database have none to count."""
        made = raw_record(bytes(512), 512, pages=1, index=bytes(16))

        error = refusal(assembled(Header.opaque(), [made], ZERO))

        assert "has no pages" in error.message

    def test_it_has_the_digest_of_its_bytes(self) -> None:
        """In the place of a fingerprint."""
        wrong = assembled(Header.opaque(), [record(Kind.OPAQUE, (), b"body")], ZERO)

        assert "another digest" in refusal(wrong).message
        with pytest.raises(ServiceError, match="another digest"):
            list(read_opaque([wrong]))


class TestFooter:
    @pytest.mark.parametrize("at", [-64, -56], ids=["offset", "size"])
    def test_its_sizes(self, at: int) -> None:
        """A reader that seeks believes them."""
        wrong = bytearray(BASE)
        wrong[at] ^= 1

        assert "other sizes" in refusal(resealed(bytes(wrong))).message

    def test_its_table(self) -> None:
        """The same."""
        wrong = bytearray(BASE)
        wrong[-65] ^= 1

        assert "other chunks" in refusal(resealed(bytes(wrong))).message


class TestKinds:
    def test_pages_are_no_opaque_bytes_nor_the_reverse(self) -> None:
        """Each reader refuses the other kind, the empty one too."""
        opaque = b"".join(opaque_encoder([b"x"]))
        shrunk = segments.delta(OLD, OLD[:5])

        with pytest.raises(ServiceError, match="no pages"):
            list(read_pages([opaque]))
        for pages in (BASE, shrunk):
            with pytest.raises(ServiceError, match="no opaque bytes"):
                list(read_opaque([pages]))


class TestPrefix:
    PREFIXED = assembled(
        header(4), [part(30, prefix=Prefix((30,), OLD[29])), GROWN], AFTER
    )

    def test_it_needs_someone_who_knows_it(self) -> None:
        """Alone, a delta with a prefix cannot be read, and says so."""
        with pytest.raises(ServiceError, match="earlier deltas of its chain"):
            verify_parts([self.PREFIXED])

    def test_a_wrong_one_is_seen(self) -> None:
        """Another version of the page gives other bytes, which the digest refuses."""
        with pytest.raises(ServiceError) as refused:
            verify_parts([self.PREFIXED], lambda numbers: bytes(512 * len(numbers)))

        assert Reason.DIGEST_MISMATCH is refused.value.reason


class TestChain:
    def test_a_hole_stops_the_building(self, tmp_path: Path) -> None:
        """Before a page is put where nothing is yet."""
        self._refuse(
            tmp_path,
            assembled(header(3), [part(101, 103)], AFTER),
            "grew by is missing",
        )

    def test_a_fingerprint_that_the_pages_do_not_give(self, tmp_path: Path) -> None:
        """A delta's own cannot be checked alone: here it is."""
        wrong = assembled(header(3), [GROWN], ZERO)

        self._refuse(tmp_path, wrong, "another fingerprint")

    def test_a_parent_of_another_length(self, tmp_path: Path) -> None:
        """Whatever its fingerprint is said to be."""
        longer = Header(Kind.DELTA, 512, 103, 2, 101, segments.fingerprint(OLD))

        self._refuse(
            tmp_path, assembled(longer, [part(102, 103)], AFTER), "another state"
        )

    def _refuse(self, folder: Path, wrong: bytes, text: str) -> None:
        with pytest.raises(ServiceError, match=text):
            self._build(folder / "file", BASE, wrong)
        assert [] == list(folder.iterdir())

    def _build(self, path: Path, *chain: bytes) -> None:
        with ChainBuilder(path) as builder:
            for segment in chain:
                builder.add([segment])


def test_page_hashes_are_proven_one_by_one() -> None:
    """A writer whose hashes are not those of its pages does not pass verification,
    although its chunks hang together."""
    made = raw_record(OLD[0], 512, pages=1, index=bytes(16))
    wrong = assembled(
        Header.base(512, 1), [made], Fingerprint.of(range(1, 2), bytes(16))
    )

    assert [(1, OLD[0])] == list(read_pages([wrong]))
    assert "a page fails its hash" in refusal(wrong).message
    assert hash_pages(OLD[0], 512) != bytes(16)
