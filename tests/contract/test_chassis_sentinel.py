"""Redis behind Sentinels: real servers that die, hang, and come back as replicas."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from services.chassis.errors import Reason, ServiceError
from services.chassis.redis_pool import (
    Durability,
    Script,
    Store,
    connect,
)
from services.chassis.tasks import ended
from services.registry.redis_hints import RedisHints
from services.registry.redis_town import channel
from tests.support.clock import ManualClock
from tests.support.redis_sentinel import (
    SERVICE,
    ValkeySentinels,
    follow,
    is_primary,
)
from tests.support.redis_server import ValkeyProcess
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.redis, pytest.mark.timeout(90)]


@pytest.fixture
def sentinels(tmp_path: Path) -> Iterator[ValkeySentinels]:
    with ValkeySentinels(tmp_path) as sentinels:
        yield sentinels


@pytest.fixture
async def store(sentinels: ValkeySentinels) -> AsyncIterator[Store]:
    store = await connect(sentinels.url)
    yield store
    await store.aclose()


class Counter:
    """Counts in Redis, and how much of it was acknowledged."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.acknowledged = 0
        self._script = Script("return redis.call('INCRBY', KEYS[1], ARGV[1])")

    async def add(self, replicas: int = 1) -> None:
        await self._script.run(self.store, ["n"], [1], replicas=replicas)
        self.acknowledged += 1

    async def added(self) -> bool:
        """Whether one more was acknowledged; else it failed as what passes."""
        try:
            async with asyncio.timeout(2):
                await self.add()
        except TimeoutError:
            return False
        except ServiceError as error:
            if error.reason not in {Reason.STORE_UNAVAILABLE, Reason.NOT_DURABLE}:
                raise
            return False
        return True

    async def stored(self) -> int:
        return int(await self.store.get("n") or 0)


@pytest.fixture
def counter(store: Store) -> Counter:
    return Counter(store)


class TestFailOver:
    async def test_a_dead_primary_is_left_for_its_successor(
        self, sentinels: ValkeySentinels, store: Store, counter: Counter
    ) -> None:
        """The same client goes on; what was acknowledged is there, and the new primary
        is asked how it writes before it is believed."""
        durability = Durability(store, clock=ManualClock())
        await durability.check()
        await counter.add(replicas=2)
        for replica in sentinels.replicas:
            replica.command("CONFIG", "SET", "appendfsync", "no")

        await asyncio.to_thread(sentinels.kill_primary)

        await wait_until(counter.added, limit_s=20)
        assert await counter.stored() >= counter.acknowledged == 2
        with pytest.raises(ServiceError, match="appendfsync no"):
            await durability.check()

    async def test_one_that_hangs_finds_nobody_when_it_wakes(
        self, sentinels: ValkeySentinels, counter: Counter
    ) -> None:
        """Paused until another took over, it gets nothing more, and comes back as a
        replica that has all."""
        old = sentinels.primary
        await counter.add(replicas=2)

        os.kill(old.pid, signal.SIGSTOP)
        await asyncio.to_thread(sentinels.wait_replaced, old)
        await wait_until(counter.added, limit_s=20)
        os.kill(old.pid, signal.SIGCONT)

        async def demoted() -> bool:
            await counter.added()
            return not is_primary(old)

        await wait_until(demoted, limit_s=30)
        await asyncio.to_thread(sentinels.wait_whole)
        stored = await counter.stored()
        assert stored >= counter.acknowledged > 2
        await wait_until(lambda: str(stored).encode() in old.command("GET", "n"))

    async def test_one_that_is_back_before_the_end_is_not_believed(
        self, sentinels: ValkeySentinels
    ) -> None:
        """Until the last replica follows the new primary, the list of the Sentinel that
        leads has the old one in its place, which calls itself a primary again."""
        old = sentinels.primary
        old.kill()
        await wait_until(
            lambda: any(each.is_replacing for each in sentinels.sentinels), limit_s=20
        )
        leader = next(each for each in sentinels.sentinels if each.is_replacing)
        new = next(
            s for s in sentinels.servers if s.settings["port"] == leader.primary_port
        )
        [other] = [s for s in sentinels.servers if s not in (old, new)]
        os.kill(other.pid, signal.SIGSTOP)
        leader.command(*f"SENTINEL SET {SERVICE} down-after-milliseconds 60000".split())
        old.start()
        assert is_primary(old)

        store = await connect(sentinels.url_of("", only=leader))
        await store.set("k", "v")

        assert leader.is_replacing
        assert new.command("GET", "k").endswith(b"v\r\n")
        await store.aclose()

    async def test_hints_are_heard_from_the_new_primary(
        self, sentinels: ValkeySentinels, store: Store
    ) -> None:
        """A subscription moves as calls do."""
        hints = RedisHints(store)
        listening = asyncio.create_task(hints.listen())
        async with hints.watch("t") as watcher:
            await asyncio.to_thread(sentinels.kill_primary)

            async def heard() -> bool:
                sentinels.primary.command("PUBLISH", channel("t"), "a")
                with suppress(TimeoutError):
                    async with asyncio.timeout(0.5):
                        return await anext(watcher) == "a"
                return False

            await wait_until(heard, limit_s=20)
        await ended(listening)


class TestFormerPrimary:
    @pytest.fixture
    async def moved(
        self, sentinels: ValkeySentinels, counter: Counter
    ) -> tuple[ValkeyProcess, ValkeyProcess]:
        """The old one, to which the client is connected still, and the new one."""
        await counter.add(replicas=2)
        old, new, other = sentinels.servers
        sentinels.put(new)
        follow(other, new)
        await wait_until(lambda: follows(other), limit_s=20)
        return old, new

    async def test_what_it_refuses_goes_to_its_successor(
        self, store: Store, moved: tuple[ValkeyProcess, ValkeyProcess]
    ) -> None:
        """It answers READONLY, has done nothing, and the call does not fail."""
        old, new = moved
        follow(old, new)

        assert await store.set("k", "v")
        assert new.command("GET", "k").endswith(b"v\r\n")

    async def test_scripts_that_wait_for_replicas_go_there_too(
        self, counter: Counter, moved: tuple[ValkeyProcess, ValkeyProcess]
    ) -> None:
        """The same, once, though another command follows the script."""
        follow(*moved)

        await counter.add()

        assert await counter.stored() == 2

    async def test_one_that_lost_its_replicas_is_left(
        self, counter: Counter, moved: tuple[ValkeyProcess, ValkeyProcess]
    ) -> None:
        """A primary that nobody told of the fail-over acknowledges nothing: one call
        fails, and the next asks the Sentinels."""
        with pytest.raises(ServiceError) as refused:
            await counter.add()

        assert refused.value.reason is Reason.NOT_DURABLE
        assert is_primary(moved[0])
        await counter.add()
        assert await counter.stored() == 2

    async def test_a_replica_that_is_named_is_not_used(
        self, sentinels: ValkeySentinels
    ) -> None:
        """Sentinels can be behind: it is neither written to nor read from."""
        old, new, _ = sentinels.servers
        new.command("REPLICAOF", "NO", "ONE")
        follow(old, new)

        with pytest.raises(ServiceError, match="the Sentinels name a replica"):
            await connect(sentinels.url, patience_s=2.5)


class TestStart:
    async def test_says_what_is_wrong(self, sentinels: ValkeySentinels) -> None:
        """An unknown service, a login that the servers or the Sentinels refuse."""
        sentinels.primary.command("ACL", "SETUSER", "u", "on", ">right", "~*", "+@all")
        for sentinel in sentinels.sentinels:
            sentinel.command("ACL", "SETUSER", "s", "on", ">right", "+@all")
            sentinel.command("ACL", "SETUSER", "default", "off")
        login = "?sentinel_username=s&sentinel_password="
        wrong = {
            sentinels.url_of("u:right", "-2" + login + "right"): "no Sentinel knows",
            sentinels.url_of("u:wrong", login + "right"): "invalid username-password",
            sentinels.url_of("u:right", login + "wrong"): "want another login",
        }

        for url, says in wrong.items():
            with pytest.raises(ServiceError, match=says) as refused:
                await connect(url, patience_s=0.5)
            assert refused.value.reason is Reason.STORE_UNAVAILABLE
            assert "wrong" not in refused.value.message

        store = await connect(sentinels.url_of("u:right", login + "right"))
        assert await store.ping()
        await store.aclose()

    async def test_any_of_the_sentinels_will_do(
        self, sentinels: ValkeySentinels
    ) -> None:
        """Also when it is the last in the list."""
        for sentinel in sentinels.sentinels[:-1]:
            sentinel.kill()

        store = await connect(sentinels.url)

        assert await store.set("k", "v")
        await store.aclose()


def follows(server: ValkeyProcess) -> bool:
    """Whether it is a replica in step with its primary."""
    return b"master_link_status:up" in server.command("INFO", "replication")
