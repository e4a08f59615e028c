"""docs/http.md: every route with who may call it, every header, every limit."""

from __future__ import annotations

import re

import pytest

from services.gateway import (
    agent_handlers,
    app,
    callback_handlers,
    problems,
    snapshot_handlers,
)
from services.gateway import town_handlers as towns
from services.gateway.exchange import JSON_BYTES_MAX, STALL_S
from services.gateway.listener import HEADER_BYTES_MAX
from services.gateway.route import Route
from services.gateway.routes import ROUTES
from services.gateway.spec_wire import RESUMES, ROLES, TEXTS
from tests.support.documents import ROOT

pytestmark = pytest.mark.docs

TEXT = (ROOT / "docs" / "http.md").read_text("utf-8")
SERVED = TEXT.partition("## Row by row")[0]
ROW = re.compile(r"^\| `([A-Z]+) (/\S*)` \| ([^|]+) \|", re.MULTILINE)


def callers(route: Route) -> str:
    return ", ".join(sorted(route.access.kinds)) or "anyone"


def test_every_route_is_described_in_order():
    """With those that the table lets in."""
    written = [(method, path, who.strip()) for method, path, who in ROW.findall(SERVED)]

    assert [(r.method, r.pattern, callers(r)) for r in ROUTES] == written


@pytest.mark.parametrize(
    "header",
    [
        agent_handlers.IDEMPOTENCY_HEADER,
        app.REQUEST_ID_HEADER,
        callback_handlers.AGENT_HEADER,
        callback_handlers.DROPPED_HEADER,
        problems.REASON_HEADER,
        snapshot_handlers.EPOCH_HEADER,
        snapshot_handlers.GENERATION_HEADER,
        towns.INSTANCE_HEADER,
    ],
)
def test_every_header_of_ours_is_explained(header: str):
    """Nobody should have to read the code for it."""
    assert f"`{header}`" in TEXT


@pytest.mark.parametrize("name", [*TEXTS, *ROLES, *RESUMES])
def test_every_field_of_a_start_request_is_named(name: str):
    """As JSON spells it."""
    assert re.search(rf"\b{name}\b", SERVED)


def test_limits_are_as_written():
    """Numbers in the text are those of the code."""
    assert f"JSON bodies end at {JSON_BYTES_MAX // 2**20} MiB" in TEXT
    assert f"Headers end at {HEADER_BYTES_MAX // 2**10} KiB" in TEXT
    assert f"for {STALL_S:g} s is given up" in TEXT
    assert f"memory allows, {app.TRANSFERS_MAX};" in TEXT
