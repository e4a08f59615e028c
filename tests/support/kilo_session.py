"""A real Kilo mayor on a plane, and what its session's database says, read from
outside: SQLite in a process of its own, never in the supervisor's."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import apsw

from tests.support.plane import PlaneProcess

AGENT = "mayor"
DATABASE = ".local/share/kilo/kilo.db"


def config(model_url: str) -> str:
    """What Kilo is told: the model on loopback, nothing else, nothing asked."""
    provider = {
        "npm": "@ai-sdk/openai-compatible",
        "name": "Stand-in",
        "options": {"baseURL": model_url, "apiKey": "none"},
        "models": {
            "stand-in": {
                "name": "Stand-in",
                "tool_call": True,
                "limit": {"context": 10_000_000, "output": 100_000},
            }
        },
    }
    return json.dumps(
        {
            "model": "stand-in/stand-in",
            "small_model": "stand-in/stand-in",
            "enabled_providers": ["stand-in"],
            "provider": {"stand-in": provider},
            "permission": "allow",
            "autoupdate": False,
            "share": "disabled",
            "snapshot": False,
            "lsp": False,
            "formatter": False,
        }
    )


def start_request(town: str, model_url: str) -> dict[str, Any]:
    """How a town's mayor is started on Kilo, as HTTP wants it."""
    return {
        "agentId": AGENT,
        "rigId": f"mayor-{town}",
        "townId": town,
        "role": "mayor",
        "name": "Mayor",
        "identity": "mayor",
        "prompt": "",
        "model": "stand-in/stand-in",
        "gitUrl": "",
        "branch": "",
        "defaultBranch": "main",
        "lightweight": True,
        "envVars": {"KILO_CONFIG_CONTENT": config(model_url)},
    }


def start_mayor(plane: PlaneProcess, model_url: str) -> None:
    """Starts the town's mayor on Kilo; returns when it is ready."""
    route = f"/api/towns/{plane.town}/container/agents/start"
    body = start_request(plane.town, model_url)
    reply = plane.http("user").post(route, json=body, timeout=150.0)
    assert 201 == reply.status_code, reply.text


def database(plane: PlaneProcess) -> Path:
    """The mayor's live database."""
    return plane.data.container / f"agents/{AGENT}/home/{DATABASE}"


@dataclass(frozen=True, slots=True)
class Session:
    """Messages by id, each with its data and its parts, as stored."""

    messages: dict[str, tuple[str, tuple[str, ...]]]

    @property
    def texts(self) -> list[str]:
        """What the user said, message by message, in order."""
        return [
            "".join(json.loads(part).get("text", "") for part in parts)
            for _, (data, parts) in sorted(self.messages.items())
            if json.loads(data)["role"] == "user"
        ]

    @property
    def finished(self) -> set[str]:
        """Messages that will not change any more."""
        return {
            key
            for key, (data, _) in self.messages.items()
            if json.loads(data)["role"] == "assistant"
            and json.loads(data).get("time", {}).get("completed")
        }


def read_session(path: Path) -> Session:
    """All messages of a database, through a read-only connection."""
    flags = apsw.SQLITE_OPEN_READONLY | apsw.SQLITE_OPEN_NOFOLLOW
    connection = apsw.Connection(str(path), flags=flags)
    try:
        connection.set_busy_timeout(5000)
        connection.execute("begin")
        parts: dict[str, list[str]] = {}
        for message, data in connection.execute(
            "select message_id, data from part order by id"
        ):
            parts.setdefault(str(message), []).append(str(data))
        messages = {
            str(key): (str(data), tuple(parts.get(str(key), ())))
            for key, data in connection.execute("select id, data from message")
        }
        return Session(messages)
    finally:
        connection.close()


def check_integrity(path: Path) -> str:
    """What SQLite's own full check says of a file that nobody writes."""
    connection = apsw.Connection(str(path))
    try:
        return str(connection.pragma("integrity_check"))
    finally:
        connection.close()
