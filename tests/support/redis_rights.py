"""The users of Redis that docs/security.md describes, as a real server has them.

with ValkeyProcess(tmp_path, aclfile=acl_file(tmp_path)) as valkey:
    store = await connect(url(valkey, REGISTRY))
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from tests.support.documents import ROOT, blocks
from tests.support.redis_server import ValkeyProcess

REGISTRY: Final = "tk-registry"
SNAPSHOTS: Final = "tk-snapshots"
SECURITY: Final = ROOT / "docs" / "security.md"


def lines(note: str) -> list[str]:
    """Those of the block `acl note`, as they stand in the document."""
    [found] = [
        block.text
        for block in blocks(SECURITY)
        if (block.language, block.note) == ("acl", note)
    ]
    return found.splitlines()


def acl_file(folder: Path) -> str:
    """The users, as a file for `aclfile`; `default` may do everything beside them."""
    path = folder / "users.acl"
    path.write_text("\n".join(lines("users")) + "\n")
    return str(path)


def words(user: str) -> list[str]:
    """The rules of a user, one after the other."""
    [found] = [line for line in lines("users") if line.split()[1] == user]
    return found.split()[2:]


def login(user: str) -> str:
    """`user:password`, as a URL has it."""
    [password] = [word[1:] for word in words(user) if word.startswith(">")]
    return f"{user}:{password}"


def url(valkey: ValkeyProcess, user: str) -> str:
    return f"unix://{login(user)}@{valkey.socket}"


def allow(valkey: ValkeyProcess, note: str) -> None:
    """Adds what a set-up needs beside the base."""
    for line in lines(note):
        assert valkey.command(*line.split()).startswith(b"+OK"), line


def refusals(valkey: ValkeyProcess) -> str:
    """What the server refused since it started, by its own record; empty if nothing."""
    found = valkey.command("ACL", "LOG").decode()
    return "" if found.startswith("*0") else found


def sentinel_options() -> str:
    """The login at the Sentinels, as the options of a URL."""
    [line] = lines("sentinels")
    _, _, user, *rules = line.split()
    [password] = [word[1:] for word in rules if word.startswith(">")]
    return f"?sentinel_username={user}&sentinel_password={password}"
