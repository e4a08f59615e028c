"""A container of its own in a town of a plane: `townkeeper serve supervisor`, joined
by environment variables alone, and how it is paused and killed.

with Container(plane, tmp_path / "c", town="mill", slot="one") as container:
    container.supervisor().ListRuns(...)
    with container.paused(): ...
    container.kill(wipe=True); container.start()
"""

from __future__ import annotations

import contextlib
import os
import selectors
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

import grpc

from services.chassis.access import Kind
from services.chassis.channels import StaticToken, open_sync_channel
from services.chassis.errors import Reason, ServiceError, rpc_errors
from services.cli.identity import Identity, descendants, identify, kill_trees
from tests.support.children import kept_by
from tests.support.diary import EMPTY, Diary, read_diary
from tests.support.plane import COMMAND, PlaneProcess
from tests.support.town import DATABASE
from tests.support.waiting import wait_until_sync
from townkeeper.supervisor.v1 import supervisor_pb2
from townkeeper.supervisor.v1.supervisor_pb2_grpc import SupervisorServiceStub

START_S = 30.0
STOP_S = 60.0
CALL_S = 60.0


class Container:
    """One slot, one disk, and the supervisor that runs on them, again and again."""

    def __init__(
        self,
        plane: PlaneProcess,
        root: Path,
        *,
        town: str,
        slot: str,
        snapshots: str = "",
        **environ: str,
    ) -> None:
        self.plane = plane
        self.town = town
        self.slot = slot
        self.root = root
        environ = {
            "TOWNKEEPER_EXEC": "any",
            "TOWNKEEPER_REGISTRY_ADDR": plane.endpoints.registry,
            "TOWNKEEPER_SNAPSHOTS_ADDR": snapshots or plane.endpoints.snapshots,
            "TOWNKEEPER_SUPERVISOR_ADDR": "127.0.0.1:0",
            "TOWNKEEPER_DATA_DIR": str(root),
            "TOWNKEEPER_INSTANCE": slot,
            "GASTOWN_TOWN_ID": town,
            "GASTOWN_CONTAINER_TOKEN": plane.token(Kind.CONTAINER, town=town),
            **environ,
        }
        # An empty one is left out: there it would be a fault.
        self.environ = {name: value for name, value in environ.items() if value}
        self.address = ""
        self._process: subprocess.Popen[bytes] | None = None
        self._log = root.with_name(f"{root.name}.log")
        self._channels = contextlib.ExitStack()

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.kill()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.kill()
        self._channels.close()

    def start(self) -> None:
        """Starts the supervisor; returns when it serves."""
        self._note_ready(self.try_to_start())

    def wait_ready(self) -> None:
        """Until the keeper has brought back a supervisor that was killed."""
        self._note_ready(self._next_line())

    def _note_ready(self, said: str) -> None:
        assert said.startswith("ready grpc://"), self.log()
        self.address = said.strip().removeprefix("ready grpc://")

    def try_to_start(self) -> str:
        """Its first line; empty when it ended without one. The log says why."""
        ours = ("TOWNKEEPER_", "GASTOWN_")
        inherited = {k: v for k, v in os.environ.items() if not k.startswith(ours)}
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [*COMMAND, "serve", "supervisor"],
                env=inherited | self.environ,
                stdout=subprocess.PIPE,
                stderr=log,
                start_new_session=True,
            )
        return self._next_line()

    def _next_line(self) -> str:
        assert self._running.stdout is not None
        with selectors.DefaultSelector() as selector:
            selector.register(self._running.stdout, selectors.EVENT_READ)
            assert selector.select(START_S), "it neither serves nor ends"
        return self._running.stdout.readline().decode()

    def stop(self) -> int:
        """SIGTERM, as a container's end is announced; the exit code."""
        self._running.send_signal(signal.SIGTERM)
        return self.wait(STOP_S)

    def wait(self, limit_s: float = START_S) -> int:
        """Waits for the supervisor's own end; the exit code."""
        process = self._running
        code = process.wait(limit_s)
        assert process.stdout is not None
        process.stdout.close()
        self._process = None
        return code

    def kill(self, *, wipe: bool = False) -> list[Identity]:
        """SIGKILL to the supervisor and all below it; its disk may go with them."""
        killed: list[Identity] = []
        if self._process is not None:
            killed = kill_trees([self.identity]) if self._process.poll() is None else []
            self.wait()
        if wipe:
            shutil.rmtree(self.root)
        return killed

    @contextlib.contextmanager
    def nobody_keeps(self) -> Iterator[None]:
        """The keeper stands still: what is killed now stays away."""
        keeper = self.identity
        keeper.send(signal.SIGSTOP)
        try:
            yield
        finally:
            keeper.send(signal.SIGCONT)

    def kill_supervisor(self) -> list[Identity]:
        """SIGKILL to the supervisor alone; returns what it leaves behind. Its keeper
        starts another: see `wait_ready`."""
        supervisor = kept_by(self.identity)
        orphans = descendants([supervisor])
        orphans.remove(supervisor)
        supervisor.send(signal.SIGKILL)
        assert supervisor.wait(10)
        return orphans

    @contextlib.contextmanager
    def paused(self, at_least_s: float = 0.0) -> Iterator[None]:
        """The supervisor and its agents stand still, at least for so long."""
        stopped = self.processes()
        for one in stopped:
            one.send(signal.SIGSTOP)
        begun = time.monotonic()
        try:
            yield
            time.sleep(max(0.0, begun + at_least_s - time.monotonic()))
        finally:
            for one in stopped:
                one.send(signal.SIGCONT)

    @property
    def alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def identity(self) -> Identity:
        """The keeper, below which all of the container is."""
        found = identify(self._running.pid)
        assert found is not None, "a child that was not waited for has an entry"
        return found

    def processes(self) -> list[Identity]:
        """The keeper and all below it."""
        return descendants([self.identity])

    def agents(self) -> list[Identity]:
        """All but the keeper and its supervisor."""
        own = {self.identity, kept_by(self.identity)}
        return [one for one in self.processes() if one not in own]

    def log(self) -> str:
        return self._log.read_text("utf-8", "replace")

    def supervisor(self, kind: Kind | str = "operator") -> SupervisorServiceStub:
        """Speaks to this one, whoever the registry would name."""
        return SupervisorServiceStub(self._channels.enter_context(self.channel(kind)))

    def channel(self, kind: Kind | str = "operator") -> grpc.Channel:
        """The same for whoever closes it sooner than the container ends."""
        token = StaticToken(self.plane.token(kind, town=self.town))
        return open_sync_channel(self.address, token)

    def start_when_free(self, agent: str, limit_s: float = START_S) -> set[Reason]:
        """Starts an agent here as soon as that is allowed; why it was not before."""
        refusals: set[Reason] = set()
        name = f"towns/{self.town}/agents/{agent}"
        request = supervisor_pb2.StartAgentRequest(name=name)
        stub = self.supervisor()

        def started() -> bool:
            try:
                with rpc_errors():
                    stub.StartAgent(request, timeout=CALL_S)
            except ServiceError as error:
                refusals.add(error.reason)
                return False
            return True

        wait_until_sync(started, what=f"{agent} starts", limit_s=limit_s)
        return refusals

    # disk

    def home(self, agent: str) -> Path:
        return self.root / "agents" / agent / "home"

    def diary(self, agent: str) -> Diary:
        """What an agent of `tests.support.town` has written; one that runs may not have
        opened its database yet."""
        path = self.home(agent) / DATABASE
        return read_diary(path) if path.exists() else EMPTY

    def aside(self, agent: str) -> list[Path]:
        """Databases that were set aside."""
        return sorted((self.root / "agents" / agent / "aside").glob("*"))

    @property
    def _running(self) -> subprocess.Popen[bytes]:
        assert self._process is not None, "not started"
        return self._process
