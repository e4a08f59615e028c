"""A bit that flips in a stored segment, in either store."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from obstore.store import S3Store

from services.snapshots import records
from tests.faults.snapshots.mortal import MortalSnapshots
from tests.faults.supervisor.fleet import PROGRAM, Fleet
from tests.support.lives import Lives
from tests.support.redis_server import ValkeyProcess
from tests.support.s3_server import S3Process
from tests.support.tokens import TOWN, Tokens
from tests.support.waiting import wait_until_sync

pytestmark = [pytest.mark.faults, pytest.mark.redis, pytest.mark.timeout(120)]

# Takes a segment's key, and changes one bit of what is stored there.
Flip = Callable[[str], None]


@pytest.fixture
def service(
    tmp_path: Path, valkey: ValkeyProcess, lives: Lives
) -> Iterator[MortalSnapshots]:
    service = MortalSnapshots(tmp_path, valkey.url, Tokens(tmp_path), lives)
    service.environ["TOWNKEEPER_SCRUB_DAYS"] = "7"
    yield service
    service.kill()


@pytest.fixture(params=["files", pytest.param("s3", marks=pytest.mark.s3)])
def flip(request: pytest.FixtureRequest, service: MortalSnapshots) -> Flip:
    """In the store that the service is told to use."""
    if request.param == "files":
        return lambda key: _flip_file(service.blobs / key)
    s3: S3Process = request.getfixturevalue("s3")
    url = s3.new_url()
    service.environ |= {
        **s3.environ,
        "TOWNKEEPER_BLOB_URL": url,
        "TOWNKEEPER_CACHE_DIR": str(service.blobs / "cache"),
    }
    return lambda key: _flip_object(s3, url, key)


def _flip_file(path: Path) -> None:
    path.write_bytes(_flipped(path.read_bytes()))


def _flip_object(s3: S3Process, url: str, key: str) -> None:
    bucket, _, prefix = url.removeprefix("s3://").partition("/")
    store = S3Store(
        bucket,
        prefix=prefix,
        endpoint=s3.endpoint,
        access_key_id=s3.environ["AWS_ACCESS_KEY_ID"],
        secret_access_key=s3.environ["AWS_SECRET_ACCESS_KEY"],
        client_options={"allow_http": True, "timeout": timedelta(seconds=10)},
    )
    store.put(key, _flipped(bytes(store.get(key).bytes())))


def _flipped(data: bytes) -> bytes:
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]


def test_the_next_save_heals(
    service: MortalSnapshots, flip: Flip, tmp_path: Path, valkey: ValkeyProcess
) -> None:
    """The scrub finds it, the next save of the agent is a base, and the session comes
    back whole on an empty disk."""
    service.start()
    with Lives(PROGRAM) as supervisors:
        token = service.tokens.container()
        fleet = Fleet(tmp_path, supervisors, service, token)
        fleet.new_agent()
        fleet.live("here", ["hydrate", "write a", "save", "write b", "save"])
        assert {1: 1, 2: 2} == fleet.chains()
        [base, _] = fleet.digests(2)
        service.kill()
        flip(records.segment_key(TOWN, base))
        # A pass that began long ago: all of it is due.
        valkey.command("SET", f"tk:snapshots:{{{TOWN}}}:scrub", "0 0")
        service.start()
        wait_until_sync(
            lambda: '"segment.rotten"' in service.log.read_text(), limit_s=20
        )

        fleet.live("here", ["hydrate", "write c", "save", "write d", "save"])

        assert {1: 1, 2: 2, 3: 1, 4: 2} == fleet.chains()
        found = fleet.live("elsewhere", ["hydrate", "report"])
        assert [(4, ["a", "b", "c", "d"])] == found.reports
