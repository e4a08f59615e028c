"""A whole plane in one data directory: taken, run, given back; for `up` and `demo`."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import sys
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Final

from services.cli import embedded_valkey
from services.cli.layout import DataDir, Endpoints, Marking
from services.cli.ownership import Lock, Record
from services.cli.plane import Plane
from services.cli.problems import Problem
from services.cli.programs import TOKEN_TTL_S, Addresses, make_programs
from services.cli.settings import embedded_settings

Notice = Callable[[str], None]

_WATCHER_END_S: Final = 5.0


@dataclass(frozen=True, slots=True)
class Embedded:
    """A plane that serves, and where."""

    data: DataDir
    plane: Plane
    endpoints: Endpoints


@contextlib.asynccontextmanager
async def running(
    data: DataDir, marking: Marking, addresses: Addresses, notice: Notice
) -> AsyncIterator[Embedded]:
    """Serves inside the block; ends all in order when it is left, however it is."""
    async with contextlib.AsyncExitStack() as stack:
        lock = Lock(data)
        stack.callback(lock.release)
        ports = stack.enter_context(contextlib.ExitStack())
        reserved = await _claim(data, marking, addresses, lock, ports, notice)
        mark = secrets.token_hex(16)
        record = lock.new_record(mark)
        await stack.enter_async_context(_watched(data, lock))
        stack.callback(embedded_valkey.remove_socket_folder, data)
        plane = _make_plane(data, marking, reserved, record, notice)
        # Left by an exception as well: what was started is always stopped.
        stack.push_async_callback(plane.stop)
        stack.callback(data.withdraw)
        endpoints = reserved.endpoints(marking.town)
        await plane.start()
        data.publish(endpoints)
        yield Embedded(data, plane, endpoints)


async def _claim(
    data: DataDir,
    marking: Marking,
    addresses: Addresses,
    lock: Lock,
    ports: contextlib.ExitStack,
    notice: Notice,
) -> Addresses:
    """Everything that can be refused is, before anything is changed."""
    data.check_usable()
    data.check_marking(marking)
    try:
        if data.plane.is_dir():
            await lock.take(notice)
            await asyncio.to_thread(_end_leftovers, data, notice)
        reserved = addresses.reserved(ports)
        if not lock.held:
            data.plane.mkdir(mode=0o700, parents=True, exist_ok=True)
            await lock.take(notice)
            data.check_marking(marking)
        data.create(marking)
    except OSError as error:
        raise Problem(
            f"cannot use {data.root} as data directory ({error.strerror or error}): "
            "choose another --data-dir"
        ) from error
    return reserved


def _end_leftovers(data: DataDir, notice: Notice) -> None:
    record = Record.read(data)
    if record is not None and (ended := record.end_all()):
        notice(f"ended what an earlier `up` left: {', '.join(ended)}")


def _make_plane(
    data: DataDir,
    marking: Marking,
    addresses: Addresses,
    record: Record,
    notice: Notice,
) -> Plane:
    # Here and not at the top: the other commands start faster without.
    from services.chassis.access import ANY_TOWN, Kind
    from services.chassis.keys import KeyRing, KeysError
    from services.chassis.sealing import SealingKeys

    try:
        KeyRing.create(data.keys)
        SealingKeys.create(data.keys)
    except KeysError as error:
        raise Problem(str(error)) from error

    def token(kind: Kind, town: str) -> str:
        # Read anew at each start of a service: keys may have been rotated.
        return KeyRing.load(data.keys).mint(kind, town=town, ttl_s=TOKEN_TTL_S)

    settings = embedded_settings(os.environ)
    programs = make_programs(
        data,
        addresses,
        marking,
        record.mark,
        lambda: token(Kind.CONTAINER, marking.town),
        lambda: token(Kind.SERVICE, ANY_TOWN),
        settings.exec_programs,
    )
    return Plane(programs, record, notice)


@contextlib.asynccontextmanager
async def _watched(data: DataDir, lock: Lock) -> AsyncIterator[None]:
    """A watcher ends the children if this process is killed; see watcher.py."""
    read_end, write_end = os.pipe()
    try:
        watcher = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-P", "-m", "services.cli.watcher", str(data.root)),
            stdin=read_end,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
            pass_fds=[lock.descriptor],
            start_new_session=True,
        )
    finally:
        os.close(read_end)
    try:
        yield
    finally:
        os.close(write_end)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_WATCHER_END_S):
                await watcher.wait()
