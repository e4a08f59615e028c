"""What every store promises of tokens that were taken back."""

from __future__ import annotations

from datetime import timedelta

import pytest

from services.chassis.errors import Reason, ServiceError
from services.registry import revocations
from services.registry.revocations import Revocation, Revoked
from services.registry.store import RegistryStore
from tests.support.registry_samples import MAYOR, POLECAT
from tests.support.tokens import FOREIGN_TOWN, TOWN

HOUR = timedelta(hours=1)


async def known(store: RegistryStore, town: str = TOWN) -> Revoked:
    return (await store.revocations()).towns.get(town, Revoked())


async def test_lists_grow(store):
    """Ids and runs of each town, whatever was revoked before."""
    await store.revoke(TOWN, Revocation(("a",)))
    await store.revoke(TOWN, Revocation(("b",), ("ada/run-1",)))
    await store.revoke(FOREIGN_TOWN, Revocation(("c",)))

    assert Revoked(frozenset("ab"), frozenset({"ada/run-1"})) == await known(store)
    assert Revoked(frozenset("c")) == await known(store, FOREIGN_TOWN)


async def test_only_what_changed_is_told(store):
    """To those who say what they know; twice the same is no change worth a word, but
    may be told."""
    await store.revoke(TOWN, Revocation(("a",)))
    first = await store.revocations()
    await store.revoke(FOREIGN_TOWN, Revocation(("b",)))

    news = await store.revocations(first.revision)

    assert {FOREIGN_TOWN} == set(news.towns)
    assert not news.whole
    assert {} == (await store.revocations(news.revision)).towns


async def test_who_knows_more_than_there_is_is_told_all(store):
    """It followed another store, or this one before it lost its memory."""
    await store.revoke(TOWN, Revocation(("a",)))

    news = await store.revocations(1000)

    assert news.whole
    assert {TOWN} == set(news.towns)


async def test_all_of_a_town(store):
    """Everything issued until now, later again as well; nobody else's."""
    before = await store.revoke(TOWN, Revocation())
    again = await store.revoke(TOWN, Revocation())

    assert 0 < before <= again
    assert again == (await known(store)).generation
    assert 0 == (await known(store, FOREIGN_TOWN)).generation
    assert again == await store.revoke(TOWN, Revocation(("a",)))


async def test_entries_are_forgotten_when_their_tokens_have_expired(store, time):
    """One by one, and then the list; those who follow are told of it."""
    await store.revoke(TOWN, Revocation(("a",), ("ada/r",), kept_for=HOUR))
    await store.revoke(TOWN, Revocation(("b",), kept_for=2 * HOUR))
    await store.revoke(TOWN, Revocation(kept_for=3 * HOUR))
    generation = (await known(store)).generation
    heard = await store.revocations()

    await time.passes(3601)
    assert Revoked(frozenset("b"), frozenset(), generation) == await known(store)
    assert {TOWN} == set((await store.revocations(heard.revision)).towns)
    await time.passes(3600)
    assert generation == (await known(store)).generation
    await time.passes(3600)
    heard = await store.revocations(heard.revision)
    assert {TOWN: Revoked()} == dict(heard.towns)


async def test_the_longer_memory_counts(store, time):
    """Revoked again for a shorter time, what was is remembered for the longer one."""
    for kept_for in (2 * HOUR, HOUR):
        await store.revoke(TOWN, Revocation(("a",), kept_for=kept_for))
        await store.revoke(TOWN, Revocation(kept_for=kept_for))

    await time.passes(3601)

    found = await known(store)
    assert frozenset("a") == found.token_ids
    assert 0 < found.generation


@pytest.fixture
def short_lists(monkeypatch):
    for module in (revocations, *_stores()):
        monkeypatch.setattr(module, "ENTRIES_MAX", 1)


async def test_a_list_ends(store, short_lists, time):
    """Beyond that nothing is added and nothing lost; what is forgotten makes room."""
    await store.revoke(TOWN, Revocation(("a",), kept_for=HOUR))

    with pytest.raises(ServiceError) as refused:
        await store.revoke(TOWN, Revocation(("b",)))

    assert Reason.STORAGE_FULL is refused.value.reason
    assert frozenset("a") == (await known(store)).token_ids
    assert 0 < await store.revoke(TOWN, Revocation())
    await time.passes(3601)
    await store.revoke(TOWN, Revocation(("b",)))
    assert frozenset("b") == (await known(store)).token_ids


async def test_runs_take_no_room_from_ids(store, short_lists):
    """Containers revoke runs: however many, operators revoke tokens all the same."""
    await store.revoke(TOWN, Revocation((), ("ada/r",), kept_for=HOUR))

    with pytest.raises(ServiceError) as refused:
        await store.revoke(TOWN, Revocation((), ("ada/s",)))
    assert Reason.STORAGE_FULL is refused.value.reason
    await store.revoke(TOWN, Revocation(("a",)))

    assert Revoked(frozenset("a"), frozenset({"ada/r"})) == await known(store)


async def test_a_run_begins_however_full_the_list_is(store, short_lists):
    """Else an agent would have no token; and what is known is revoked again."""
    await store.revoke(TOWN, Revocation((), ("ada/r",), kept_for=HOUR))
    await store.begin_run(MAYOR, 1, "run-1", HOUR)
    await store.begin_run(MAYOR, 1, "run-2", HOUR)
    await store.revoke(TOWN, Revocation(("a",), ("ada/r",)))

    runs = {"ada/r", f"{MAYOR.agent}/run-1"}
    assert Revoked(frozenset("a"), frozenset(runs)) == await known(store)


def _stores():
    from services.registry import redis_revocations
    from tests.fakes import registry_revocations

    return redis_revocations, registry_revocations


class TestRuns:
    async def test_a_run_that_begins_is_no_news(self, store):
        """Else all would be told of each, where thousands start at once."""
        await store.revoke(FOREIGN_TOWN, Revocation(("a",)))
        heard = await store.revocations()

        for _ in ("the first token", "a fresh one"):
            await store.begin_run(MAYOR, 1, "run-1", HOUR)

        assert {} == (await store.revocations(heard.revision)).towns

    async def test_a_run_that_is_replaced_is_revoked(self, store):
        """Once, and for as long as tokens of it live."""
        await store.begin_run(MAYOR, 1, "run-1", HOUR)
        assert Revoked() == await known(store)

        await store.begin_run(MAYOR, 1, "run-2", HOUR)

        assert {f"{MAYOR.agent}/run-1"} == (await known(store)).runs

    async def test_the_same_run_again_is_the_same(self, store, time):
        """Its tokens live as long as the last of them."""
        await store.begin_run(MAYOR, 1, "run-1", 2 * HOUR)
        await store.begin_run(MAYOR, 1, "run-1", HOUR)
        await time.passes(3601)
        await store.begin_run(MAYOR, 2, "run-2", HOUR)

        assert {f"{MAYOR.agent}/run-1"} == (await known(store)).runs

    async def test_an_earlier_epoch_begins_nothing(self, store):
        """The later run goes on."""
        await store.begin_run(MAYOR, 2, "run-2", HOUR)

        with pytest.raises(ServiceError) as refused:
            await store.begin_run(MAYOR, 1, "run-1", HOUR)

        assert Reason.LEASE_FENCED is refused.value.reason
        assert Revoked() == await known(store)

    async def test_runs_are_forgotten_with_their_tokens(self, store, time):
        """Then nothing is left to revoke, nor to remember."""
        await store.begin_run(MAYOR, 2, "run-1", HOUR)
        await store.begin_run(POLECAT, 1, "run-1", 2 * HOUR)
        await time.passes(3601)

        await store.begin_run(MAYOR, 1, "run-2", HOUR)

        assert Revoked() == await known(store)
