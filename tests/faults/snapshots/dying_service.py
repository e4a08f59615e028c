"""The snapshot service, killing itself at one durable step: a program for tests.

Steps are commands to Redis that write, requests to S3 that do, and what changes below
the folder `TK_ROOT`, if one is named. Where it dies, see `tests/support/steps.py`.
"""

from __future__ import annotations

import faulthandler
import os
from datetime import datetime
from hashlib import sha1
from importlib import resources
from pathlib import Path
from typing import Any

from services.chassis.clock import SystemClock
from services.chassis.redis_client import SingleRedis
from services.snapshots import __main__ as service
from services.snapshots import sweep
from services.snapshots.compactor import Compactor
from services.snapshots.s3_blobs import S3Blobs
from tests.support.steps import Steps

LIFE_S_MAX = 60
# Scripts that only read.
_LOOKS = {"look", "forgotten"}
_WRITING = {"EVAL", "EVALSHA", "SADD", "SET", "ZADD", "ZREM"}


class ShiftedClock(SystemClock):
    """Starts at the moment that `TK_NOW` names."""

    def __init__(self) -> None:
        now = os.environ.get("TK_NOW")
        begun = super().now()
        self._ahead = datetime.fromisoformat(now) - begun if now else begun - begun

    def now(self) -> datetime:
        return super().now() + self._ahead


def step_through_redis(steps: Steps) -> None:
    """Both sides of each command: what it did may outlive us or not have begun."""
    folder = resources.files("services.snapshots.lua")
    names = {
        sha1(each.read_bytes(), usedforsecurity=False).hexdigest(): each.name
        for each in folder.iterdir()
        if each.name.endswith(".lua")
    }
    real = SingleRedis.execute_command

    async def execute(self: SingleRedis, *words: Any, **options: Any) -> Any:
        name = words[0]
        if name == "EVAL":
            # What is none of them asks for our rights alone.
            digest = sha1(words[1].encode(), usedforsecurity=False).hexdigest()
            name = names.get(digest, "look")
        elif name == "EVALSHA":
            name = names[words[1]]
        name = name.removesuffix(".lua")
        if name in _LOOKS or words[0] not in _WRITING:
            return await real(self, *words, **options)
        return await steps.around(f"redis {name}", real)(self, *words, **options)

    setattr(SingleRedis, "execute_command", execute)  # noqa: B010


def step_through_s3(steps: Steps) -> None:
    for name in ("create", "publish", "delete", "_replace"):
        real = getattr(S3Blobs, name)
        setattr(S3Blobs, name, steps.around(f"s3 {name.strip('_')}", real))


def sweep_all_the_time(swept: Path) -> None:
    """Everything, each time; each round is a line in the file."""
    real = sweep.Sweeper.sweep

    async def swept_once(self: sweep.Sweeper, *, full: bool = False) -> None:
        await real(self, full=full)
        with swept.open("a") as rounds:
            rounds.write("swept\n")

    sweep.Sweeper.sweep = swept_once  # type: ignore[method-assign]
    sweep.SWEEP_EVERY_S = 0.05  # type: ignore[misc]
    sweep.SWEEP_ALL_EVERY_S = 0.0  # type: ignore[misc]


def main() -> int:
    """One life of the service."""
    # One that hangs says where.
    faulthandler.dump_traceback_later(LIFE_S_MAX, exit=True)
    steps = Steps(Path(os.environ["TK_ROOT"]))
    if os.environ["TK_ROOT"]:
        steps.watch_disk()
    step_through_redis(steps)
    step_through_s3(steps)
    setattr(service, "SystemClock", ShiftedClock)  # noqa: B010
    if os.environ.get("TK_SWEPT"):
        sweep_all_the_time(Path(os.environ["TK_SWEPT"]))
    if "TK_KEEP_CHAINS" in os.environ:
        Compactor.note = lambda *_: None  # type: ignore[method-assign]
    return service.main()
