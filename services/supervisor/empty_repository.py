"""An empty git repository whose only commit is always the same.

The root commit's hash is the runtime's project id: with a constant one a restored
session finds its project again. Written without git, so no version, template or
configuration of git's can change a byte of it.
"""

from __future__ import annotations

import hashlib
import os
import zlib
from pathlib import Path
from typing import Final

BRANCH: Final = "main"
EMPTY_TREE: Final = "4b825dc642cb6eb9a060e54bf8d69288fbee4904"
# Who makes commits that are nobody's.
AUTHOR: Final = "Townkeeper"
EMAIL: Final = "townkeeper@townkeeper.local"
_WHO: Final = f"{AUTHOR} <{EMAIL}> 1735689600 +0000"  # 2025-01-01
_COMMIT: Final = (
    f"tree {EMPTY_TREE}\nauthor {_WHO}\ncommitter {_WHO}\n\nEmpty workspace\n"
)
_CONFIG: Final = (
    "[core]\n\trepositoryformatversion = 0\n\tfilemode = true\n\tbare = false\n"
    "\tlogallrefupdates = true\n"
)


def make_empty_repository(folder: Path) -> str:
    """Makes `folder` a repository if it is none yet; gives the root commit's hash.

    HEAD is written last: a repository that was cut short is made again.
    """
    git = folder / ".git"
    root = _object_id(b"commit", _COMMIT.encode())
    if (git / "HEAD").exists():
        return root
    for name in ("objects/info", "objects/pack", "refs/heads", "refs/tags", "info"):
        (git / name).mkdir(parents=True, exist_ok=True)
    _write_object(git, b"tree", b"")
    _write_object(git, b"commit", _COMMIT.encode())
    (git / "config").write_text(_CONFIG)
    (git / f"refs/heads/{BRANCH}").write_text(f"{root}\n")
    (git / "HEAD").write_text(f"ref: refs/heads/{BRANCH}\n")
    return root


def _object_id(kind: bytes, content: bytes) -> str:
    return hashlib.sha1(_framed(kind, content), usedforsecurity=False).hexdigest()


def _write_object(git: Path, kind: bytes, content: bytes) -> None:
    name = _object_id(kind, content)
    path = git / "objects" / name[:2] / name[2:]
    path.parent.mkdir(exist_ok=True)
    fresh = path.with_name(f".{path.name}")
    fresh.write_bytes(zlib.compress(_framed(kind, content)))
    os.replace(fresh, path)


def _framed(kind: bytes, content: bytes) -> bytes:
    return kind + b" %d\0" % len(content) + content
