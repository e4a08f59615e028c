"""Every released format stays readable: files written long ago come back the same."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TypedDict

import pytest
from blake3 import blake3

from services.segments.chain import ChainBuilder
from services.segments.decode import SegmentDecoder
from services.segments.layout import VERSION, Kind
from services.segments.read import file_parts, read_opaque, verify
from tests.support.golden_segments import FOLDER


class Named(TypedDict):
    file: str
    blake3: str


class Chain(TypedDict):
    segments: list[Named]
    blake3: str


def recorded() -> dict[str, Chain]:
    found: dict[str, Chain] = {}
    for path in sorted(FOLDER.glob("v*-chains.json")):
        version = path.name.split("-")[0]
        for name, chain in json.loads(path.read_text()).items():
            found[f"{version}-{name}"] = chain
    return found


CHAINS = recorded()


@pytest.mark.parametrize("name", [name for name in CHAINS if "opaque" not in name])
def test_a_golden_chain_gives_its_database(name: str, tmp_path: Path) -> None:
    """Base and deltas, plain and with prefix, growing and shrinking."""
    with ChainBuilder(tmp_path / "file") as builder:
        for segment in CHAINS[name]["segments"]:
            with (FOLDER / segment["file"]).open("rb") as file:
                info = builder.add(file_parts(file))
            assert segment["blake3"] == info.blake3.hex()
        builder.finish()

    found = blake3((tmp_path / "file").read_bytes()).hexdigest()
    assert CHAINS[name]["blake3"] == found


@pytest.mark.parametrize("name", [name for name in CHAINS if "opaque" in name])
def test_golden_opaque_bytes_come_back(name: str) -> None:
    """Any bytes, of any length."""
    with (FOLDER / CHAINS[name]["segments"][0]["file"]).open("rb") as file:
        body = b"".join(read_opaque(file_parts(file)))

    assert CHAINS[name]["blake3"] == blake3(body).hexdigest()


def test_this_version_has_golden_files_of_every_form() -> None:
    """A form without a golden file is not held."""
    paths = sorted(FOLDER.glob(f"v{VERSION}-*.segment"))
    infos = [verify(path) for path in paths if not _prefixed(path)]

    assert set(Kind) == {info.kind for info in infos}
    assert any(_prefixed(path) for path in paths)


def _prefixed(path: Path) -> bool:
    return any(chunk.prefix for chunk in SegmentDecoder().feed(path.read_bytes()))
