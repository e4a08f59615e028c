"""Programs to supervise: each misbehaves in its own way. All end by themselves."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from services.cli.identity import Identity, descendants
from tests.support.waiting import wait_until_sync

LIFE_S = 60
# How a keeper runs its supervisor, after the interpreter.
SUPERVISOR = ["-P", "-m", "services.supervisor"]

# A tree that sheds its marks: what a shell, a daemon or a test runner would leave.
CHILD = f"sleep {LIFE_S} & wait"
OWN_SESSION = f"setsid sleep {LIFE_S} & wait"
DAEMON = f"(setsid sleep {LIFE_S} >/dev/null 2>&1 &) ; sleep {LIFE_S}"
UNMARKED = f"env -i setsid sleep {LIFE_S} & wait"
DEAF = f"trap '' TERM; while :; do sleep {LIFE_S}; done"
# Each link starts the next and ends: there is never a parent to follow.
RUNAWAY = (
    "import os,sys,time\n"
    f"end = time.monotonic() + {LIFE_S}\n"
    "while time.monotonic() < end:\n"
    "    if os.fork(): os._exit(0)\n"
    "    os.setsid()\n"
)

# An agent of the exec runtime: keeps what it was told in its database.
AGENT = """
import json, os, sqlite3, sys, time
database = sqlite3.connect(os.environ["TOWNKEEPER_DATABASE"])
database.execute("create table if not exists heard (id primary key, text)")
print("hello", flush=True)
for line in sys.stdin:
    message = json.loads(line)
    text = message["text"]
    with database:
        database.execute("insert or ignore into heard values (?, ?)",
                         (message["id"], text))
    print("heard " + text, flush=True)
    if text == "crash":
        os._exit(3)
    if text == "leave":
        break
    if text == "flood":
        for _ in range(5000):
            sys.stdout.write("x" * 999 + chr(10))
        sys.stdout.flush()
    if text == "environment":
        print(json.dumps({"event": "environment", "all": dict(os.environ)}), flush=True)
    if text == "hang":
        time.sleep(60)
    print(json.dumps({"event": "message.done", "id": message["id"]}), flush=True)
"""


def shell(script: str) -> tuple[str, ...]:
    """A command that runs a shell script."""
    return ("/bin/sh", "-c", script)


def python(script: str, *arguments: str) -> tuple[str, ...]:
    """A command that runs Python; it knows nothing of our packages."""
    return (sys.executable, "-I", "-c", script, *arguments)


def kept_by(keeper: Identity) -> Identity:
    """The supervisor that a keeper has now; waits while it has none."""

    def supervisors() -> list[Identity]:
        return [one for one in descendants([keeper]) if _command(one) == SUPERVISOR]

    wait_until_sync(supervisors, what="the keeper starts its supervisor", limit_s=30)
    return supervisors()[0]


def _command(process: Identity) -> list[str]:
    try:
        raw = Path(f"/proc/{process.pid}/cmdline").read_bytes()
    except OSError:
        return []
    return raw.decode(errors="replace").split("\0")[1:-1]


def marked(run: str) -> list[int]:
    """The pids that carry a run's mark, zombies left out: found independently of the
    code under test."""
    wanted, found = f"TOWNKEEPER_RUN={run}".encode(), []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                if wanted in (entry / "environ").read_bytes().split(b"\0"):
                    found.append(int(entry.name))
            except OSError:
                continue
    return found
