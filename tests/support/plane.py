"""A whole plane as real processes: `townkeeper up` on free ports, and how to kill it.

with PlaneProcess(tmp_path / "data") as plane:
    plane.http("user").get(f"/api/towns/{plane.town}/container/health")
    plane.registry("operator").ListAgents(...)
    plane.kill_container(wipe=True)      # a new one is started by `up`
"""

from __future__ import annotations

import contextlib
import os
import selectors
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import grpc
import httpx

from services.chassis.access import Kind
from services.chassis.channels import StaticToken, open_sync_channel
from services.chassis.keys import KeyRing
from services.cli.identity import Identity, descendants, identify, kill_trees
from services.cli.layout import DataDir, Endpoints
from services.cli.ownership import Record
from tests.support.children import kept_by
from tests.support.waiting import wait_until_sync
from townkeeper.registry.v1 import registry_pb2, resources_pb2
from townkeeper.registry.v1.registry_pb2_grpc import RegistryServiceStub
from townkeeper.snapshots.v1.snapshots_pb2_grpc import SnapshotServiceStub
from townkeeper.supervisor.v1 import supervisor_pb2
from townkeeper.supervisor.v1.resources_pb2 import Run
from townkeeper.supervisor.v1.supervisor_pb2_grpc import SupervisorServiceStub

START_S = 30.0
STOP_S = 60.0
HTTP_S = 60.0
USER = "ada"
COMMAND = [sys.executable, "-P", "-m", "services.cli.main"]


class PlaneProcess:
    """One data directory and the `up` that runs on it, again and again."""

    def __init__(
        self,
        root: Path,
        town: str = "town-1",
        *,
        program: Sequence[str] = COMMAND,
        **environ: str,
    ) -> None:
        self.data = DataDir.at(root)
        self.town = town
        self.program = program
        self.environ = {**os.environ, **environ}
        self.seconds_to_ready = 0.0
        self._up: subprocess.Popen[bytes] | None = None
        self._complaints = self.data.root.with_name(f"{self.data.root.name}.up.log")
        self._channels: dict[str, grpc.Channel] = {}
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.kill_everything()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.close()
        if self._up is not None:
            self.kill_everything()

    # life and death

    def start(self, *options: str, limit_s: float = START_S) -> float:
        """Starts `up` and waits for its ready line; the seconds it took."""
        begun = time.monotonic()
        ports = [f"--{name}-port=0" for name in _SERVICES]
        arguments = [
            "up",
            f"--data-dir={self.data.root}",
            f"--town={self.town}",
            *ports,
            *options,
        ]
        with self._complaints.open("ab") as complaints:
            self._up = subprocess.Popen(
                [*self.program, *arguments],
                env=self.environ,
                stdout=subprocess.PIPE,
                stderr=complaints,
                start_new_session=True,
            )
        line = self._first_line(limit_s)
        assert line.startswith("ready http://"), self.complaints()
        self.seconds_to_ready = time.monotonic() - begun
        return self.seconds_to_ready

    def stop(self) -> int:
        """SIGTERM; the exit code."""
        self.up.send_signal(signal.SIGTERM)
        return self._reap(STOP_S)

    def kill_up(self) -> None:
        """SIGKILL to `up` alone; its watcher ends the rest."""
        self.up.kill()
        self._reap(5)

    def kill_everything(self, *, wipe: bool = False) -> list[Identity]:
        """SIGKILL to `up`, its watcher, all services and every agent: power off."""
        up = identify(self.up.pid)
        killed = kill_trees([up]) if up else []
        if (record := Record.read(self.data)) is not None:
            killed += kill_trees(list(record.children.values()))
        self._reap(5)
        if wipe:
            self.wipe_container()
        return killed

    def kill_container(self, *, wipe: bool = False) -> list[Identity]:
        """SIGKILL to the supervisor and every agent; `up` then boots a new one."""
        # Held still meanwhile, so that the new container never sees the old disk.
        self.up.send_signal(signal.SIGSTOP)
        try:
            killed = kill_trees([self.keeper])
            if wipe:
                self.wipe_container()
        finally:
            self.up.send_signal(signal.SIGCONT)
        return killed

    @contextlib.contextmanager
    def container_stopped(self) -> Iterator[None]:
        """The supervisor and every agent stand still, as a paused container does."""
        stopped = descendants([self.keeper])
        for one in stopped:
            one.send(signal.SIGSTOP)
        try:
            yield
        finally:
            for one in stopped:
                one.send(signal.SIGCONT)

    def wipe_container(self) -> None:
        """The disk of the container is gone."""
        while self.data.container.exists():
            # Somebody who looks at a database from outside makes files beside it.
            shutil.rmtree(self.data.container, ignore_errors=True)
        self.data.container.mkdir(mode=0o700)

    @property
    def up(self) -> subprocess.Popen[bytes]:
        assert self._up is not None, "not started"
        return self._up

    def child(self, name: str) -> Identity:
        """A service's process: registry, snapshots, gateway, supervisor, valkey."""
        return kept_by(self.keeper) if name == "supervisor" else self._child_of_up(name)

    @property
    def keeper(self) -> Identity:
        """The supervisor's parent: all of the container is below."""
        return self._child_of_up("supervisor")

    def _child_of_up(self, name: str) -> Identity:
        record = Record.read(self.data)
        assert record is not None, "`up` is not running"
        return record.children[name]

    def processes(self) -> list[Identity]:
        """`up` and all below it, agents included."""
        up = identify(self.up.pid)
        return descendants([up]) if up else []

    def complaints(self) -> str:
        """What `up` itself has said on standard error, over all its starts."""
        return self._complaints.read_text("utf-8", "replace")

    def log(self, name: str) -> str:
        """What a service has written so far."""
        return (self.data.logs / f"{name}.log").read_text("utf-8", "replace")

    # clients

    @property
    def endpoints(self) -> Endpoints:
        found = self.data.endpoints()
        assert found is not None, "`up` is not ready"
        return found

    def token(self, kind: Kind | str, **claims: Any) -> str:
        """A token of this plane's keys, for its town unless another is named."""
        claims = {"town": self.town, **claims}
        if Kind(kind) is Kind.USER:
            claims.setdefault("user", USER)
        return KeyRing.load(self.data.keys).mint(Kind(kind), **claims)

    def http(self, kind: Kind | str | None = "user", **claims: Any) -> httpx.Client:
        """An HTTP client of the gateway, with a token of that kind or with none."""
        headers = {}
        if kind is not None:
            headers["authorization"] = f"Bearer {self.token(kind, **claims)}"
        client = httpx.Client(
            base_url=self.endpoints.http, headers=headers, timeout=HTTP_S
        )
        return self._stack.enter_context(client)

    def registry(
        self, kind: Kind | str = "operator", **claims: Any
    ) -> RegistryServiceStub:
        address = self.endpoints.registry
        return RegistryServiceStub(self._channel(address, kind, claims))

    def snapshots(
        self, kind: Kind | str = "operator", **claims: Any
    ) -> SnapshotServiceStub:
        address = self.endpoints.snapshots
        return SnapshotServiceStub(self._channel(address, kind, claims))

    def supervisor(
        self, kind: Kind | str = "operator", **claims: Any
    ) -> SupervisorServiceStub:
        address = self.endpoints.supervisor
        return SupervisorServiceStub(self._channel(address, kind, claims))

    def run(self, *arguments: str, limit_s: float = 60.0) -> str:
        """A `townkeeper` command on this directory; what it printed."""
        done = self.command(*arguments, limit_s=limit_s)
        assert done.returncode == 0, f"{arguments}: {done.stderr}"
        return done.stdout

    def command(
        self, *arguments: str, limit_s: float = 60.0
    ) -> subprocess.CompletedProcess[str]:
        """The same, however it ends."""
        words = [*COMMAND, *arguments]
        # Words after `--` are a program's, not ours.
        at = words.index("--") if "--" in words else len(words)
        words[at:at] = [f"--data-dir={self.data.root}"]
        return subprocess.run(
            words, env=self.environ, capture_output=True, text=True, timeout=limit_s
        )

    # waiting

    def agent_name(self, agent: str) -> str:
        return f"towns/{self.town}/agents/{agent}"

    def find_run(self, agent: str) -> Run | None:
        """The agent's run; None while nobody can tell."""
        request = supervisor_pb2.GetRunRequest(name=self.agent_name(agent))
        try:
            return self.supervisor().GetRun(request).run
        except grpc.RpcError:
            return None

    def wait_running(self, agent: str, *, limit_s: float = 30.0) -> Run:
        """The agent's run, once it is ready."""

        def running() -> Run | None:
            run = self.find_run(agent)
            return run if run and run.state == Run.STATE_RUNNING else None

        found = wait_until_sync(running, what=f"{agent} runs", limit_s=limit_s)
        assert found is not None
        return found

    def messages(self, agent: str) -> Iterator[resources_pb2.Message]:
        """All messages of the agent that are remembered, page by page."""
        request = registry_pb2.ListMessagesRequest(
            parent=self.agent_name(agent), page_size=500
        )
        while True:
            reply = self.registry().ListMessages(request)
            yield from reply.messages
            if not reply.next_page_token:
                return
            request.page_token = reply.next_page_token

    def wait_settled(
        self, agent: str, message_id: str, *, limit_s: float = 30.0
    ) -> resources_pb2.Message:
        """The message, once it has left the inbox."""

        def settled() -> resources_pb2.Message | None:
            for message in self.messages(agent):
                done = message.state != resources_pb2.Message.STATE_PENDING
                if message.name.endswith(f"/{message_id}") and done:
                    return message
            return None

        what = f"message {message_id} settled"
        found = wait_until_sync(settled, what=what, limit_s=limit_s)
        assert found is not None
        return found

    # inside

    def _channel(
        self, address: str, kind: Kind | str, claims: dict[str, Any]
    ) -> grpc.Channel:
        key = f"{address} {kind} {sorted(claims.items())}"
        if key not in self._channels:
            token = StaticToken(self.token(kind, **claims))
            self._channels[key] = open_sync_channel(address, token)
            self._stack.callback(self._channels[key].close)
        return self._channels[key]

    def _first_line(self, limit_s: float) -> str:
        assert self.up.stdout is not None
        with selectors.DefaultSelector() as selector:
            selector.register(self.up.stdout, selectors.EVENT_READ)
            if not selector.select(limit_s):
                return ""
        return self.up.stdout.readline().decode()

    def _reap(self, limit_s: float) -> int:
        code = self.up.wait(limit_s)
        assert self.up.stdout is not None
        self.up.stdout.close()
        self._up = None
        return code


_SERVICES = ("http", "registry", "snapshots", "supervisor")
