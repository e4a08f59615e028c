"""The matrix of routes notices each row that is missing or says something else."""

from __future__ import annotations

from dataclasses import replace

import pytest

from services.chassis.auth import Kind
from services.gateway import routes
from services.gateway.route import Access, Route
from tests.contract.gateway.fake_plane import FakePlane
from tests.contract.gateway.test_access import CREDENTIALS, EXPECTED
from tests.support.tokens import AGENT, RIG, TOWN

GUARDED = [
    pytest.param(route, id=f"{route.method} {route.pattern}")
    for route in routes.ROUTES
    if not route.access.open
]
# A credential that is good in all but its kind, of each kind that routes know.
OF_KIND = {
    Kind.CONTAINER: "container",
    Kind.AGENT: "agent own",
    Kind.USER: "user",
    Kind.OPERATOR: "operator",
}


def differing(plane: FakePlane, route: Route) -> set[str]:
    """The credentials that are answered otherwise than the matrix says."""
    path = route.pattern.format(town=TOWN, rig=RIG, agent=AGENT)
    found = set()
    for name, wanted in EXPECTED[route.method, route.pattern].items():
        token = CREDENTIALS[name](plane.tokens)
        status = plane.request(route.method, path, token).status_code
        if wanted != (status if status in (401, 403) else 0):
            found.add(name)
    return found


def with_access(route: Route, access: Access) -> tuple[Route, ...]:
    changed = replace(route, access=access)
    return tuple(changed if each is route else each for each in routes.ROUTES)


@pytest.mark.parametrize("route", GUARDED)
def test_no_row_can_go_unseen(
    plane: FakePlane, monkeypatch: pytest.MonkeyPatch, route: Route
):
    """Whoever has no good token hears 404 then, in place of 401."""
    rest = tuple(each for each in routes.ROUTES if each is not route)
    monkeypatch.setattr(routes, "ROUTES", rest)

    assert {"none", "garbage", "revoked"} <= differing(plane, route)


@pytest.mark.parametrize("route", GUARDED)
def test_no_row_can_open_unseen(
    plane: FakePlane, monkeypatch: pytest.MonkeyPatch, route: Route
):
    """Neither for one kind more nor for all."""
    for kind in OF_KIND.keys() - route.access.kinds:
        wider = replace(route.access, kinds=route.access.kinds | {kind})
        monkeypatch.setattr(routes, "ROUTES", with_access(route, wider))
        # Behind the route the service itself refuses what is not for that kind.
        told = EXPECTED[route.method, route.pattern][OF_KIND[kind]]
        assert OF_KIND[kind] in differing(plane, route) or told == 403
        monkeypatch.undo()
    monkeypatch.setattr(routes, "ROUTES", with_access(route, Access(frozenset())))

    assert differing(plane, route)


@pytest.mark.parametrize("route", GUARDED)
def test_no_row_can_close_unseen(
    plane: FakePlane, monkeypatch: pytest.MonkeyPatch, route: Route
):
    """A kind that it is for and that is left out is refused."""
    for kind in route.access.kinds:
        narrower = replace(route.access, kinds=route.access.kinds - {kind})
        if not narrower.kinds:
            narrower = Access(frozenset({Kind.SERVICE}), route.access.known)
        monkeypatch.setattr(routes, "ROUTES", with_access(route, narrower))
        assert OF_KIND[kind] in differing(plane, route)
        monkeypatch.undo()
