"""A real primary with two replicas, three Sentinels over them, and how one dies.

with ValkeySentinels(tmp_path) as sentinels:
    store = await connect(sentinels.url)
    sentinels.kill_primary()      # one of its replicas takes over by itself
"""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from tests.support.ports import free_ports
from tests.support.redis_server import ValkeyProcess
from tests.support.waiting import wait_until_sync

REPLICAS: Final = 2
SENTINELS: Final = 3
QUORUM: Final = 2
SERVICE: Final = "town"
# Above the second in which a Sentinel looks how far the replicas of a dead primary are;
# and long enough that a busy machine has none of them take a live one for dead.
DOWN_AFTER_MS: Final = 2000
# Half of what must lie between two fail-overs.
FAILOVER_MS: Final = 4000
SERVER: Final = {"bind": "127.0.0.1", "repl-diskless-sync-delay": "0"}
# How often they speak to each other; four times that, and a server that calls itself a
# primary beside another is made its replica.
PUBLISH_MS: Final = 250
# How often they look who follows whom, while all is well.
INFO_MS: Final = 1000


class SentinelProcess(ValkeyProcess):
    """One Sentinel; what it knows outlives `kill`, in its own configuration."""

    def __init__(self, folder: Path, port: str, primary_port: str) -> None:
        super().__init__(folder, port=port)
        self._configuration = self.folder / "sentinel.conf"
        self._configuration.write_text(
            f"""port {port}
bind 127.0.0.1
dir {self.folder}
unixsocket {self.socket}
sentinel monitor {SERVICE} 127.0.0.1 {primary_port} {QUORUM}
sentinel down-after-milliseconds {SERVICE} {DOWN_AFTER_MS}
sentinel failover-timeout {SERVICE} {FAILOVER_MS}
"""
        )

    def arguments(self) -> list[str]:
        return [str(self._configuration), "--sentinel"]

    def start(self) -> None:
        super().start()
        for what, period_ms in (("PUBLISH", PUBLISH_MS), ("INFO", INFO_MS)):
            self.command("SENTINEL", "DEBUG", f"{what}-PERIOD", str(period_ms))

    def watch(self, port: str) -> None:
        """As an operator would have it watch another primary, from one moment on."""
        self.command("SENTINEL", "REMOVE", SERVICE)
        self.command("SENTINEL", "MONITOR", SERVICE, "127.0.0.1", port, str(QUORUM))

    @property
    def primary_port(self) -> str:
        answer = self.command("SENTINEL", "GET-MASTER-ADDR-BY-NAME", SERVICE)
        return answer.decode().split()[-1]

    @property
    def knows_all(self) -> bool:
        state = self._state()
        return (
            state.get("flags") == "master"
            and state.get("num-slaves") == str(REPLICAS)
            and state.get("num-other-sentinels") == str(SENTINELS - 1)
        )

    @property
    def is_replacing(self) -> bool:
        """Whether it leads a fail-over, and the new primary is one already."""
        return (
            "failover_in_progress" in self._state().get("flags", "")
            and self._state().get("port") != self.primary_port
        )

    def _state(self) -> dict[str, str]:
        answer = self.command("SENTINEL", "MASTER", SERVICE).decode()
        words = answer.split("\r\n")[2::2]
        return dict(zip(words[::2], words[1::2], strict=False))


class ValkeySentinels:
    """Who is the primary changes as they die."""

    def __init__(self, folder: Path, **settings: str) -> None:
        self._stack = ExitStack()
        ports = free_ports(1 + REPLICAS + SENTINELS)
        self.servers = [
            ValkeyProcess(folder / f"server-{n}", port=port, **SERVER, **settings)
            for n, port in enumerate(ports[: 1 + REPLICAS])
        ]
        self.sentinels = [
            SentinelProcess(folder / f"sentinel-{n}", port, ports[0])
            for n, port in enumerate(ports[1 + REPLICAS :])
        ]

    def __enter__(self) -> Self:
        for server in self.servers:
            self._stack.enter_context(server)
        for replica in self.servers[1:]:
            follow(replica, self.servers[0])
        for sentinel in self.sentinels:
            self._stack.enter_context(sentinel)
        self.wait_whole()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.close()

    @property
    def url(self) -> str:
        return self.url_of("")

    def url_of(
        self, login: str, options: str = "", only: SentinelProcess | None = None
    ) -> str:
        """With `user:password` for the servers, or none."""
        asked = [only] if only else self.sentinels
        ports = [each.settings["port"] for each in asked]
        hosts = ",".join(f"127.0.0.1:{port}" for port in ports)
        at = f"{login}@" if login else ""
        return f"redis+sentinel://{at}{hosts}/{SERVICE}{options}"

    @property
    def primary(self) -> ValkeyProcess:
        """Whom the first Sentinel calls so."""
        port = self.sentinels[0].primary_port
        return next(each for each in self.servers if each.settings["port"] == port)

    @property
    def replicas(self) -> list[ValkeyProcess]:
        return [each for each in self.servers if each is not self.primary]

    def kill_primary(self) -> ValkeyProcess:
        """SIGKILL to it; returns it when all Sentinels name another."""
        dead = self.primary
        dead.kill()
        self.wait_replaced(dead)
        return dead

    def wait_replaced(self, old: ValkeyProcess) -> None:
        """Returns when all Sentinels name another, and that takes writes."""

        def replaced() -> bool:
            named = {each.primary_port for each in self.sentinels}
            return old.settings["port"] not in named and is_primary(self.primary)

        wait_until_sync(replaced, what="a replica takes over", limit_s=60)

    def wait_whole(self) -> None:
        """Returns when both replicas are in step, and the Sentinels know of all."""
        wait_until_sync(self._whole, what="the service is whole", limit_s=60)

    def put(self, primary: ValkeyProcess) -> None:
        """By hand, at once: the Sentinels name it, and the others are as they were."""
        primary.command("REPLICAOF", "NO", "ONE")
        for sentinel in self.sentinels:
            sentinel.watch(primary.settings["port"])

    def _whole(self) -> bool:
        if not all(sentinel.knows_all for sentinel in self.sentinels):
            return False
        state = self.primary.command("INFO", "replication")
        return f"connected_slaves:{REPLICAS}".encode() in state and all(
            b"master_link_status:up" in replica.command("INFO", "replication")
            for replica in self.replicas
        )


def follow(replica: ValkeyProcess, primary: ValkeyProcess) -> None:
    replica.command("REPLICAOF", "127.0.0.1", primary.settings["port"])


def is_primary(server: ValkeyProcess) -> bool:
    return b"role:master" in server.command("INFO", "replication")
