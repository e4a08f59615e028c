"""A delta's fingerprint, proven from hashes; prefixes, resolved along the chain."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from services.chassis.errors import Reason, ServiceError
from services.segments.encode import PrefixSource
from services.segments.fingerprint import Fingerprint
from services.segments.layout import CHUNK_HEAD, HEADER, TAIL, Tail
from services.segments.pack import Prefix
from services.segments.read import verify
from services.snapshots.delta_proof import chunks, fingerprint_after, outline
from services.snapshots.older_pages import older_pages
from tests.support import segments as made

# Any folder will do for every example: names are made anew.
IN_ONE_FOLDER = settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture],
    max_examples=40,
    deadline=None,
)


class Chain:
    """Images of a database over time, and the segments between them as files."""

    def __init__(self, folder: Path, page_count: int = 150) -> None:
        self.folder = folder
        self.images = [made.image(page_count)]
        self.paths = [self._file(made.base(self.images[0]))]
        self._carried: dict[int, bytes] = {}

    def change(self, image: made.Image, *, prefix: bool = False) -> None:
        old = self.images[-1]
        source = self._prefix(min(len(old), len(image))) if prefix else None
        segment = made.delta(old, image, source)
        self.images.append(image)
        self.paths.append(self._file(segment))
        self._carried.update(made.changes(old, image))
        for number in [n for n in self._carried if n > len(image)]:
            del self._carried[number]

    def _prefix(self, highest: int) -> PrefixSource:
        """All pages that earlier deltas carried and that a reader still has."""
        carried = {n: page for n, page in self._carried.items() if n <= highest}

        def source(numbers: Sequence[int], lowest: int, most: int) -> Prefix:
            chosen = sorted(n for n in carried if n >= lowest)[:most]
            return Prefix(chosen, b"".join(carried[n] for n in chosen))

        return source

    def _file(self, data: bytes) -> Path:
        path = self.folder / f"segment-{random.randrange(2**60)}"
        path.write_bytes(data)
        return path


def random_change(source: random.Random, image: made.Image, mark: bytes) -> made.Image:
    """Some pages edited, then the end grown, cut or left."""
    count = source.choice([0, 1, 2, 20, len(image)])
    numbers = source.choices(range(1, len(image) + 1), k=count)
    changed = made.edited(image, numbers, mark)
    match source.randrange(4):
        case 0:
            more = source.randrange(1, 80)
            return changed + made.image(more, seed=source.randrange(2**32))
        case 1:
            return changed[: source.randrange(1, len(changed) + 1)]
    return changed


def deltas(source: random.Random, folder: Path, count: int, *, prefix: bool) -> Chain:
    chain = Chain(folder)
    for n in range(count):
        image = random_change(source, chain.images[-1], b"change %d " % n)
        chain.change(image, prefix=prefix)
    return chain


@IN_ONE_FOLDER
@given(st.integers(0, 2**32), st.integers(1, 6))
def test_equals_what_the_pages_give(tmp_path: Path, seed: int, count: int) -> None:
    """Whatever changed, the proof comes to the fingerprint of the whole database."""
    chain = deltas(random.Random(seed), tmp_path, count, prefix=False)
    base, *before, last = chain.paths

    found = fingerprint_after(outline(last), last, base, before)

    assert made.fingerprint(chain.images[-1]) == found


@IN_ONE_FOLDER
@given(st.integers(0, 2**32), st.integers(1, 4))
def test_the_map_comes_to_the_same(tmp_path: Path, seed: int, count: int) -> None:
    """Many changed pages are proven another way, with the same result."""
    chain = deltas(random.Random(seed), tmp_path, count, prefix=False)
    base, *before, last = chain.paths

    found = fingerprint_after(outline(last, sparse_pages_max=0), last, base, before)

    assert made.fingerprint(chain.images[-1]) == found


@IN_ONE_FOLDER
@given(st.integers(0, 2**32), st.integers(2, 6))
def test_prefixes_along_the_chain(tmp_path: Path, seed: int, count: int) -> None:
    """A prefix that rests on prefixes that rest on prefixes is read all the same."""
    chain = deltas(random.Random(seed), tmp_path, count, prefix=True)
    _, *before, last = chain.paths
    found = outline(last)
    scratch = tmp_path / f"scratch-{random.randrange(2**60)}"

    with older_pages(before, set(found.prefix), 512, scratch) as older:
        info = verify(last, older.read)

    assert made.fingerprint(chain.images[-1]) == info.fingerprint
    assert not scratch.exists()


def test_a_prefix_that_nobody_carries(tmp_path: Path) -> None:
    """Pages of the base are no dictionary: they need not be decoded for deltas."""
    chain = Chain(tmp_path)
    chain.change(made.edited(chain.images[-1], [3], b"one"))

    with (
        pytest.raises(ServiceError) as refused,
        older_pages(chain.paths[1:], {3, 4}, 512, tmp_path / "scratch"),
    ):
        raise AssertionError("unreachable")

    assert Reason.SEGMENT_MALFORMED is refused.value.reason


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        pytest.param(b"", Reason.SEGMENT_MALFORMED, id="empty"),
        pytest.param(b"x" * 63, Reason.SEGMENT_MALFORMED, id="short"),
        pytest.param(b"x" * 64, Reason.SEGMENT_MALFORMED, id="no magic"),
    ],
)
def test_the_outline_of_nonsense(tmp_path: Path, data: bytes, reason: Reason) -> None:
    """What is no segment is refused before anything else is read."""
    path = tmp_path / "segment"
    path.write_bytes(data)

    with pytest.raises(ServiceError) as refused:
        outline(path)

    assert reason is refused.value.reason


@pytest.mark.parametrize("where", ["hash", "table"])
def test_a_rotten_base_is_seen(tmp_path: Path, where: str) -> None:
    """What rotted in the chain gives no proof that happens to fit."""
    chain = Chain(tmp_path)
    chain.change(made.edited(chain.images[-1], range(1, 151), b"all"))
    base, last = chain.paths
    data = bytearray(base.read_bytes())
    footer = Tail.unpack(bytes(data[-TAIL.size :])).footer_offset
    data[HEADER.size + CHUNK_HEAD.size if where == "hash" else footer + 8] ^= 0x40
    base.write_bytes(data)

    assert made.fingerprint(chain.images[-1]) != proof_of(last, base)


def test_a_base_that_was_cut_is_seen(tmp_path: Path) -> None:
    """However little of it is left, that is refused as any other damage."""
    chain = Chain(tmp_path)
    chain.change(made.edited(chain.images[-1], range(1, 151), b"all"))
    base, last = chain.paths
    whole = base.read_bytes()
    for size_bytes in range(0, len(whole), 997):
        base.write_bytes(whole[:size_bytes])

        assert made.fingerprint(chain.images[-1]) != proof_of(last, base)


def proof_of(last: Path, base: Path) -> Fingerprint | None:
    """What the chain proves; None if it cannot be read."""
    try:
        return fingerprint_after(outline(last), last, base, [])
    except ServiceError:
        return None


def test_a_small_segment_is_decoded_once(tmp_path: Path) -> None:
    """Every save of a chain looks through the same deltas."""
    chain = Chain(tmp_path)
    chain.change(made.edited(chain.images[-1], [7], b"new"))

    assert chunks(chain.paths[1]) is chunks(chain.paths[1])


def test_what_changed_on_disk_is_seen(tmp_path: Path) -> None:
    """A segment that was remembered and has rotted since is refused."""
    chain = Chain(tmp_path)
    chain.change(made.edited(chain.images[-1], [7], b"new"))
    path = chain.paths[1]
    assert 1 == len(list(chunks(path)))
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)

    with pytest.raises(ServiceError) as caught:
        list(chunks(path))

    assert Reason.DIGEST_MISMATCH is caught.value.reason
