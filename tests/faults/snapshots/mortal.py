"""A snapshot service that dies often, over stores that are put back as often."""

from __future__ import annotations

import shutil
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import grpc
import redis

from tests.faults.snapshots.plant import Plant
from tests.support.lives import Lives
from tests.support.redis_server import ValkeyProcess
from tests.support.snapshots_process import SnapshotsProcess
from tests.support.steps import taken
from tests.support.tokens import Tokens

PROGRAM = "tests.faults.snapshots.dying_service"
READY = "ready grpc://"
SIGKILLED = -9


class MortalSnapshots(SnapshotsProcess):
    """The process as one life after the other, cheap to start; each has another port,
    as one that was free a moment ago may be somebody's."""

    def __init__(
        self, folder: Path, redis_url: str, tokens: Tokens, lives: Lives
    ) -> None:
        super().__init__(folder, redis_url, tokens)
        self.lives = lives
        self.environ["TK_ROOT"] = str(self.blobs)
        # What it reads and notes in between would be steps as well.
        self.environ["TOWNKEEPER_SCRUB_DAYS"] = "0"

    def begin(self, **environ: str) -> bool:
        """Starts it; False if it died before it was ready."""
        self.lives.start(self.log, **{**self.environ, **environ})
        said = self.lives.line()
        if not said.startswith(READY):
            return False
        self.address = said.removeprefix(READY)
        return True

    def start(self, **environ: str) -> None:
        assert self.begin(**environ), self.log.read_text()

    def kill(self) -> None:
        self.lives.kill()

    def stop(self, limit_s: float = 15.0) -> int:
        self.lives.stop()
        assert 0 == self.lives.code, self.log.read_text()[-4000:]
        return 0


class Stage(Plant):
    """Both stores with something in them, brought back before each life."""

    process: MortalSnapshots
    # Of one life, as a multiple of one with files.
    cost = 1

    def __init__(self, folder: Path, valkey: ValkeyProcess, lives: Lives) -> None:
        super().__init__(folder, valkey)
        self.process = MortalSnapshots(folder, valkey.url, self.tokens, lives)
        self._copy = folder / "copy"
        self._redis = redis.Redis(unix_socket_path=str(valkey.socket))
        self._keys: dict[Any, Any] = {}
        self._armed = folder / "armed"
        self._swept = folder / "swept"
        self._said_before = 0

    def keep(self) -> None:
        """What there is now is what comes back."""
        shutil.rmtree(self._copy, ignore_errors=True)
        shutil.copytree(self.process.blobs, self._copy)
        self.keep_keys()

    def keep_keys(self) -> None:
        self._keys = {key: self._redis.dump(key) for key in self._redis.keys("*")}

    def put_back(self) -> None:
        shutil.rmtree(self.process.blobs)
        shutil.copytree(self._copy, self.process.blobs)
        self.put_back_keys()

    def put_back_keys(self) -> None:
        self.valkey.flush()
        for key, value in self._keys.items():
            self._redis.restore(key, 0, value)

    def expire_turns(self) -> None:
        """What a dead replica held is free, as after a minute."""
        for key in self._redis.keys("tk:snapshots:*turn"):
            self._redis.delete(key)

    def begin(self, die_at: int, **environ: str) -> bool:
        """A life that counts its steps from the start, to die at one of them."""
        self._armed.write_text("")
        self._said_before = len(self._log())
        return self.process.begin(
            TK_ARMED=str(self._armed), TK_DIE_AT=str(die_at), **environ
        )

    def start_to_sweep(self, **environ: str) -> None:
        """A life that lives, and cleans all the time."""
        self._swept.write_text("")
        self.process.start(**{**environ, "TK_SWEPT": str(self._swept)})

    @property
    def sweeps(self) -> int:
        return len(taken(self._swept))

    @property
    def steps(self) -> list[str]:
        return taken(self._armed)

    def said(self, *events: str) -> bool:
        """Whether this life has logged all of these."""
        log = self._log()[self._said_before :]
        return all(f'"{event}"' in log for event in events)

    def _log(self) -> str:
        return self.process.log.read_text() if self.process.log.exists() else ""

    def stored(self) -> dict[str, bytes]:
        """Everything in the blob store: records whole, of segments their names."""
        return {name: self._content(name) for name in self.files("")}

    def _content(self, name: str) -> bytes:
        path = self.process.blobs / name
        return b"" if "/segments/" in name else path.read_bytes()


async def die_at_each(
    stage: Stage,
    act: Callable[[Stage], Awaitable[None]],
    check: Callable[[Stage, int], Awaitable[None]],
    points: range,
    **environ: str,
) -> None:
    """Lives that die before each of these steps, each from the same stores."""
    for die_at in points:
        stage.put_back()
        if stage.begin(die_at, **environ):
            with suppress(grpc.aio.AioRpcError):
                await act(stage)
        assert SIGKILLED == stage.process.lives.ended(), f"it never came to {die_at}"
        stage.expire_turns()
        try:
            await check(stage, die_at)
        except BaseException as error:
            error.add_note(f"killed before step {die_at}: {stage.steps[-1:]}")
            raise
        finally:
            stage.process.kill()


def verbs(steps: list[str]) -> set[str]:
    """What kinds of steps there were: that the recording sees each of them."""
    return {step.split(" ")[0] for step in steps}
