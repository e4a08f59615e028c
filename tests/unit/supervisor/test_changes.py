"""Comparing an image with the map: each kind of difference, one at a time."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from services.segments.layout import Kind
from services.segments.page_map import PageMap
from services.supervisor.capture import Capture, Shape
from services.supervisor.changes import compare
from tests.support import segments


@pytest.fixture
def page_map() -> PageMap:
    return PageMap()


def compared(
    folder: Path, pages: segments.Image, page_map: PageMap, *, base: bool = False
) -> Capture | None:
    path = folder / "image"
    path.write_bytes(b"".join(pages))
    image = os.open(path, os.O_RDONLY)
    return compare(image, Shape(512, len(pages)), page_map, folder, base=base)


def committed(folder: Path, pages: segments.Image, page_map: PageMap) -> Capture:
    capture = compared(folder, pages, page_map)
    assert capture is not None
    capture.commit()
    capture.close()
    assert segments.fingerprint(pages) == page_map.fingerprint
    return capture


def test_the_first_is_a_base(tmp_path: Path, page_map: PageMap) -> None:
    """An empty map fits nothing."""
    capture = committed(tmp_path, segments.image(5000), page_map)

    assert (Kind.BASE, 5000) == (capture.header.kind, capture.header.pages)


def test_equal_is_nothing(tmp_path: Path, page_map: PageMap) -> None:
    """No difference, no capture, and no descriptor kept."""
    committed(tmp_path, segments.image(50), page_map)
    open_before = len(os.listdir("/proc/self/fd"))

    assert compared(tmp_path, segments.image(50), page_map) is None
    assert open_before == len(os.listdir("/proc/self/fd"))


def test_only_fewer_pages(tmp_path: Path, page_map: PageMap) -> None:
    """Shrinking is a change although no page that stays differs."""
    committed(tmp_path, segments.image(50), page_map)

    capture = committed(tmp_path, segments.image(50)[:40], page_map)

    header = capture.header
    assert (Kind.DELTA, 0, 40) == (header.kind, header.pages, header.page_count)


def test_scattered_and_added_pages(tmp_path: Path, page_map: PageMap) -> None:
    """Over several steps of the scan: exactly the pages that differ, in order."""
    old = segments.image(6000)
    committed(tmp_path, old, page_map)
    new = [*segments.edited(old, [1, 2049, 4097, 6000], b"edited"), *old[:3]]

    capture = compared(tmp_path, new, page_map)
    assert capture is not None
    with capture:
        found = [number for block in capture.blocks() for number in block.numbers]

    assert [1, 2049, 4097, 6000, 6001, 6002, 6003] == found
    assert segments.fingerprint(new) == capture.fingerprint


def test_a_short_image_is_refused(tmp_path: Path, page_map: PageMap) -> None:
    """Pages that cannot be read must not count as zeros."""
    path = tmp_path / "image"
    path.write_bytes(bytes(512 * 9))
    image = os.open(path, os.O_RDONLY)

    with pytest.raises(OSError, match="database is short"):
        compare(image, Shape(512, 10), page_map, tmp_path)
