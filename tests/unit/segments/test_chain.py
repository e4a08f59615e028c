"""A base and its deltas in order are the database; anything else is refused."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.chassis.errors import Reason, ServiceError
from services.segments.chain import ChainBuilder, Expected
from services.segments.disk import write_all
from services.segments.encode import opaque_encoder
from services.segments.pack import Prefix
from services.segments.prefix import PrefixCache
from tests.support import segments


def built(
    path: Path, chain: Iterable[bytes], expected: Expected | None = None
) -> segments.Image:
    with ChainBuilder(path, expected) as builder:
        for segment in chain:
            builder.add(segments.pieces(segment, 10_000))
        page_map = builder.finish()
    raw = path.read_bytes()
    size = page_map.page_size
    pages = [raw[at : at + size] for at in range(0, len(raw), size)]
    assert segments.fingerprint(pages) == page_map.fingerprint
    return pages


_STEPS = st.lists(
    st.tuples(
        st.integers(1, 400),
        st.lists(st.integers(1, 400), max_size=300, unique=True),
    ),
    max_size=8,
)


@settings(max_examples=60)
@given(
    page_size=st.sampled_from([512, 4096, 65_536]), steps=_STEPS, cached=st.booleans()
)
def test_a_chain_gives_the_last_state(
    tmp_path_factory: pytest.TempPathFactory,
    page_size: int,
    steps: list[tuple[int, list[int]]],
    cached: bool,
) -> None:
    """Random edits, growth and shrinking, with prefixes and without, all page sizes."""
    cache = PrefixCache()
    pages = segments.image(60, page_size)
    chain = [segments.base(pages)]
    for at, (page_count, numbers) in enumerate(steps):
        page_count = page_count if page_size < 65_536 else page_count // 8 + 1
        old = pages
        pages = segments.edited(old, numbers, b"step %d" % at)[:page_count]
        pages += segments.image(page_count, page_size, seed=at)[len(pages) :]
        chain.append(_delta(old, pages, cache if cached else None))

    assert pages == built(tmp_path_factory.mktemp("chain") / "file", chain)


def _delta(
    old: segments.Image, new: segments.Image, cache: PrefixCache | None
) -> bytes:
    if cache is None:
        return segments.delta(old, new)
    made = segments.delta(old, new, cache.source)
    for block in segments.delta_blocks(old, new):
        cache.offer(block)
    cache.commit(len(new))
    return made


class TestPrefix:
    def test_it_pays(self) -> None:
        """A hot page rewritten again and again costs little but its changes."""
        cache = PrefixCache()
        first = segments.image(40, 4096)
        second = segments.edited(first, range(1, 20), b"one")
        third = segments.edited(second, range(1, 20), b"two")
        _delta(first, second, cache)

        plain = len(segments.delta(second, third))
        made = len(_delta(second, third, cache))

        assert made < plain / 10

    def test_only_deltas_may_be_named(self, tmp_path: Path) -> None:
        """A delta can be read without its base, so a page of the base is refused."""
        old = segments.image(10)
        new = segments.edited(old, [3], b"x")
        made = segments.delta(old, new, lambda *_: Prefix((3,), old[2]))

        with pytest.raises(ServiceError, match="no earlier delta carries"):
            built(tmp_path / "file", [segments.base(old), made])

    def test_a_page_that_was_dropped_may_not_be_named(self, tmp_path: Path) -> None:
        """What a shrink took away is gone, also when the database grows again."""
        old = segments.image(20)
        edited = segments.edited(old, [15], b"x")
        shrunk = edited[:10]
        grown = [*shrunk, *edited[10:]]
        chain = [
            segments.base(old),
            segments.delta(old, edited),
            segments.delta(edited, shrunk),
            segments.delta(
                shrunk,
                grown,
                lambda *_: Prefix((15,), edited[14]),
            ),
        ]

        with pytest.raises(ServiceError, match="reader has no more"):
            built(tmp_path / "file", chain)

    def test_a_burst_beyond_the_cache_leaves_nothing_stale(self) -> None:
        """Pages that were not remembered were rewritten all the same."""
        cache = PrefixCache(size_bytes_max=10 * 512)
        first = segments.image(100)
        second = segments.edited(first, [90], b"early")
        _delta(first, second, cache)
        third = segments.edited(second, range(1, 101), b"burst")
        _delta(second, third, cache)

        assert Prefix([], b"") == cache.source([90], 1, 256)

    def test_a_discarded_delta_leaves_no_trace(self) -> None:
        """What the store refused is no part of the chain."""
        cache = PrefixCache()
        first = segments.image(10)
        second = segments.edited(first, [3], b"x")
        for block in segments.delta_blocks(first, second):
            cache.offer(block)
        cache.discard()
        cache.commit(10)

        assert Prefix([], b"") == cache.source([3], 1, 256)


OLD = segments.image(100)
NEW = segments.edited(OLD, [5, 50], b"new")
BASE = segments.base(OLD)
DELTA = segments.delta(OLD, NEW)


class TestRefusals:
    @pytest.mark.parametrize(
        ("chain", "reason"),
        [
            pytest.param([], Reason.SEGMENT_MALFORMED, id="nothing"),
            pytest.param([DELTA], Reason.PARENT_MISMATCH, id="no base"),
            pytest.param([BASE, BASE], Reason.SEGMENT_MALFORMED, id="two bases"),
            pytest.param([BASE, DELTA, DELTA], Reason.PARENT_MISMATCH, id="twice"),
            pytest.param(
                [segments.base(NEW), DELTA], Reason.PARENT_MISMATCH, id="foreign base"
            ),
            pytest.param(
                [segments.base(segments.image(3, 1024)), DELTA],
                Reason.PARENT_MISMATCH,
                id="page size",
            ),
            pytest.param([BASE, DELTA[:-1]], Reason.SEGMENT_MALFORMED, id="cut"),
            pytest.param(
                [BASE[:900] + b"\0" + BASE[901:]], Reason.DIGEST_MISMATCH, id="rot"
            ),
            pytest.param(
                [b"".join(opaque_encoder([b"x"]))], Reason.SNAPSHOT_OPAQUE, id="opaque"
            ),
            pytest.param(
                [b"".join(opaque_encoder([]))], Reason.SNAPSHOT_OPAQUE, id="empty"
            ),
        ],
    )
    def test_a_wrong_chain_leaves_no_file(
        self, tmp_path: Path, chain: list[bytes], reason: Reason
    ) -> None:
        """Whatever is wrong, nobody can take a half-built file for a database."""
        with pytest.raises(ServiceError) as refused:
            built(tmp_path / "file", chain)

        assert reason is refused.value.reason
        assert [] == list(tmp_path.iterdir())

    @pytest.mark.parametrize(
        "expected",
        [
            pytest.param(Expected(1024, 100, segments.fingerprint(NEW)), id="size"),
            pytest.param(Expected(512, 99, segments.fingerprint(NEW)), id="count"),
            pytest.param(Expected(512, 100, segments.fingerprint(OLD)), id="content"),
        ],
    )
    def test_another_state_than_the_record_names(
        self, tmp_path: Path, expected: Expected
    ) -> None:
        """Segments that are sound but not those of this generation."""
        with pytest.raises(ServiceError, match="not the one that was saved"):
            built(tmp_path / "file", [BASE, DELTA], expected)

        assert [] == list(tmp_path.iterdir())

    def test_the_state_that_the_record_names(self, tmp_path: Path) -> None:
        """The counterpart: right is let through."""
        expected = Expected(512, 100, segments.fingerprint(NEW))

        assert NEW == built(tmp_path / "file", [BASE, DELTA], expected)

    def test_a_file_that_is_there_is_not_touched(self, tmp_path: Path) -> None:
        """It may be somebody's database."""
        (tmp_path / "file").write_bytes(b"precious")

        with pytest.raises(FileExistsError):
            built(tmp_path / "file", [BASE])

        assert (tmp_path / "file").read_bytes() == b"precious"

    def test_more_than_the_limit_is_not_begun(self, tmp_path: Path) -> None:
        """Zeros unpack to a thousand times their size: the limit is asked first."""
        with (
            pytest.raises(ServiceError) as refused,
            ChainBuilder(tmp_path / "file", database_bytes_max=512 * 99) as builder,
        ):
            builder.add([BASE])

        assert Reason.SNAPSHOT_TOO_LARGE is refused.value.reason

    def test_a_full_disk_says_so(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The operator learns what to do, and nothing half-built stays."""

        def full(descriptor: int, data: bytes, offset: int) -> int:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        monkeypatch.setattr("services.segments.disk.os.pwrite", full)
        with pytest.raises(ServiceError, match="free some space") as refused:
            built(tmp_path / "file", [BASE])

        assert Reason.STORAGE_FULL is refused.value.reason
        assert [] == list(tmp_path.iterdir())


def test_short_writes_are_gone_on_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel may take less than it was given."""
    whole = os.pwrite

    def short(descriptor: int, data: bytes, offset: int) -> int:
        return whole(descriptor, data[:100], offset)

    monkeypatch.setattr("services.segments.disk.os.pwrite", short)
    descriptor = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    write_all(descriptor, bytes(range(256)) * 3, 7)
    os.close(descriptor)

    assert bytes(7) + bytes(range(256)) * 3 == (tmp_path / "file").read_bytes()
