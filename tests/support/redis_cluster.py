"""A real cluster of Valkeys: three primaries with a replica each, and how one dies.

with ValkeyCluster(tmp_path) as cluster:
    store = await connect(cluster.url)
    cluster.kill_primary_of("{town}")      # its replica takes over by itself
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

from redis.crc import key_slot

from tests.support.ports import free_ports
from tests.support.redis_server import ValkeyProcess
from tests.support.waiting import wait_until_sync

PRIMARIES = 3
SLOTS = 16384
# How long a node is silent before the others call it dead.
NODE_TIMEOUT_MS = 1000
SETTINGS = {
    "cluster-enabled": "yes",
    "cluster-node-timeout": str(NODE_TIMEOUT_MS),
    "repl-diskless-sync-delay": "0",
    "cluster-replica-validity-factor": "0",
}


class ValkeyCluster:
    """Six servers; who is a primary changes as they die."""

    def __init__(self, folder: Path) -> None:
        self._stack = ExitStack()
        self.nodes = [
            ValkeyProcess(folder / f"node-{n}", port=port, **SETTINGS)
            for n, port in enumerate(free_ports(2 * PRIMARIES))
        ]

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            for node in self.nodes:
                stack.enter_context(node)
            self._meet()
            # Theirs only now: a start that fails leaves nothing running.
            self._stack = stack.pop_all()
        return self

    def _meet(self) -> None:
        primaries, replicas = self.nodes[:PRIMARIES], self.nodes[PRIMARIES:]
        bounds = [n * SLOTS // PRIMARIES for n in range(PRIMARIES + 1)]
        for node, first, end in zip(primaries, bounds, bounds[1:], strict=False):
            node.command("CLUSTER", "ADDSLOTSRANGE", str(first), str(end - 1))
        for number, node in enumerate(self.nodes[1:], start=2):
            node.command("CLUSTER", "SET-CONFIG-EPOCH", str(number))
            node.command("CLUSTER", "MEET", "127.0.0.1", self.nodes[0].settings["port"])
        wait_until_sync(
            lambda: all(len(_known(node)) == len(self.nodes) for node in self.nodes),
            what="all know each other",
            limit_s=30,
        )
        for primary, replica in zip(primaries, replicas, strict=True):
            replica.command("CLUSTER", "REPLICATE", _my_id(primary))
        self.wait_whole()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.close()

    @property
    def url(self) -> str:
        """Names one of them; clients learn of the others."""
        return cluster_url(self.nodes[0])

    def primary_of(self, key: str) -> ValkeyProcess:
        """Who answers for the key, as the others see it."""
        slot = key_slot(key.encode())
        for line in _known(self._alive()[0]):
            _, address, flags, *rest = line.split()
            if "master" in flags and "fail" not in flags and _serves(rest, slot):
                port = address.partition("@")[0].rpartition(":")[2]
                return next(n for n in self.nodes if n.settings["port"] == port)
        raise AssertionError(f"nobody answers for slot {slot}")

    def kill_primary_of(self, key: str) -> ValkeyProcess:
        """SIGKILL to it; returns it when another has taken its slots over."""
        dead = self.primary_of(key)
        dead.kill()

        def taken_over() -> bool:
            try:
                return self.primary_of(key) is not dead
            except AssertionError:
                return False

        wait_until_sync(taken_over, what="the replica takes over", limit_s=60)
        return dead

    def wait_whole(self) -> None:
        """Returns when all serve and each primary has a replica that is in step."""
        wait_until_sync(self._whole, what="the cluster is whole", limit_s=60)

    def _whole(self) -> bool:
        for node in self.nodes:
            if b"cluster_state:ok" not in node.command("CLUSTER", "INFO"):
                return False
            state = node.command("INFO", "replication")
            primary = b"role:master" in state and b"connected_slaves:1" in state
            if not primary and b"master_link_status:up" not in state:
                return False
        return True

    def _alive(self) -> list[ValkeyProcess]:
        return [node for node in self.nodes if node.running]


def _known(node: ValkeyProcess) -> list[str]:
    answer = node.command("CLUSTER", "NODES").decode()
    return [line for line in answer.splitlines()[1:] if line]


def _my_id(node: ValkeyProcess) -> str:
    return node.command("CLUSTER", "MYID").decode().split()[1]


def _serves(fields: list[str], slot: int) -> bool:
    for span in fields[5:]:
        first, _, last = span.partition("-")
        if first.isdigit() and int(first) <= slot <= int(last or first):
            return True
    return False


@contextmanager
def lone_node(folder: Path, **settings: str) -> Iterator[ValkeyProcess]:
    """A cluster of one, with all slots: it answers as one of many does."""
    [port] = free_ports(1)
    settings |= {"port": port, "cluster-enabled": "yes"}
    with ValkeyProcess(folder, **settings) as node:
        node.command("CLUSTER", "ADDSLOTSRANGE", "0", str(SLOTS - 1))
        wait_until_sync(
            lambda: b"cluster_state:ok" in node.command("CLUSTER", "INFO"),
            what="the cluster serves",
        )
        yield node


def cluster_url(node: ValkeyProcess, login: str = "") -> str:
    """With `user:password`, or none."""
    at = f"{login}@" if login else ""
    return f"redis://{at}127.0.0.1:{node.settings['port']}?cluster=true"
