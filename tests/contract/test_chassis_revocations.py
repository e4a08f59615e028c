"""A service that follows the registry's lists: cut off, back again, never fooled."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from services.chassis import revocation_client
from services.chassis.auth import Kind, Verifier
from services.chassis.clock import SystemClock
from services.chassis.errors import ServiceError
from services.chassis.revocation_client import ServiceTokenSettings, following
from services.chassis.revocations import RevocationList
from services.registry.revocations import Revocation, Revoked
from tests.support.registry_server import Registry, serving
from tests.support.tokens import FOREIGN_TOWN, TOWN
from tests.support.waiting import wait_until


@pytest.fixture
async def registry(tmp_path: Path) -> AsyncIterator[Registry]:
    async with serving(tmp_path, SystemClock()) as made:
        yield made


@pytest.fixture
def settings(registry: Registry, tmp_path: Path) -> ServiceTokenSettings:
    file = tmp_path / "service.token"
    file.write_text(registry.tokens.service())
    return ServiceTokenSettings(token_file=file)


async def fails(verifier: Verifier, token: str) -> str:
    try:
        await verifier.verify(token)
    except ServiceError as error:
        return error.reason.name
    return ""


async def test_what_is_revoked_is_refused_elsewhere(
    registry: Registry, settings: ServiceTokenSettings
) -> None:
    """The lists of all towns, at the start and as they change."""
    known = settings.revocations()
    verifier = registry.tokens.verifier(revocations=known)
    token, other = registry.tokens.container(), registry.tokens.container(FOREIGN_TOWN)
    ids = [
        (await registry.tokens.verifier().verify(t)).token_id for t in (token, other)
    ]
    await registry.store.revoke(TOWN, Revocation((ids[0],)))
    await registry.feed.refresh()

    assert "KEYS_UNAVAILABLE" == await fails(verifier, token)
    async with following(settings, registry.server.address, known):
        await wait_until(lambda: not known.complaint())
        assert "TOKEN_REVOKED" == await fails(verifier, token)
        assert "" == await fails(verifier, other)

        await registry.store.revoke(FOREIGN_TOWN, Revocation((ids[1],)))
        await registry.feed.refresh()
        await wait_until(lambda: fails(verifier, other))


async def test_cut_off_it_keeps_what_it_knows(
    registry: Registry,
    settings: ServiceTokenSettings,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """And catches up when the registry is back, entries that are gone included."""
    monkeypatch.setattr(revocation_client, "STALE_S", 0.2)
    known = settings.revocations()
    await registry.store.revoke(TOWN, Revocation(("a",)))
    await registry.feed.refresh()
    async with following(settings, registry.server.address, known):
        await wait_until(lambda: known._towns.get(TOWN) == Revoked(frozenset("a")))
        # The watch that is on falls silent as well: nobody asks the store here.
        watches: list[str | None] = []

        async def silence(town: str | None) -> AsyncIterator[None]:
            watches.append(town)
            await asyncio.Event().wait()
            yield None

        monkeypatch.setattr(registry.feed, "watch", silence)
        await wait_until(lambda: watches)
        before = known._heard_at
        await wait_until(lambda: len(watches) > 2)
        assert before == known._heard_at
        assert Revoked(frozenset("a")) == known._towns[TOWN]

        monkeypatch.undo()
        registry.feed._towns.clear()
        await wait_until(lambda: TOWN not in known._towns)


async def test_without_a_token_nobody_is_followed() -> None:
    """Then nothing is known to be revoked, and nothing is complained of."""
    settings = ServiceTokenSettings(token_file=None)
    known = settings.revocations()

    async with following(settings, "127.0.0.1:9", known):
        assert "" == known.complaint()


async def test_a_supervisors_credential_follows_its_own_town(
    registry: Registry,
) -> None:
    """It needs no other one."""
    known = RevocationList(followed=True)
    channel = registry.server.channel(registry.tokens.of_kind(Kind.CONTAINER))
    task = asyncio.create_task(
        revocation_client.follow(channel, f"towns/{TOWN}", known)
    )
    await registry.store.revoke(TOWN, Revocation(("a",)))
    await registry.store.revoke(FOREIGN_TOWN, Revocation(("b",)))
    await registry.store.revoke("*", Revocation(("c",)))
    await registry.feed.refresh()

    await wait_until(lambda: {TOWN, "*"} == known._towns.keys())
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
