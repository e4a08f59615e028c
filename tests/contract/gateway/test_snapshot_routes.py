"""An agent's snapshot as a file: headers, conditions, ranges, fences."""

from __future__ import annotations

from typing import Any

import pytest

from services.chassis.errors import Reason, ServiceError
from tests.contract.gateway.fake_plane import FakePlane
from tests.support.tokens import RIG, TOWN

SNAPSHOT = f"/api/towns/{TOWN}/rigs/{RIG}/agents/one/db-snapshot"
BYTES = bytes(range(256)) * 40
HOLDER = "towns/town-1/instances/slot-9"


def call(plane: FakePlane, method: str, query: str = "", **options: Any) -> Any:
    token = options.pop("token", "") or plane.tokens.container()
    headers = options.pop("headers", {})
    return plane.request(method, SNAPSHOT + query, token, headers=headers, **options)


class TestRead:
    def test_absent_in_the_originals_words(self, plane: FakePlane):
        """404, and exactly this body."""
        response = call(plane, "GET")

        assert 404 == response.status_code
        assert b'{"success":false,"error":"Snapshot not found"}' == response.content

    def test_sends_the_bytes(self, plane: FakePlane):
        """As they are, with what a client needs to ask again."""
        plane.snapshots.keep("one", BYTES)
        plane.snapshots.fence("one", 4, HOLDER)

        response = call(plane, "GET")

        assert (200, BYTES) == (response.status_code, response.content)
        assert {
            "content-type": "application/octet-stream",
            "content-length": str(len(BYTES)),
            "etag": '"1"',
            "accept-ranges": "bytes",
            "x-townkeeper-generation": "1",
            "x-townkeeper-epoch": "4",
        }.items() <= dict(response.headers).items()

    def test_head_sends_all_but_the_bytes(self, plane: FakePlane):
        """To learn the generation before writing."""
        plane.snapshots.keep("one", BYTES)

        response = call(plane, "HEAD")

        assert (200, b"") == (response.status_code, response.content)
        assert str(len(BYTES)) == response.headers["content-length"]
        assert '"1"' == response.headers["etag"]

    def test_an_older_generation_by_number(self, plane: FakePlane):
        """While it is kept."""
        plane.snapshots.keep("one", b"first")
        plane.snapshots.keep("one", b"second")

        old, new = call(plane, "GET", "?generation=1"), call(plane, "GET")

        assert (b"first", b"second") == (old.content, new.content)

    @pytest.mark.parametrize(
        ("query", "status"),
        [
            ("?generation=3", 404),
            ("?generation=0", 400),
            ("?generation=-1", 400),
            ("?generation=x", 400),
            ("?generation=", 400),
            ("?generation=1.0", 400),
            ("?generation=99999999999999999999", 400),
        ],
    )
    def test_a_generation_that_is_none(self, plane: FakePlane, query: str, status: int):
        """Absent is 404, unreadable 400."""
        plane.snapshots.keep("one", b"first")

        assert status == call(plane, "GET", query).status_code

    def test_an_empty_snapshot_is_not_an_absent_one(self, plane: FakePlane):
        """200 with no bytes."""
        plane.snapshots.keep("one", b"")

        response = call(plane, "GET")

        assert (200, b"", "0") == (
            response.status_code,
            response.content,
            response.headers["content-length"],
        )

    @pytest.mark.parametrize(
        ("sent", "status", "content", "content_range"),
        [
            ("bytes=0-0", 206, b"0", "bytes 0-0/10"),
            ("bytes=2-4", 206, b"234", "bytes 2-4/10"),
            ("bytes=7-", 206, b"789", "bytes 7-9/10"),
            ("bytes=7-99", 206, b"789", "bytes 7-9/10"),
            ("bytes=-3", 206, b"789", "bytes 7-9/10"),
            ("bytes=-99", 206, b"0123456789", "bytes 0-9/10"),
            ("bytes=10-", 416, None, "bytes */10"),
            ("bytes=-0", 416, None, "bytes */10"),
            ("bytes=4-2", 200, b"0123456789", None),
            ("bytes=0-1,3-4", 200, b"0123456789", None),
            ("bytes=x", 200, b"0123456789", None),
            ("pages=0-1", 200, b"0123456789", None),
        ],
    )
    def test_ranges(
        self,
        plane: FakePlane,
        sent: str,
        status: int,
        content: bytes | None,
        content_range: str | None,
    ):
        """One range is served; several, or malformed ones, count as none."""
        plane.snapshots.keep("one", b"0123456789")

        response = call(plane, "GET", headers={"range": sent})

        assert status == response.status_code
        assert content_range == response.headers.get("content-range")
        assert content in (None, response.content)

    @pytest.mark.parametrize(("tag", "status"), [('"1"', 206), ('"2"', 200)])
    def test_a_range_of_another_generation_is_sent_whole(
        self, plane: FakePlane, tag: str, status: int
    ):
        """`If-Range`: what a client resumes must still be what it began."""
        plane.snapshots.keep("one", b"0123456789")

        headers = {"range": "bytes=5-", "if-range": tag}

        assert status == call(plane, "GET", headers=headers).status_code

    @pytest.mark.parametrize(
        ("header", "value", "status"),
        [
            ("if-none-match", '"1"', 304),
            ("if-none-match", 'W/"1"', 304),
            ("if-none-match", '"9", "1"', 304),
            ("if-none-match", "*", 304),
            ("if-none-match", '"2"', 200),
            ("if-none-match", '"elsewhere"', 200),
            ("if-match", '"1"', 200),
            ("if-match", "*", 200),
            ("if-match", 'W/"1"', 412),
            ("if-match", '"2"', 412),
            ("if-match", "1", 400),
            ("if-none-match", '"1', 400),
        ],
    )
    def test_conditions(self, plane: FakePlane, header: str, value: str, status: int):
        """As RFC 9110 has them; the tag is the generation."""
        plane.snapshots.keep("one", BYTES)

        response = call(plane, "GET", headers={header: value})

        assert status == response.status_code
        assert (b"" == response.content) == (status == 304)

    def test_an_operator_reads_it_too(self, plane: FakePlane):
        """For export."""
        plane.snapshots.keep("one", BYTES)

        assert BYTES == call(plane, "GET", token=plane.tokens.operator()).content


class TestWrite:
    def test_makes_the_next_generation(self, plane: FakePlane):
        """The original's body, our headers."""
        plane.snapshots.keep("one", b"first")

        response = call(plane, "POST", content=BYTES)

        assert (200, b'{"success":true}') == (response.status_code, response.content)
        assert ('"2"', "2") == (
            response.headers["etag"],
            response.headers["x-townkeeper-generation"],
        )
        assert BYTES == plane.snapshots.bytes_of("one")

    def test_an_empty_body_is_stored_and_read_back_empty(self, plane: FakePlane):
        """The original took any bytes, none too."""
        written = call(plane, "POST", content=b"")
        read = call(plane, "GET")

        assert 200 == written.status_code
        assert (200, b"") == (read.status_code, read.content)

    @pytest.mark.parametrize(
        ("header", "value", "status"),
        [
            ("if-match", '"1"', 200),
            ("if-match", "*", 200),
            ("if-match", '"7", "1"', 200),
            ("if-match", '"2"', 412),
            ("if-match", '"7", "8"', 412),
            ("if-match", 'W/"1"', 412),
            ("if-match", '"elsewhere"', 412),
            ("if-none-match", "*", 412),
            ("if-none-match", '"1"', 412),
            ("if-none-match", '"2"', 200),
            ("if-match", "one", 400),
        ],
    )
    def test_conditions(self, plane: FakePlane, header: str, value: str, status: int):
        """What does not hold is 412, and the snapshot stays."""
        plane.snapshots.keep("one", b"first")

        response = call(plane, "POST", content=b"second", headers={header: value})

        assert status == response.status_code
        kept = plane.snapshots.bytes_of("one")
        assert (b"second" if status == 200 else b"first") == kept

    @pytest.mark.parametrize(
        ("header", "value", "status"),
        [
            ("if-match", "*", 412),
            ("if-match", '"1"', 412),
            ("if-none-match", "*", 200),
            ("if-none-match", '"1"', 200),
        ],
    )
    def test_conditions_where_there_is_none(
        self, plane: FakePlane, header: str, value: str, status: int
    ):
        """`If-None-Match: *` creates, and only creates."""
        response = call(plane, "POST", content=b"first", headers={header: value})

        assert status == response.status_code

    def test_a_failed_condition_tells_the_head(self, plane: FakePlane):
        """Refusals name the winner."""
        plane.snapshots.keep("one", b"first")

        refused = call(plane, "POST", content=b"x", headers={"if-match": '"7"'})

        assert 1 == refused.json()["generation"]

    def test_without_the_epoch_a_fenced_agent_refuses(self, plane: FakePlane):
        """409, naming the holder."""
        plane.snapshots.fence("one", 3, HOLDER)

        refused = call(plane, "POST", content=BYTES)

        assert 409 == refused.status_code
        assert (HOLDER, 3) == (refused.json()["holder"], refused.json()["epoch"])
        assert HOLDER in refused.json()["error"]
        assert plane.snapshots.bytes_of("one") is None

    @pytest.mark.parametrize(
        ("epoch", "status"),
        [("3", 200), ("2", 409), ("4", 409), ("0", 400), ("x", 400), ("", 400)],
    )
    def test_the_highest_epoch_writes(self, plane: FakePlane, epoch: str, status: int):
        """Any other is stale, or a guess."""
        plane.snapshots.fence("one", 3, HOLDER)

        response = call(
            plane, "POST", content=BYTES, headers={"x-townkeeper-epoch": epoch}
        )

        assert status == response.status_code

    @pytest.mark.parametrize(
        ("reason", "status"),
        [
            (Reason.SNAPSHOT_TOO_LARGE, 413),
            (Reason.STORAGE_FULL, 507),
            (Reason.STORE_UNAVAILABLE, 503),
            (Reason.NOT_DURABLE, 503),
            (Reason.GENERATION_MISMATCH, 409),
        ],
    )
    def test_what_the_service_refuses(
        self, plane: FakePlane, reason: Reason, status: int
    ):
        """With its reason, in the envelope, though the body was still coming."""
        plane.snapshots.fail = ServiceError(reason, "cannot take it")

        refused = call(plane, "POST", content=b"x" * 5_000_000)

        assert status == refused.status_code
        assert {"success": False, "error": "cannot take it"} == refused.json()
        assert reason.name == refused.headers["x-townkeeper-reason"]


class TestDelete:
    def test_deletes_all(self, plane: FakePlane):
        """As the original did."""
        plane.snapshots.keep("one", b"first")
        plane.snapshots.keep("one", b"second")

        response = call(plane, "DELETE")

        assert (200, b'{"success":true}') == (response.status_code, response.content)
        assert 404 == call(plane, "GET").status_code

    def test_absent_is_done(self, plane: FakePlane):
        """So that it can be repeated."""
        assert 200 == call(plane, "DELETE").status_code

    def test_deletes_one_generation(self, plane: FakePlane):
        """The one that is named; absent, it is not found."""
        plane.snapshots.keep("one", b"first")
        plane.snapshots.keep("one", b"second")

        assert 200 == call(plane, "DELETE", "?generation=1").status_code
        assert 404 == call(plane, "DELETE", "?generation=1").status_code
        assert b"second" == plane.snapshots.bytes_of("one")

    @pytest.mark.parametrize(
        ("headers", "status"),
        [
            ({}, 409),
            ({"x-townkeeper-epoch": "2"}, 409),
            ({"x-townkeeper-epoch": "3"}, 200),
            ({"x-townkeeper-epoch": "3", "if-match": '"9"'}, 412),
            ({"x-townkeeper-epoch": "3", "if-match": '"1"'}, 200),
        ],
    )
    def test_fences_hold_for_it_too(
        self, plane: FakePlane, headers: dict[str, str], status: int
    ):
        """Nobody deletes under a holder's hands."""
        plane.snapshots.keep("one", b"first")
        plane.snapshots.fence("one", 3, HOLDER)

        response = call(plane, "DELETE", headers=headers)

        assert status == response.status_code
        assert (status == 200) == (plane.snapshots.bytes_of("one") is None)


class TestGenerations:
    def test_lists_newest_first_in_pages(self, plane: FakePlane):
        """With what tells them apart."""
        for content in (b"a", b"bb", b"ccc"):
            plane.snapshots.keep("one", content)

        first = call(plane, "GET", "/generations?pageSize=2").json()
        token = first["nextPageToken"]
        last = call(plane, "GET", f"/generations?pageSize=2&pageToken={token}").json()

        assert [(3, 3), (2, 2)] == [
            (one["generation"], one["sizeBytes"]) for one in first["data"]
        ]
        assert ([1], None) == (
            [one["generation"] for one in last["data"]],
            last["nextPageToken"],
        )
        assert {
            "etag": '"1"',
            "format": "opaque",
            "createdAt": "2026-01-02T03:04:05.678Z",
            "sessionId": "ses_1",
        }.items() <= last["data"][0].items()

    def test_of_none_is_empty(self, plane: FakePlane):
        """An agent needs no snapshot."""
        listed = call(plane, "GET", "/generations").json()

        assert {"success": True, "data": [], "nextPageToken": None} == listed

    def test_a_page_size_is_a_number(self, plane: FakePlane):
        """400 otherwise."""
        assert 400 == call(plane, "GET", "/generations?pageSize=many").status_code
