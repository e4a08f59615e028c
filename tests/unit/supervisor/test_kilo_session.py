"""Which session of a Kilo server is an agent's: the recorded one, or a new one."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import httpx
import pytest

from services.chassis.errors import Reason, ServiceError
from services.supervisor.kilo.adapter import _session
from services.supervisor.kilo.api import KiloApi
from services.supervisor.runtime import Launch, RunSpec

OURS, CHILD = "ses_ours", "ses_a_child_that_was_updated_later"


class Server:
    """Knows two sessions, and makes others."""

    def __init__(self) -> None:
        self.made = 0

    async def session_exists(self, session_id: str) -> bool:
        return session_id in (CHILD, OURS)

    async def create_session(self, title: str) -> str:
        self.made += 1
        return f"ses_new_{title}"


def launch(resume_session: str | None) -> Launch:
    anywhere = Path("/")
    return Launch(
        *("t", "r", "toast", "run-1", "mayor", RunSpec("kilo")),
        home=anywhere,
        workdir=anywhere,
        tmpdir=anywhere,
        resume_session=resume_session,
    )


@pytest.mark.parametrize(
    ("recorded", "expected", "made"),
    [
        pytest.param(OURS, (OURS, True), 0, id="the recorded one"),
        pytest.param("ses_lost", ("ses_new_toast", False), 1, id="one that is lost"),
        pytest.param(None, ("ses_new_toast", False), 1, id="none"),
    ],
)
async def test_the_recorded_session_is_the_one(
    recorded: str | None, expected: tuple[str, bool], made: int
) -> None:
    """Not the one that was updated last: that may be a sub-agent's."""
    server = Server()

    found = await _session(cast(KiloApi, server), launch(recorded))

    assert (expected, made) == (found, server.made)


@pytest.mark.parametrize("answer", [{}, {"id": ""}, {"id": None}])
async def test_a_session_without_an_id_is_none(answer: dict[str, object]) -> None:
    """The start fails with what was wrong, and nothing else is done about it."""
    asked: list[str] = []

    def answered(request: httpx.Request) -> httpx.Response:
        asked.append(f"{request.method} {request.url.path}")
        return httpx.Response(200, json=answer)

    api = KiloApi(1, "secret")
    await api.close()
    transport = httpx.MockTransport(answered)
    api._client = httpx.AsyncClient(base_url="http://kilo", transport=transport)

    with pytest.raises(ServiceError, match="without an id") as refused:
        await api.create_session("toast")
    await api.close()

    assert Reason.RUNTIME_UNREACHABLE is refused.value.reason
    assert ["POST /session"] == asked
