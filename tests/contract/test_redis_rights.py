"""The users of Redis in docs/security.md: enough for a service, and no more."""

from __future__ import annotations

from collections.abc import Awaitable, Iterator
from pathlib import Path

import pytest
from redis.exceptions import NoPermissionError

from services.chassis.errors import Reason, ServiceError
from services.chassis.redis_pool import Durability, RedisSettings, Script, connect
from services.registry.redis_store import opened
from services.snapshots.stores import check_user
from tests.support import redis_rights
from tests.support.redis_cluster import cluster_url, lone_node
from tests.support.redis_rights import REGISTRY, SNAPSHOTS
from tests.support.redis_sentinel import ValkeySentinels
from tests.support.redis_server import ValkeyProcess

pytestmark = [pytest.mark.redis, pytest.mark.timeout(90)]

USERS = (REGISTRY, SNAPSHOTS)
PREFIX = {REGISTRY: "tk:registry:", SNAPSHOTS: "tk:snapshots:"}
# Left out, they cost a line in the server's own log of refusals and nothing else.
SPARE = {"+client|setinfo"}
RIGHTS = [
    pytest.param(user, word, id=f"{user} {word}")
    for user in USERS
    for word in redis_rights.words(user)
    if word.startswith("+") and word not in SPARE
]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ValkeyProcess]:
    folder = tmp_path_factory.mktemp("rights")
    with ValkeyProcess(folder, aclfile=redis_rights.acl_file(folder)) as process:
        yield process


@pytest.fixture
def valkey(server: ValkeyProcess) -> ValkeyProcess:
    """With the users as they are in the document."""
    assert server.command("ACL", "LOAD") == b"+OK\r\n"
    server.command("ACL", "LOG", "RESET")
    return server


async def starts(url: str, user: str, *, replicas: int = 0) -> None:
    """What a service does with Redis before it serves."""
    store = await connect(url)
    try:
        if user == REGISTRY:
            async with opened(store, environment="tests", replicas=replicas):
                pass
        else:
            await check_user(store, RedisSettings(url=url, replicas=replicas))
    finally:
        await store.aclose()


async def refusal(start: Awaitable[None]) -> str:
    with pytest.raises(ServiceError) as refused:
        await start
    assert Reason.STORE_FORBIDDEN is refused.value.reason
    return refused.value.message


@pytest.mark.parametrize("user", USERS)
async def test_they_are_enough(valkey: ValkeyProcess, user: str) -> None:
    """Nothing is refused, also none of what a client does by itself."""
    await starts(redis_rights.url(valkey, user), user)

    assert redis_rights.refusals(valkey) == ""


@pytest.mark.parametrize(("user", "word"), RIGHTS)
async def test_none_is_too_much(valkey: ValkeyProcess, user: str, word: str) -> None:
    """Without any of them the start says which is missing, and whose it is."""
    valkey.command("ACL", "SETUSER", user, f"-{word[1:]}")

    said = await refusal(starts(redis_rights.url(valkey, user), user))

    assert user in said
    assert word[1:].replace("|", " ") in said.lower().replace("|", " ")


@pytest.mark.parametrize(
    ("user", "rules", "says"),
    [
        (REGISTRY, ("resetkeys",), "keys such as tk:registry:store"),
        (REGISTRY, ("resetchannels",), "PSUBSCRIBE tk:registry:{*}:*"),
        # A pattern is subscribed to as it stands, or not at all.
        (REGISTRY, ("resetchannels", "&tk:registry:*"), "PSUBSCRIBE"),
        (SNAPSHOTS, ("resetkeys", "~tk:registry:*"), "keys such as tk:snapshots:store"),
    ],
)
async def test_keys_and_channels_are_asked_for_too(
    valkey: ValkeyProcess, user: str, rules: tuple[str, ...], says: str
) -> None:
    """A command with the wrong keys is of no use."""
    valkey.command("ACL", "SETUSER", user, *rules)

    said = await refusal(starts(redis_rights.url(valkey, user), user))

    assert user in said
    assert says in said


@pytest.mark.parametrize("user", USERS)
@pytest.mark.parametrize(
    "command",
    [
        "FLUSHALL",
        "KEYS *",
        "SCAN 0",
        "CONFIG SET appendonly no",
        "CONFIG REWRITE",
        "SHUTDOWN",
        "SCRIPT FLUSH",
        "FUNCTION LIST",
        "ACL LIST",
        "CLIENT LIST",
        "REPLICAOF NO ONE",
        "GET stranger",
    ],
)
async def test_what_is_dangerous_is_refused(
    valkey: ValkeyProcess, user: str, command: str
) -> None:
    """By itself and from within a script."""
    store = await connect(redis_rights.url(valkey, user))
    words = command.split()
    listed = ", ".join(f"'{word}'" for word in words)

    with pytest.raises(NoPermissionError):
        await store.execute_command(*words)
    with pytest.raises(Exception, match=r"ACL failure|not allowed from script|NOPERM"):
        await store.execute_command("EVAL", f"return redis.call({listed})", 0)

    await store.aclose()


async def test_nobody_reads_the_others_keys(valkey: ValkeyProcess) -> None:
    """Services talk through their contracts only."""
    for user, other in (USERS, USERS[::-1]):
        store = await connect(redis_rights.url(valkey, user))
        with pytest.raises(NoPermissionError):
            await store.execute_command("HGET", f"{PREFIX[other]}store", "format")
        await store.aclose()


async def test_a_right_that_is_taken_from_a_running_service(
    valkey: ValkeyProcess,
) -> None:
    """The call that needs it says so, also from within a script."""
    store = await connect(redis_rights.url(valkey, REGISTRY))
    script = Script("return redis.call('INCR', KEYS[1])")
    await script.run(store, ["tk:registry:n"])
    valkey.command("ACL", "SETUSER", REGISTRY, "-incr")

    said = await refusal(script.run(store, ["tk:registry:n"]))

    assert REGISTRY in said
    assert "'incr'" in said
    await store.aclose()


async def test_the_right_to_ask_how_it_writes(valkey: ValkeyProcess) -> None:
    """Refused as a right, not as a server that cannot say."""
    store = await connect(redis_rights.url(valkey, REGISTRY))
    valkey.command("ACL", "SETUSER", REGISTRY, "-config|get")

    said = await refusal(Durability(store).check())

    assert "'config|get'" in said
    await store.aclose()


class TestSetUps:
    """What the document adds for each; the base alone is refused, by name."""

    @pytest.mark.parametrize("user", USERS)
    async def test_with_replicas(self, valkey: ValkeyProcess, user: str) -> None:
        """WAIT is wanted where it is used."""
        url = redis_rights.url(valkey, user)

        assert "WAIT" in await refusal(starts(url, user, replicas=1))

        redis_rights.allow(valkey, "replicas")
        await starts(url, user, replicas=1)

    async def test_through_sentinels(self, tmp_path: Path) -> None:
        """On the servers and on the Sentinels, a script with its replicas included."""
        users = redis_rights.acl_file(tmp_path)
        login = redis_rights.login
        with ValkeySentinels(tmp_path, aclfile=users) as sentinels:
            for sentinel in sentinels.sentinels:
                redis_rights.allow(sentinel, "sentinels")
            for user in USERS:
                url = sentinels.url_of(login(user), redis_rights.sentinel_options())
                assert "'role'" in await refusal(starts(url, user))
            for server in sentinels.servers:
                redis_rights.allow(server, "sentinel")
                redis_rights.allow(server, "replicas")
                server.command("ACL", "LOG", "RESET")
            for user in USERS:
                url = sentinels.url_of(login(user), redis_rights.sentinel_options())
                await self._works(url, user, replicas=2)
            everybody = [*sentinels.servers, *sentinels.sentinels]

            assert {""} == {redis_rights.refusals(each) for each in everybody}

    async def test_on_a_cluster(self, tmp_path: Path) -> None:
        """The client learns of the nodes by itself."""
        users = redis_rights.acl_file(tmp_path)
        with lone_node(tmp_path, aclfile=users) as node:
            urls = {user: cluster_url(node, redis_rights.login(user)) for user in USERS}
            for user in USERS:
                said = await refusal(starts(urls[user], user))
                assert "cluster|slots" in said
            redis_rights.allow(node, "cluster")
            node.command("ACL", "LOG", "RESET")
            for user in USERS:
                await self._works(urls[user], user)

            assert redis_rights.refusals(node) == ""

    async def _works(self, url: str, user: str, *, replicas: int = 0) -> None:
        await starts(url, user, replicas=replicas)
        store = await connect(url)
        key = f"{PREFIX[user]}{{t}}:n"
        script = Script("return redis.call('HINCRBY', KEYS[1], 'n', 1)")
        assert 1 == await script.run(store, [key], replicas=replicas)
        assert await store.execute_command("HGET", key, "n") == b"1"
        await store.aclose()
