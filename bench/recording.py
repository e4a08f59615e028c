"""Real Kilo at work, recorded: what its database came to each second and at each
turn's end, as the pages that differ from the state before.

Recorded once into a local file and replayed from there. Litestream replicates the same
database meanwhile, so both are measured on the same writes.
"""

from __future__ import annotations

import asyncio
import os
import random
import sqlite3
from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

import apsw

from bench.litestream import SNAPSHOT_LEVEL, Litestream
from bench.prose import Prose
from services.cli.runtimes import install_kilo
from services.cli.stand_in_model import StandInModel
from services.cli.stand_in_script import Call, Reply
from services.supervisor.runtime import Handle, Message
from tests.support.kilo import KiloTown
from tests.support.waiting import wait_until

TURN_S: Final = 300.0
SECOND_S: Final = 1.0
STOP_S: Final = 5.0
COMPACTION_S: Final = 120.0
PROMPT_LENGTHS: Final = (60, 700)
ANSWER_LENGTHS: Final = (200, 4_000)
CODE_LENGTHS: Final = (300, 3_000)
TOOLS_MAX: Final = 3

_SCHEMA: Final = """
create table state (id integer primary key, turn_end, page_size, page_count);
create table page (state, number, data);
create table litestream (level, size_bytes);
"""


@dataclass(frozen=True, slots=True)
class State:
    """One moment of a session."""

    turn_end: bool
    page_size: int
    page_count: int
    changed: dict[int, bytes]  # by page number, in order


class Image:
    """The database at one moment after another."""

    def __init__(self) -> None:
        self._data = bytearray()

    def apply(self, state: State) -> None:
        """It is now what it was at that moment; moments come in order."""
        size = state.page_size
        end = state.page_count * size
        self._data = self._data.ljust(end, b"\0")
        del self._data[end:]
        for number, data in state.changed.items():
            self._data[(number - 1) * size : number * size] = data

    def put(self, path: Path) -> None:
        """In one step: nobody sees half of it."""
        beside = path.with_name("prepared.db")
        beside.write_bytes(self._data)
        os.replace(beside, path)


@dataclass(frozen=True, slots=True)
class Recording:
    """A file with one session."""

    path: Path

    def states(self) -> Iterator[State]:
        """In order; the first has all its pages."""
        with closing(sqlite3.connect(self.path)) as database:
            moments = database.execute("select * from state order by id").fetchall()
            for number, turn_end, page_size, page_count in moments:
                pages = database.execute(
                    "select number, data from page where state = ? order by number",
                    (number,),
                )
                yield State(bool(turn_end), page_size, page_count, dict(pages))

    def litestream_bytes(self) -> tuple[int, int]:
        """What Litestream stored of it: level 0, all that came, and the others, which
        are what it keeps."""
        with closing(sqlite3.connect(self.path)) as database:
            sizes = dict(database.execute("select level, size_bytes from litestream"))
        return sizes[0], sum(sizes.values()) - sizes[0]


def record(path: Path, scratch: Path, program: str, turns: int, seed: int) -> Recording:
    """A session of so many turns, unless it is there already."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        beside = path.with_name(f"{path.name}.new")
        beside.unlink(missing_ok=True)
        with closing(blank(beside)) as target:
            asyncio.run(_record(target, scratch, program, turns, seed))
            target.commit()
        beside.rename(path)
    return Recording(path)


async def _record(
    target: sqlite3.Connection, scratch: Path, program: str, turns: int, seed: int
) -> None:
    script = _Script(seed)
    with StandInModel(answer=script.answer) as model:
        town = KiloTown(scratch / "town", model.url, install_kilo())
        handle = await town.start()
        peer = Litestream(program, scratch / "litestream", town.database)
        try:
            with peer.replicating():
                await _converse(target, town, handle, peer, script, turns)
                await wait_until(
                    lambda: peer.caught_up(1),
                    what="Litestream has compacted all",
                    limit_s=COMPACTION_S,
                )
        finally:
            await handle.stop(grace_s=STOP_S)
    levels = (0, 1, 2, 3, SNAPSHOT_LEVEL)
    sizes = [(level, peer.size_bytes(level)) for level in levels]
    target.executemany("insert into litestream values (?, ?)", sizes)


async def _converse(
    target: sqlite3.Connection,
    town: KiloTown,
    handle: Handle,
    peer: Litestream,
    script: _Script,
    turns: int,
) -> None:
    camera = Camera(town.database, target)

    async def each_second() -> None:
        while True:
            await asyncio.sleep(SECOND_S)
            camera.take(turn_end=False)

    seconds = asyncio.create_task(each_second())
    try:
        for turn in range(1, turns + 1):
            key = f"turn-{turn}"
            await handle.deliver(Message(key, script.prompt()))
            ended = partial(town.closed, key)
            await wait_until(ended, what=f"{key} ends", limit_s=TURN_S)
            camera.take(turn_end=True)
            # Litestream looks each second too; as we do, it saves a turn's end at once.
            await asyncio.to_thread(peer.sync)
    finally:
        seconds.cancel()
        with suppress(asyncio.CancelledError):
            await seconds
        camera.close()


class _Script:
    """What user and model say and do: natural text, another with each seed."""

    def __init__(self, seed: int) -> None:
        self._chance = random.Random(seed)
        self._prose = Prose(seed)
        self._plans: dict[int, list[Reply]] = {}

    def prompt(self) -> str:
        return self._prose.text(self._chance.randint(*PROMPT_LENGTHS))

    def answer(self, call: Call) -> Reply:
        """Some tools, then words. Asked again, it says the same again."""
        if call.title or not call.prompts:
            return Reply(text="About the standard library")
        plan = self._plans.setdefault(len(call.prompts), [])
        while len(plan) <= len(call.tool_results):
            plan.append(self._next(len(plan)))
        return plan[len(call.tool_results)]

    def _next(self, tools: int) -> Reply:
        if tools >= self._chance.randint(0, TOOLS_MAX):
            return Reply(text=self._prose.text(self._chance.randint(*ANSWER_LENGTHS)))
        if self._chance.random() < 0.7:
            what = {"command": self._prose.listing(), "description": "Reads a module"}
            return Reply(tool="bash", arguments=what)
        code = self._prose.code(self._chance.randint(*CODE_LENGTHS))
        name = f"draft-{self._chance.randrange(1 << 32):08x}.py"
        return Reply(tool="write", arguments={"filePath": name, "content": code})


def blank(path: Path) -> sqlite3.Connection:
    """A file to record into."""
    target = sqlite3.connect(path)
    target.executescript(_SCHEMA)
    return target


class Camera:
    """Writes down what has changed. Through apsw, as all that opens this database."""

    def __init__(self, database: Path, target: sqlite3.Connection) -> None:
        self._connection = apsw.Connection(
            str(database), flags=apsw.SQLITE_OPEN_READONLY
        )
        self._connection.set_busy_timeout(5_000)
        self._target = target
        self._last = b""
        self._count = 0

    def take(self, *, turn_end: bool) -> None:
        image = self._connection.serialize("main")
        if image == self._last:
            if turn_end:  # the look of this second came first
                query = "update state set turn_end = true where id = ?"
                self._target.execute(query, (self._count,))
            return
        size = int.from_bytes(image[16:18], "big")
        size = 1 << 16 if size == 1 else size
        self._count += 1
        row = self._count, turn_end, size, len(image) // size
        self._target.execute("insert into state values (?, ?, ?, ?)", row)
        for at in range(0, len(image), size):
            page = image[at : at + size]
            if page != self._last[at : at + size]:
                row_of_page = self._count, at // size + 1, page
                self._target.execute("insert into page values (?, ?, ?)", row_of_page)
        self._last = image

    def close(self) -> None:
        self._connection.close()
