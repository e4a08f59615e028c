"""The map of what was saved: true to its fingerprint, and kept on disk."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.segments.disk import write_all
from services.segments.fingerprint import ZERO, Fingerprint, hash_page, hash_pages
from services.segments.page_map import PageMap
from tests.support import segments


def made(pages: segments.Image) -> PageMap:
    page_map = PageMap(len(pages[0]))
    hashes = hash_pages(b"".join(pages), len(pages[0]))
    page_map.replace(range(1, len(pages) + 1), hashes)
    return page_map


def test_an_empty_one_knows_nothing() -> None:
    """Before the first save every page counts as changed."""
    page_map = PageMap()

    assert (0, 0, ZERO) == (
        page_map.page_size,
        page_map.page_count,
        page_map.fingerprint,
    )
    assert page_map.hashes(1, 10) == b""


def test_it_has_the_fingerprint_of_the_pages() -> None:
    """Built from the pages, it says of the database what the format says of it."""
    pages = segments.image(100)

    page_map = made(pages)

    assert segments.fingerprint(pages) == page_map.fingerprint
    assert hash_page(pages[41]) == page_map.hashes(42, 1)
    assert hash_page(pages[99]) == page_map.hashes(100, 5)


_CHANGE = st.one_of(
    st.tuples(st.just("edit"), st.lists(st.integers(1, 60), min_size=1)),
    st.tuples(st.just("resize"), st.lists(st.integers(1, 60), min_size=1)),
)


@given(st.lists(_CHANGE, max_size=12))
def test_carried_forward_it_equals_one_made_afresh(
    steps: list[tuple[str, list[int]]],
) -> None:
    """Edits, growth and shrinking in any order leave hashes and fingerprint right."""
    pages = segments.image(30)
    page_map = made(pages)
    for at, (action, numbers) in enumerate(steps):
        before = pages
        if action == "edit":
            pages = segments.edited(pages, numbers, b"edit %d" % at)
        else:
            pages = pages[: numbers[0]]
            pages += segments.image(numbers[0], seed=at)[len(pages) :]
        changed = segments.changes(before, pages)

        page_map.shrink(min(len(pages), len(before)))
        page_map.replace(
            [n for n, _ in changed], b"".join(hash_page(p) for _, p in changed)
        )

        assert segments.fingerprint(pages) == page_map.fingerprint
        assert hash_pages(b"".join(pages), 512) == page_map.hashes(1, 100)


def test_a_hole_is_refused() -> None:
    """A page whose predecessor nobody gave has no place."""
    with pytest.raises(ValueError, match="leave no hole"):
        made(segments.image(3)).replace([5], bytes(16))


def test_each_page_has_a_hash() -> None:
    """Too few hashes would shift all that follow."""
    with pytest.raises(ValueError, match="one for each page"):
        PageMap(512).replace([1, 2], bytes(16))


def test_it_comes_back_from_disk(tmp_path: Path) -> None:
    """A supervisor that starts again goes on with deltas."""
    page_map = made(segments.image(5000))
    path = tmp_path / "map"

    page_map.save(path)
    page_map.save(path)
    found = PageMap.load(path)

    assert found is not None
    assert page_map.fingerprint == found.fingerprint
    assert page_map.hashes(1, 5000) == found.hashes(1, 5000)
    assert (512, 5000) == (found.page_size, found.page_count)
    assert [path] == list(tmp_path.iterdir())


@given(st.data())
def test_the_file_follows_each_change(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """Saved again and again, it costs what changed and is what a fresh one would be."""
    path = tmp_path_factory.mktemp("map") / "map"
    page_map = PageMap(512)
    for _ in range(data.draw(st.integers(1, 8))):
        count = page_map.page_count
        match data.draw(st.sampled_from(["grow", "edit", "shrink", "reset"])):
            case "grow":
                added = data.draw(st.integers(1, 30))
                hashes = data.draw(st.binary(min_size=16 * added, max_size=16 * added))
                page_map.replace(range(count + 1, count + 1 + added), hashes)
            case "edit" if count:
                page = data.draw(st.integers(1, count))
                page_map.replace([page], data.draw(st.binary(min_size=16, max_size=16)))
            case "shrink":
                page_map.shrink(data.draw(st.integers(0, count)))
            case "reset":
                page_map.reset(512)
        if data.draw(st.booleans()):
            page_map.save(path)
    page_map.save(path)

    found = PageMap.load(path)

    assert found is not None
    count = page_map.page_count
    assert page_map.hashes(1, count) == found.hashes(1, found.page_count)
    assert page_map.fingerprint == found.fingerprint


@pytest.mark.parametrize("written", range(5))
def test_a_change_that_was_cut_is_not_believed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, written: int
) -> None:
    """After a SIGKILL between two writes it is the map before or after, or none."""
    path = tmp_path / "map"
    page_map = made(segments.image(100))
    page_map.save(path)
    before = page_map.fingerprint
    for page in (3, 50, 99):
        page_map.replace([page], bytes(16))
    left = written

    def dying(descriptor: int, data: memoryview, offset: int) -> None:
        nonlocal left
        if not left:
            raise OSError
        left -= 1
        write_all(descriptor, data, offset)

    monkeypatch.setattr("services.segments.page_map.write_all", dying)
    with suppress(OSError):
        page_map.save(path)

    found = PageMap.load(path)
    assert (found is not None) == (written in (0, 4))
    assert found is None or found.fingerprint in (before, page_map.fingerprint)


def test_without_a_file_there_is_none(tmp_path: Path) -> None:
    """Nothing to believe: the next save is a full compare."""
    assert PageMap.load(tmp_path / "map") is None


@given(st.data())
def test_a_spoiled_file_is_not_believed(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """A flipped or cut file would make a save miss pages."""
    path = tmp_path_factory.mktemp("map") / "map"
    made(segments.image(20)).save(path)
    raw = bytearray(path.read_bytes())
    at = data.draw(st.integers(0, len(raw) - 1))
    if data.draw(st.booleans()):
        raw[at] ^= data.draw(st.integers(1, 255))
    else:
        del raw[at:]
    path.write_bytes(raw)

    assert PageMap.load(path) is None


def test_an_empty_one_comes_back_too(tmp_path: Path) -> None:
    """An agent without a session has a map as well."""
    PageMap().save(tmp_path / "map")

    found = PageMap.load(tmp_path / "map")

    assert found is not None
    assert (ZERO, 0) == (found.fingerprint, found.page_count)
    assert Fingerprint() == found.fingerprint
