"""The Kilo runtime: starts one server for one agent and finds its session."""

from __future__ import annotations

import asyncio
import re
import secrets
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from services.chassis.errors import Reason, ServiceError
from services.supervisor import spawn
from services.supervisor.child import Child
from services.supervisor.kilo.api import KiloApi
from services.supervisor.kilo.database import move_session
from services.supervisor.kilo.env import (
    kilo_config,
    kilo_environment,
    private_folders,
)
from services.supervisor.kilo.handle import KiloHandle
from services.supervisor.kilo.memo import Memo, password_of
from services.supervisor.kilo.version import find_version
from services.supervisor.meter import Meter
from services.supervisor.paths import beneath, empty_folder
from services.supervisor.runtime import (
    EventSink,
    Handle,
    Kept,
    Launch,
    OutputSink,
    Stream,
)

START_S = 120.0  # 5 s alone; many at once on a small machine take their turns
ADOPT_S = 30.0  # it runs already, though it may be busy
PROBE_PAUSE_S = 0.1
DATABASE = ".local/share/kilo/kilo.db"
SEEN_BYTES_MAX = 32 * 1024
WORDS_LENGTH_MAX = 600

_LISTENING = re.compile(rb"listening on http://[\d.]+:(\d+)")
_T = TypeVar("_T")


class KiloRuntime:
    """`find` gives the executable at each start, or raises RUNTIME_MISSING."""

    name = "kilo"

    def __init__(self, find: Callable[[], Path]) -> None:
        self._find = find
        self._versions: dict[tuple[Path, int], str] = {}

    async def version(self, launch: Launch) -> str:
        """Found out once for each file that the executable ever was."""
        program = self._find()
        key = (program.resolve(), program.stat().st_mtime_ns)
        if key not in self._versions:
            self._versions[key] = await find_version(program)
        return self._versions[key]

    def database_path(self, launch: Launch) -> Path:
        return beneath(launch.home, DATABASE, "database")

    async def start(
        self, launch: Launch, on_event: EventSink, on_output: OutputSink
    ) -> Handle:
        program = self._find()
        database = self.database_path(launch)
        await asyncio.to_thread(_prepare, launch, database)
        start = _Start(launch, database, on_event, Meter(on_output))
        return await start.to_its_end(start.fork(program), START_S)

    async def adopt(
        self, launch: Launch, kept: Kept, on_event: EventSink, on_output: OutputSink
    ) -> Handle:
        memo = Memo.load(kept.handover)
        password = password_of(kept.process.pid)
        if memo is None or password is None:
            raise ServiceError(
                Reason.START_FAILED,
                f"cannot adopt kilo (process {kept.process.pid}): it is not known where"
                " it listens",
            )
        database, meter = self.database_path(launch), Meter(on_output)
        start = _Start(launch, database, on_event, meter, _Known(memo, kept, password))
        return await start.to_its_end(start.adopt(kept), ADOPT_S)


@dataclass(frozen=True, slots=True)
class _Known:
    """Of a server that runs already."""

    memo: Memo
    kept: Kept
    password: str


class _Start:
    """One start, from the fork to a handle that is ready; or the same of a server that
    is known and runs already."""

    def __init__(
        self,
        launch: Launch,
        database: Path,
        on_event: EventSink,
        meter: Meter,
        known: _Known | None = None,
    ) -> None:
        self._launch = launch
        self._database = database
        self._on_event = on_event
        self._meter = meter
        self._config = kilo_config(launch.spec)
        self._known = known
        self._password = known.password if known else secrets.token_urlsafe(24)
        self._seen = bytearray()
        self._port: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._api: KiloApi | None = None
        self._handle: KiloHandle | None = None
        if known:
            self._port.set_result(known.memo.port)

    async def to_its_end(self, child: Child, limit_s: float) -> KiloHandle:
        """The handle; or nothing is left of the server."""
        try:
            async with asyncio.timeout(limit_s):
                return await self.ready(child)
        except BaseException as error:
            await asyncio.shield(child.terminate(grace_s=0))
            await self.close()
            if isinstance(error, TimeoutError | ServiceError):
                raise self.failure(error, limit_s) from error
            raise

    def adopt(self, kept: Kept) -> Child:
        run = self._launch.run
        return spawn.adopt(kept.process, run, kept.handover, self._on_chunk)

    def fork(self, program: Path) -> Child:
        launch = self._launch
        command = spawn.Command(
            argv=(str(program), "serve", "--hostname", "127.0.0.1", "--port", "0"),
            cwd=launch.workdir,
            environ=kilo_environment(launch, self._config, self._password),
            run=launch.run,
            pipes=launch.handover,
        )
        return spawn.start(command, self._on_chunk)

    async def ready(self, child: Child) -> KiloHandle:
        """Port, a real answer, a session, events: in this order."""
        port = await _unless_ended(child, self._port)
        self._api = KiloApi(port, self._password)
        await _unless_ended(child, _answering(self._api))
        session_id, resumed = await self._session(self._api)
        self._handle = KiloHandle(
            self._launch,
            child,
            self._api,
            port=port,
            session_id=session_id,
            resumed=resumed,
            database=self._database,
            config=self._config,
            on_event=self._on_event,
            on_end=self._meter.end,
            sent=self._known.memo.sent if self._known else ("", ""),
        )
        adopted = self._known is not None
        await _unless_ended(child, self._handle.connected(adopted=adopted))
        return self._handle

    async def _session(self, api: KiloApi) -> tuple[str, bool]:
        if self._known is None:
            return await _session(api, self._launch)
        found = self._known.memo.session_id
        if not await api.session_exists(found):
            text = f"cannot adopt kilo, it has no session {found}"
            raise ServiceError(Reason.START_FAILED, text)
        return found, self._known.kept.resumed

    async def close(self) -> None:
        """Closes what a start that failed had opened; its process is gone."""
        if self._handle is not None:
            await self._handle.wait()
        elif self._api is not None:
            await self._api.close()

    def failure(
        self, error: TimeoutError | ServiceError, limit_s: float
    ) -> ServiceError:
        what = f"it was not ready in {limit_s:.0f} s"
        if isinstance(error, ServiceError):
            what = error.message
        said = bytes(self._seen).decode(errors="replace").strip()
        # Its stack is printed after the reason; a limit would keep only the stack.
        reasons = [
            line.strip() for line in said.splitlines() if "error" in line.lower()
        ]
        words = (" / ".join(reasons) or said)[:WORDS_LENGTH_MAX] or "nothing"
        text = f"cannot start kilo: {what}; it said: {words}"
        return ServiceError(Reason.START_FAILED, text)

    def _on_chunk(self, stream: Stream, data: bytes) -> None:
        self._meter.pass_on(stream, data)
        if self._port.done():
            return
        self._seen += data
        if found := _LISTENING.search(self._seen):
            self._port.set_result(int(found[1]))
        del self._seen[:-SEEN_BYTES_MAX]


def _prepare(launch: Launch, database: Path) -> None:
    for path in private_folders(launch).values():
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    empty_folder(launch.tmpdir)  # each start drops a library of 5 MB in it
    if launch.resume_session and database.exists():
        move_session(database, launch.resume_session, launch.workdir.resolve())


async def _answering(api: KiloApi) -> None:
    attempt = 0
    while not await api.probe(attempt):
        attempt += 1
        await asyncio.sleep(PROBE_PAUSE_S)


async def _session(api: KiloApi, launch: Launch) -> tuple[str, bool]:
    wanted = launch.resume_session
    if wanted and await api.session_exists(wanted):
        return wanted, True
    return await api.create_session(launch.spec.name or launch.agent), False


async def _unless_ended(child: Child, wanted: Awaitable[_T]) -> _T:
    """Waits for something, or fails as soon as the process ends."""
    waiting = asyncio.ensure_future(wanted)
    ended = asyncio.ensure_future(child.ended())
    try:
        await asyncio.wait({waiting, ended}, return_when=asyncio.FIRST_COMPLETED)
        if waiting.done():
            return waiting.result()
        raise ServiceError(Reason.START_FAILED, "its process ended at once")
    finally:
        waiting.cancel()
        ended.cancel()
