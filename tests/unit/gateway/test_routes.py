"""The table: exact, unambiguous, closed by default."""

from __future__ import annotations

import re
from itertools import combinations

import pytest

from services.chassis.auth import Kind
from services.gateway.route import Access, Body, Route, decode_ids
from services.gateway.routes import ROUTES, find


def path_of(route: Route, value: str = "x") -> bytes:
    return re.sub(r"\{\w+\}", value, route.pattern).encode()


@pytest.mark.parametrize("route", ROUTES, ids=lambda r: f"{r.method} {r.pattern}")
def test_each_row_is_found_by_its_path(route: Route):
    """And tells what it is for."""
    assert route is find(route.method, path_of(route))[0]  # type: ignore[index]
    assert route.summary.endswith(".")


@pytest.mark.parametrize("word", ["agents", "start", "db-snapshot", "health", "mayor"])
def test_no_two_rows_want_the_same_path(word: str):
    """Also where an id is called like a part of another path."""
    for one, other in combinations(ROUTES, 2):
        same = one.method == other.method
        segments = tuple(path_of(one, word).split(b"/"))
        assert not (same and other.match(segments)), (one.pattern, other.pattern)


def test_only_probes_and_documents_are_open():
    """Nothing about a town is."""
    opened = {route.pattern for route in ROUTES if route.access.open}

    assert not [pattern for pattern in opened if "{" in pattern or "/api" in pattern]


def test_head_is_get():
    """And nothing else."""
    assert find("HEAD", b"/health") == find("GET", b"/health")
    assert find("POST", b"/health") is None


def test_bytes_stream_in_and_out():
    """In these two; all other bodies are small."""
    streaming = [route.method for route in ROUTES if route.body is Body.BYTES]

    assert ["GET", "POST"] == streaming


@pytest.mark.parametrize(
    ("kind", "status"),
    [(Kind.CONTAINER, None), (Kind.AGENT, 403), (Kind.USER, 401)],
)
def test_strangers_and_the_known_are_told_apart(kind: Kind, status: int | None):
    """401 where another credential is needed, 403 where none would do."""
    access = Access(frozenset({Kind.CONTAINER}), known=frozenset({Kind.AGENT}))

    assert status == access.refusal(kind)


@pytest.mark.parametrize(
    ("sent", "decoded"),
    [(b"a-1", "a-1"), (b"a%2Fb", "a/b"), (b"%252F", "%2F"), (b"%ff", "\ufffd")],
)
def test_ids_are_decoded_once(sent: bytes, decoded: str):
    """After the path was cut, so that no id reaches into another segment."""
    assert {"id": decoded} == decode_ids({"id": sent})
