"""The ledger of uploads in Redis: two keys an upload, which expire by themselves.

Keys, for town `t` and upload `u`, after `tk:snapshots:{t}:`
  upload:u   hash     agent, body, folder, size, touched, and `part:start` → name
  hold:u     string   which stream has it

Nothing here is promised to last: what the ledger lost, clients send again.
"""

from __future__ import annotations

import uuid
from datetime import timedelta
from typing import Any, Final

from services.chassis.clock import Clock
from services.chassis.names import AgentName
from services.chassis.redis_pool import Script, Store, store_errors
from services.snapshots import records
from services.snapshots.shared_staging import HOLD_S, Hold
from services.snapshots.staging import PAUSED_FOR, PausedUpload, busy
from services.snapshots.upload import Header, check_reuse

_LUA: Final = "services.snapshots.lua"
_PART: Final = b"part:"


class RedisUploads:
    """An UploadLedger."""

    def __init__(
        self,
        redis: Store,
        clock: Clock,
        *,
        hold_s: float = HOLD_S,
        paused_for: timedelta = PAUSED_FOR,
    ) -> None:
        self._redis = redis
        self._clock = clock
        self._hold_ms = round(hold_s * 1000)
        self._keep_ms = round(paused_for.total_seconds() * 1000)
        self._paused_for = paused_for
        self._open = Script.read(_LUA, "upload_open.lua")
        self._note = Script.read(_LUA, "upload_note.lua")
        self._close = Script.read(_LUA, "upload_close.lua")
        self._abort = Script.read(_LUA, "upload_abort.lua")

    async def open(self, header: Header) -> Hold:
        agent = header.agent
        hold = Hold(agent, header.upload_id, uuid.uuid4().hex, uuid.uuid4().hex)
        answer = await self._open.run(
            self._redis,
            _keys(agent.town, header.upload_id),
            [
                agent.agent,
                header.body,
                hold.holder,
                hold.folder,
                self._now_us(),
                self._hold_ms,
                self._keep_ms,
            ],
        )
        match answer:
            case [b"reused", found, body]:
                check_reuse(header, found.decode(), body.decode())
            case [b"open", *found]:
                fields = dict(zip(found[::2], found[1::2], strict=True))
                hold.folder = fields[b"folder"].decode()
                hold.parts = _parts(fields)
                return hold
        raise busy(header.upload_id)

    async def note(self, hold: Hold, part: str = "", size_bytes: int = 0) -> bool:
        answer = await self._note.run(
            self._redis,
            _keys(hold.agent.town, hold.upload_id),
            [
                hold.holder,
                part,
                size_bytes,
                self._now_us(),
                self._hold_ms,
                self._keep_ms,
            ],
        )
        return bool(answer == b"done")

    async def close(self, hold: Hold, *, discarded: bool) -> bool:
        answer = await self._close.run(
            self._redis,
            _keys(hold.agent.town, hold.upload_id),
            [hold.holder, int(discarded), self._now_us(), self._keep_ms],
        )
        return bool(answer == b"done")

    async def find(self, agent: AgentName, upload_id: str) -> PausedUpload | None:
        fields = ["agent", "size", "touched"]
        [key, _] = _keys(agent.town, upload_id)
        with store_errors():
            found: Any = await self._redis.hmget(key, fields)
        owner, size, touched_us = found
        if owner != agent.agent.encode():
            return None
        touched = records.from_microseconds(int(touched_us))
        return PausedUpload(agent, upload_id, int(size), touched + self._paused_for)

    async def abort(self, agent: AgentName, upload_id: str) -> str:
        keys = _keys(agent.town, upload_id)
        answer = await self._abort.run(self._redis, keys, [agent.agent])
        match answer:
            case [b"gone", folder]:
                return str(folder, "utf-8")
            case [b"busy"]:
                raise busy(upload_id)
        return ""

    async def folder(self, town: str, upload_id: str) -> str:
        [key, _] = _keys(town, upload_id)
        with store_errors():
            found: Any = await self._redis.hget(key, "folder")
        return str(found, "utf-8") if found else ""

    def _now_us(self) -> int:
        return records.microseconds(self._clock.now())


def _keys(town: str, upload_id: str) -> list[str]:
    prefix = f"tk:snapshots:{{{town}}}"
    return [f"{prefix}:upload:{upload_id}", f"{prefix}:hold:{upload_id}"]


def _parts(fields: dict[bytes, Any]) -> list[str]:
    """Names of parts, in the order of their bytes."""
    found = {
        int(field.removeprefix(_PART)): name.decode()
        for field, name in fields.items()
        if field.startswith(_PART)
    }
    return [found[start] for start in sorted(found)]
