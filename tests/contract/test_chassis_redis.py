"""Redis as services reach it: real Valkeys, among them killed and careless ones."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from redis.asyncio import Connection

from services.chassis.errors import Reason, ServiceError
from services.chassis.redis_pool import (
    ASK_AGAIN_S,
    Durability,
    Script,
    Store,
    connect,
    store_errors,
)
from tests.support.clock import ManualClock
from tests.support.ports import free_ports
from tests.support.redis_cluster import cluster_url, lone_node
from tests.support.redis_server import ValkeyProcess
from tests.support.waiting import wait_until

pytestmark = pytest.mark.redis

COUNT = Script("return redis.call('INCRBY', KEYS[1], ARGV[1])")


@pytest.fixture
async def store(valkey: ValkeyProcess) -> AsyncIterator[Store]:
    store = await connect(valkey.url)
    yield store
    await store.aclose()


@pytest.fixture
def own(tmp_path: Path) -> Iterator[ValkeyProcess]:
    """A Valkey that this test may hurt."""
    with ValkeyProcess(tmp_path) as process:
        yield process


class TestConnect:
    async def test_reads_bytes(self, store: Store) -> None:
        """Values are bytes: what is stored need not be text."""
        await store.set("k", b"\xff\x00")

        assert await store.get("k") == b"\xff\x00"

    async def test_gives_up_with_a_reason(self, tmp_path: Path) -> None:
        """A Redis that is not there stops the start, and says that it was Redis."""
        with pytest.raises(ServiceError) as refused:
            await connect(f"unix://{tmp_path}/nobody", patience_s=0.2)

        assert refused.value.reason is Reason.STORE_UNAVAILABLE

    async def test_a_wrong_password_is_not_waited_for(self, own: ValkeyProcess) -> None:
        """What will not pass by itself is said at once."""
        own.command("CONFIG", "SET", "requirepass", "right")

        with pytest.raises(ServiceError) as refused:
            await connect(f"unix://user:wrong@{own.socket}", patience_s=60)

        assert refused.value.reason is Reason.STORE_UNAVAILABLE

    async def test_comes_back_after_a_kill(self, own: ValkeyProcess) -> None:
        """Killed and restarted, Redis is reached again by the same client."""
        store = await connect(own.url)
        await store.set("k", "kept")
        own.kill()

        with pytest.raises(ServiceError) as refused, store_errors():
            await store.get("k")
        own.start()

        assert refused.value.reason is Reason.STORE_UNAVAILABLE
        assert await store.get("k") == b"kept"
        await store.aclose()

    async def test_a_restart_between_two_commands_goes_unnoticed(
        self, own: ValkeyProcess
    ) -> None:
        """A connection that died while idle is replaced before it is used."""
        store = await connect(own.url)
        await store.set("k", "kept")

        # In a thread: the loop has to see the old connection end.
        await asyncio.to_thread(own.restart)

        assert await store.get("k") == b"kept"
        await store.aclose()


class TestErrors:
    async def test_a_full_redis_is_storage_full(self, own: ValkeyProcess) -> None:
        """Running out of memory asks for room, not for patience."""
        store = await connect(own.url)
        own.command("CONFIG", "SET", "maxmemory", "1")

        with pytest.raises(ServiceError) as refused, store_errors():
            await store.set("k", "v")

        assert refused.value.reason is Reason.STORAGE_FULL
        await store.aclose()

    async def test_a_replica_is_not_written_to(
        self, own: ValkeyProcess, valkey: ValkeyProcess
    ) -> None:
        """After a failover to the wrong side a write fails as passing trouble."""
        own.command("REPLICAOF", "127.0.0.1", "1")
        store = await connect(own.url)

        with pytest.raises(ServiceError) as refused, store_errors():
            await store.set("k", "v")

        assert refused.value.reason is Reason.STORE_UNAVAILABLE
        await store.aclose()

    async def test_a_connection_that_the_client_hung_up_is_an_outage(self) -> None:
        """That of a cluster does, when a server has gone, on whoever uses it just then;
        they stumble over what is not there any more."""
        connection = Connection()

        with pytest.raises(ServiceError) as refused, store_errors():
            await connection._send_packed_command([b"PING"])

        assert Reason.STORE_UNAVAILABLE is refused.value.reason

    async def test_where_we_stumble_ourselves_is_not_hidden(self) -> None:
        """The same exception of our own code is a defect, and told as one."""
        with pytest.raises(AttributeError), store_errors():
            _ = object().missing  # type: ignore[attr-defined]

    async def test_a_mistake_of_ours_is_not_hidden(self, store: Store) -> None:
        """A wrong command is a defect, so it must not look like an outage."""
        await store.set("k", "text")

        with pytest.raises(Exception, match="WRONGTYPE") as raised, store_errors():
            await store.lpush("k", "v")

        assert not isinstance(raised.value, ServiceError)


class TestScript:
    async def test_runs_where_it_was_never_loaded(self, store: Store) -> None:
        """A Redis that forgot the script is sent it whole."""
        assert await COUNT.run(store, ["n"], [2]) == 2

        await store.script_flush()

        assert await COUNT.run(store, ["n"], [3]) == 5

    async def test_outage_is_a_service_error(self, own: ValkeyProcess) -> None:
        """A script that may or may not have run is STORE_UNAVAILABLE."""
        store = await connect(own.url)
        own.kill()

        with pytest.raises(ServiceError) as refused:
            await COUNT.run(store, ["n"], [1])

        assert refused.value.reason is Reason.STORE_UNAVAILABLE
        await store.aclose()

    async def test_a_command_is_sent_once(self, tmp_path: Path) -> None:
        """A broken connection never makes a script run twice."""
        async with cut_off_at(b"EVALSHA", tmp_path) as (url, received):
            store = await connect(url)

            with pytest.raises(ServiceError) as refused:
                await COUNT.run(store, ["n"], [1])

            assert refused.value.reason is Reason.STORE_UNAVAILABLE
            assert received.count(b"EVALSHA") == 1
            await store.aclose()

    async def test_waits_for_replicas(self, own: ValkeyProcess, tmp_path: Path) -> None:
        """With a replica connected, the write counts once the replica has it."""
        [port] = free_ports(1)
        own.restart(port=port, **{"repl-diskless-sync-delay": "0"})
        with ValkeyProcess(tmp_path / "replica") as replica:
            replica.command("REPLICAOF", "127.0.0.1", own.settings["port"])
            store = await connect(own.url)

            assert await COUNT.run(store, ["n"], [1], replicas=1) == 1

            await store.aclose()

    async def test_too_few_replicas_is_not_durable(self, store: Store) -> None:
        """A write that did not reach the replicas wanted is not acknowledged."""
        count = Script(COUNT.source)

        with pytest.raises(ServiceError) as refused:
            await count.run(store, ["n"], [1], replicas=1)

        assert refused.value.reason is Reason.NOT_DURABLE


class TestDurability:
    async def test_a_careful_redis_passes(self, store: Store) -> None:
        """appendonly yes with appendfsync always is what an acknowledgement needs."""
        await Durability(store).check()

    @pytest.mark.parametrize(
        ("setting", "value"),
        [
            pytest.param("appendonly", "no", id="no log"),
            pytest.param("appendfsync", "everysec", id="synced each second"),
        ],
    )
    async def test_a_careless_redis_is_refused(
        self, own: ValkeyProcess, setting: str, value: str
    ) -> None:
        """Anything less is refused, naming what was found."""
        own.command("CONFIG", "SET", setting, value)
        store = await connect(own.url)

        with pytest.raises(ServiceError, match=f"{setting} {value}") as refused:
            await Durability(store).check()

        assert refused.value.reason is Reason.NOT_DURABLE
        await store.aclose()

    async def test_asks_again_after_a_reconnect(self, own: ValkeyProcess) -> None:
        """A server that came back careless is noticed before it is believed."""
        store = await connect(own.url)
        durability = Durability(store, clock=ManualClock())
        await durability.check()

        await asyncio.to_thread(own.restart, appendfsync="no")
        await COUNT.run(store, ["n"], [1])

        with pytest.raises(ServiceError, match="appendfsync no"):
            await durability.check()
        await store.aclose()

    async def test_asks_again_now_and_then(self, own: ValkeyProcess) -> None:
        """A change by hand is noticed though no connection broke."""
        store, clock = await connect(own.url), ManualClock()
        durability = Durability(store, clock=clock)
        await durability.check()
        own.command("CONFIG", "SET", "appendonly", "no")
        await durability.check()

        clock.advance(ASK_AGAIN_S)

        with pytest.raises(ServiceError, match="appendonly no"):
            await durability.check()
        await store.aclose()

    async def test_recovers_when_set_right(self, own: ValkeyProcess) -> None:
        """Setting it right is enough; nothing has to be restarted."""
        own.command("CONFIG", "SET", "appendfsync", "no")
        store = await connect(own.url)
        durability = Durability(store)
        with pytest.raises(ServiceError):
            await durability.check()

        own.command("CONFIG", "SET", "appendfsync", "always")

        await durability.check()
        await store.aclose()

    async def test_a_silent_server_must_be_vouched_for(
        self, own: ValkeyProcess
    ) -> None:
        """Where CONFIG is forbidden only an operator's word counts."""
        own.command("ACL", "SETUSER", "default", "-config")
        store = await connect(own.url)

        with pytest.raises(ServiceError, match="TOWNKEEPER_REDIS_DURABLE"):
            await Durability(store).check()
        await Durability(store, vouched=True).check()

        await store.aclose()


class TestCluster:
    @pytest.fixture
    async def cluster(self, tmp_path: Path) -> AsyncIterator[Store]:
        with lone_node(tmp_path) as node:
            store = await connect(cluster_url(node))
            yield store
            await store.aclose()

    async def test_runs_scripts_on_tagged_keys(self, cluster: Store) -> None:
        """Keys of one town share a hash tag, so a script finds them on one node."""
        both = Script(
            "return redis.call('SET', KEYS[1], 1) and redis.call('GET', KEYS[2])"
        )

        assert await both.run(cluster, ["tk:{t}:a", "tk:{t}:b"]) is None

    async def test_is_asked_how_it_writes(self, cluster: Store) -> None:
        """Each primary is asked."""
        await Durability(cluster).check()

    async def test_one_that_is_not_there_is_an_outage(self, tmp_path: Path) -> None:
        """At the start and later, and it is found again when it is back."""
        count = Script(COUNT.source)
        with lone_node(tmp_path) as node:
            store = await connect(cluster_url(node))
            node.kill()

            with pytest.raises(ServiceError) as at_the_start:
                await connect(cluster_url(node), patience_s=0.3)
            # At the second call it looks for the others, and there are none.
            later = []
            for _ in range(2):
                with pytest.raises(ServiceError) as refused:
                    await count.run(store, ["{t}:n"], [1])
                later.append(refused.value.reason)
            node.start()

            assert at_the_start.value.reason is Reason.STORE_UNAVAILABLE
            assert {Reason.STORE_UNAVAILABLE} == set(later)
            await wait_until(lambda: b"cluster_state:ok" in info(node))
            assert await count.run(store, ["{t}:n"], [1]) == 1
            await store.aclose()

    async def test_one_server_is_none(self, tmp_path: Path) -> None:
        """A start that waits for a cluster says what it found in its place."""
        [port] = free_ports(1)
        with ValkeyProcess(tmp_path, port=port):
            url = f"redis://127.0.0.1:{port}?cluster=true"

            with pytest.raises(ServiceError, match="Cluster mode is not enabled"):
                await connect(url, patience_s=0.3)

    async def test_wants_replicas_too(self, cluster: Store) -> None:
        """WAIT follows the script on the node's own connection."""
        count = Script(COUNT.source)

        with pytest.raises(ServiceError) as refused:
            await count.run(cluster, ["{t}:n"], [1], replicas=1)

        assert refused.value.reason is Reason.NOT_DURABLE


def info(node: ValkeyProcess) -> bytes:
    return node.command("CLUSTER", "INFO")


@asynccontextmanager
async def cut_off_at(
    command: bytes, folder: Path
) -> AsyncIterator[tuple[str, list[bytes]]]:
    """A server that takes this command and hangs up without an answer."""
    received: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while raw := await reader.read(65536):
            received.extend(word for word in raw.split(b"\r\n") if word.isalpha())
            if command in raw:
                break
            # One answer for each command: newer asyncio sends several at once.
            commands = [part for part in raw.split(b"*") if part[:1].isdigit()]
            for one in commands:
                writer.write(b"+PONG\r\n" if b"PING" in one else b"+OK\r\n")
        writer.close()

    path = folder / "s"
    async with await asyncio.start_unix_server(serve, path):
        yield f"unix://{path}", received
