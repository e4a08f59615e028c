"""docs/http.md says what became of each route of the original: a walk along it."""

from __future__ import annotations

import re
from typing import Final

import pytest

from services.chassis.auth import Kind
from services.gateway.routes import ROUTES, find
from tests.contract.gateway.fake_plane import FakePlane
from tests.support.documents import ROOT
from tests.support.tokens import AGENT, RIG, TOWN

TEXT: Final = (ROOT / "docs" / "http.md").read_text("utf-8")
ROW: Final = re.compile(r"^\| `([A-Z]+) (/\S*)` \| (\w+) \| (.+) \|$", re.MULTILINE)
ROWS: Final = ROW.findall(TEXT.partition("## Row by row")[2])
SERVED: Final = ("served", "better", "ours")
UNSERVED: Final = ("later", "not")


def rows(*verdicts: str) -> list[tuple[str, str]]:
    return [(method, path) for method, path, what, _ in ROWS if what in verdicts]


def reached(path: str) -> str:
    ids = {"town": TOWN, "rig": RIG, "agent": AGENT, "user": "u", "org": "o"}
    return path.format_map(ids)


def test_every_row_is_read_and_says_one_of_five_words():
    """No row is passed over because it is written otherwise."""
    written = TEXT.partition("## Row by row")[2].count("\n| `")

    assert written == len(ROWS) > 100
    assert {*SERVED, *UNSERVED} == {what for _, _, what, _ in ROWS}
    assert len(ROWS) == len({(method, path) for method, path, *_ in ROWS})


def test_every_route_of_a_town_has_its_row():
    """What comes to be served is said to be."""
    routes = {(one.method, one.pattern) for one in ROUTES if "{town}" in one.pattern}

    assert routes == set(rows(*SERVED))


@pytest.mark.parametrize(("method", "path"), rows(*SERVED))
def test_a_row_that_is_served_answers(plane: FakePlane, method: str, path: str):
    """With a credential that may call it, and without one."""
    plane.registry.add(AGENT)
    plane.supervisor.run(AGENT)
    plane.snapshots.keep(AGENT, b"session")
    found = find(method, path.encode())
    assert found is not None
    kind = Kind.CONTAINER if Kind.CONTAINER in found[0].access.kinds else Kind.USER
    token = plane.tokens.of_kind(kind)

    answers = [plane.request(method, reached(path), each) for each in ("", token)]

    assert 401 == answers[0].status_code
    assert answers[1].status_code not in (401, 403, 404, 405)
    assert answers[1].status_code < 500


@pytest.mark.parametrize(("method", "path"), rows(*UNSERVED))
def test_a_row_that_is_not_served_is_404(plane: FakePlane, method: str, path: str):
    """Whoever asks."""
    tokens = (plane.tokens.container(), plane.tokens.agent(), plane.tokens.user())

    answers = [plane.request(method, reached(path), token) for token in tokens]

    assert [404] * 3 == [answer.status_code for answer in answers]
    assert "Not found" == answers[0].json()["error"]
