"""A generation as it comes over the wire becomes the database, or nothing."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from blake3 import blake3

from services.chassis.errors import Reason, ServiceError
from services.supervisor.places import Places
from services.supervisor.rebuild import rebuild
from services.supervisor.snapshots_client import Generation, Segment
from tests.support.saves import Bench
from tests.support.sqlite import fill, masked, opened, oracle

PIECE_BYTES = 1000


@pytest.fixture
def places(tmp_path: Path) -> Places:
    made = Places(tmp_path / "agent")
    made.prepare()
    return made


@pytest.fixture
def generation(bench: Bench) -> Generation:
    """A base and two deltas of a database of some hundred pages."""
    with opened(bench.database) as connection:
        for rows in (2000, 3, 5):
            fill(connection, rows)
            bench.save()
    return Generation(
        number=3,
        opaque=False,
        segments=tuple(Segment(blake3(one).digest(), len(one)) for one in bench.chain),
        fingerprint=bytes(bench.map.fingerprint),
        page_size=bench.map.page_size,
        page_count=bench.map.page_count,
        runtime="exec",
        runtime_version="",
        session_id="",
        upload_id="",
        saved_at=datetime.now(UTC),
    )


def pieces(data: bytes) -> Iterator[bytes]:
    """As no segment ends where a piece does."""
    for at in range(0, len(data), PIECE_BYTES):
        yield data[at : at + PIECE_BYTES]


def test_segments_are_cut_out_of_the_stream(
    bench: Bench, generation: Generation, places: Places
) -> None:
    """Pieces end anywhere; the database is the one that was saved."""
    database = places.home / "agent.db"

    found = rebuild(pieces(b"".join(bench.chain)), generation, places, database)

    assert 3 == len(bench.chain)
    assert bench.map.fingerprint == found.fingerprint
    assert masked(oracle(bench.database)) == masked(database.read_bytes())


@pytest.mark.parametrize(
    "spoil",
    [
        pytest.param(lambda data: data[:-1], id="a byte short"),
        pytest.param(lambda data: data + b"x", id="a byte more"),
        pytest.param(lambda data: b"", id="nothing"),
        pytest.param(lambda data: data[:5000] + b"x" + data[5001:], id="another byte"),
    ],
)
def test_other_bytes_become_nothing(
    bench: Bench,
    generation: Generation,
    places: Places,
    spoil: Callable[[bytes], bytes],
) -> None:
    """They are refused as unsound, and neither a database nor half of one is left."""
    database = places.home / "agent.db"

    with pytest.raises(ServiceError) as caught:
        rebuild(pieces(spoil(b"".join(bench.chain))), generation, places, database)

    unsound = {
        Reason.SNAPSHOT_CORRUPT,
        Reason.DIGEST_MISMATCH,
        Reason.SEGMENT_MALFORMED,
    }
    assert caught.value.reason in unsound
    assert [] == [*places.home.iterdir(), *places.scratch.iterdir()]


def test_a_segment_must_be_the_one_of_the_record(
    bench: Bench, generation: Generation, places: Places
) -> None:
    """Sound bytes of a right fingerprint are still not the ones that were stored."""
    *earlier, last = generation.segments
    other = replace(last, blake3=bytes(32))
    named = replace(generation, segments=(*earlier, other))

    with pytest.raises(ServiceError, match="not the one that the record names"):
        rebuild(pieces(b"".join(bench.chain)), named, places, places.home / "agent.db")


def test_what_cannot_be_placed_takes_no_room(
    bench: Bench, generation: Generation, places: Places
) -> None:
    """A link in its place is refused; what was built for it goes."""
    database = places.home / "agent.db"
    database.symlink_to(places.home / "elsewhere")

    with pytest.raises(ServiceError, match="is a link"):
        rebuild(pieces(b"".join(bench.chain)), generation, places, database)

    assert [] == list(places.scratch.iterdir())
