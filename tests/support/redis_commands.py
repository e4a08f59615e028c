"""What a Valkey is asked meanwhile, inside scripts as well, and how much it answers.

with Commands(valkey) as seen:
    ...
seen.scans            # {"KEYS": 1}
seen.whole_reads      # keys that were read from end to end, the largest first
seen.reply_bytes_max  # the largest answer of a script
"""

from __future__ import annotations

import re
import socket
from collections import Counter
from dataclasses import dataclass
from threading import Thread
from types import TracebackType
from typing import Any, Final, Self

import redis

from tests.support.redis_server import ValkeyProcess

_LINE: Final = re.compile(rb'^\+[\d.]+ \[[^\]]*\] "(\w+)"(?: "([^"]*)")?')
# Through the keyspace, or step by step through one key.
_SCANS: Final = frozenset({"KEYS", "SCAN", "RANDOMKEY", "HSCAN", "SSCAN", "ZSCAN"})
_WHOLE: Final = frozenset({"HGETALL", "HKEYS", "HVALS", "LRANGE", "SMEMBERS", "SORT"})
_RANGES: Final = ("ZRANGE", "ZREVRANGE")
_SIZES: Final = {"hash": "HLEN", "list": "LLEN", "set": "SCARD", "zset": "ZCARD"}
_END: Final = "that was all"
_LIMIT_S: Final = 30.0
_REPLIES_MAX: Final = 100_000


@dataclass(frozen=True, slots=True)
class WholeRead:
    """A key that was read without a limit, and how much it holds now."""

    command: str
    key: str
    times: int
    entries: int


class Commands:
    """Listens while the block runs, which makes Valkey slower: time nothing in it."""

    def __init__(self, valkey: ValkeyProcess) -> None:
        self.scans: dict[str, int] = {}
        self.whole_reads: list[WholeRead] = []
        self.reply_bytes_max = 0
        self._counts = Counter[str]()
        self._read = Counter[tuple[str, str]]()
        self._path = str(valkey.socket)

    def __enter__(self) -> Self:
        self._client: Any = redis.Redis(unix_socket_path=self._path)
        length = ("commandlog-large-reply-max-len", _REPLIES_MAX)
        self._client.config_set("commandlog-reply-larger-than", 0, *length)
        self._client.execute_command("COMMANDLOG RESET", "large-reply")
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.settimeout(_LIMIT_S)
        self._listener.connect(self._path)
        self._lines = self._listener.makefile("rb")
        self._listener.sendall(b"MONITOR\r\n")
        assert b"+OK\r\n" == self._lines.readline()
        self._thread = Thread(target=self._listen, name="monitor")
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._client.echo(_END)
        self._thread.join(_LIMIT_S)
        self._lines.close()
        self._listener.close()
        replies = self._client.execute_command("COMMANDLOG GET", -1, "large-reply")
        self._client.config_set("commandlog-reply-larger-than", -1)
        sizes = [size for _, _, size, words, *_ in replies if words[0][:4] == b"EVAL"]
        self.reply_bytes_max = max(sizes, default=0)
        self.scans = {one: self._counts[one] for one in _SCANS if self._counts[one]}
        found = [
            WholeRead(command, key, times, self._entries(key))
            for (command, key), times in self._read.items()
        ]
        self.whole_reads = sorted(found, key=lambda one: -one.entries)
        self._client.close()

    def _entries(self, key: str) -> int:
        size = _SIZES.get(self._client.type(key).decode())
        return int(self._client.execute_command(size, key)) if size else 0

    def _listen(self) -> None:
        for line in self._lines:
            if _END.encode() in line:
                return
            if (found := _LINE.match(line)) is None:
                continue
            name = found[1].decode().upper()
            self._counts[name] += 1
            limited = not name.startswith(_RANGES) or b'"LIMIT"' in line.upper()
            if name in _WHOLE or not limited:
                self._read[name, (found[2] or b"").decode()] += 1
