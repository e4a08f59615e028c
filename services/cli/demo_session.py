"""What a Kilo session holds, read from an exported file, and how two of them differ."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class Stored:
    """One session: its messages with their parts, in order."""

    session_id: str
    messages: tuple[Mapping[str, Any], ...]

    @property
    def prompts(self) -> list[str]:
        """What the user has said, oldest first."""
        return [_text(one) for one in self.messages if one["role"] == "user"]

    @property
    def tool_calls(self) -> int:
        return sum(
            part.get("type") == "tool" for one in self.messages for part in one["parts"]
        )


def read(file: Path, session_id: str) -> Stored:
    """The session in a Kilo database. The file is opened for reading only."""
    with closing(sqlite3.connect(f"file:{file}?mode=ro&immutable=1", uri=True)) as base:
        parts: dict[str, list[Any]] = {}
        rows = base.execute(
            "select message_id, data from part where session_id = ? order by id",
            (session_id,),
        )
        for message_id, data in rows:
            parts.setdefault(message_id, []).append(json.loads(data))
        rows = base.execute(
            "select id, data from message where session_id = ? order by id",
            (session_id,),
        )
        messages = tuple(
            {"id": key, **json.loads(data), "parts": parts.get(key, [])}
            for key, data in rows
        )
    return Stored(session_id, messages)


def differences(before: Stored, after: Stored) -> list[str]:
    """What is not as it was, in words; nothing when every message is equal."""
    found = []
    if before.session_id != after.session_id:
        found.append(f"session {after.session_id} is not {before.session_id}")
    now = {one["id"]: one for one in after.messages}
    for one in before.messages:
        if one["id"] not in now:
            found.append(f"message {one['id']} ({one['role']}) is missing")
        elif one != now[one["id"]]:
            keys = [key for key in one if one[key] != now[one["id"]].get(key)]
            found.append(f"message {one['id']} differs in {', '.join(keys)}")
    known = {one["id"] for one in before.messages}
    found += [f"message {key} was not there before" for key in now if key not in known]
    return found


def _text(message: Mapping[str, Any]) -> str:
    return "\n".join(
        str(part.get("text", ""))
        for part in message["parts"]
        if part.get("type") == "text" and not part.get("synthetic")
    )
