"""The house rules that no linter knows, as functions from source to complaints.

Each takes a path (relative to the checkout) and a text, so that a test can show it a
bad snippet under any name.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Final

LINES_MAX: Final = {"services": 350, "tests": 400}
FUNCTION_LINES_MAX: Final = 60

# Libraries that every service may stand on; they in turn know no service.
SHARED: Final = frozenset({"chassis", "segments"})

# Drawers into which anything fits, so nobody finds it again.
FORBIDDEN_STEMS: Final = frozenset(
    {"utils", "util", "helpers", "helper", "common", "misc", "types", "constants"}
)

# Modules that may touch proto messages: those at the edge of a service.
EDGE_STEMS: Final = frozenset({"__main__", "servicer", "transcode", "stream"})
EDGE_WORDS: Final = frozenset({"wire", "client", "clients", "servicer"})
EDGE_PACKAGES: Final = frozenset({"chassis", "cli"})

# What must not stand in a public repository: paths of one developer's machine, and
# the host a package came from. Written so that this file does not match itself.
FORBIDDEN_TEXTS: Final = {
    "a path of one developer's machine": re.compile(
        r"(?<![\w.])/(?:wor[k]|Users|root/\.pyenv)/\w|\.\./share[d]\b"
    ),
    "a package registry's host": re.compile(
        r"(?:--(?:extra-)?index-url|--find-link[s])\s*[=\s]\s*\S"
        r"|https?://[^\s/]*(?:pyp[i]|pythonhoste[d]|npmj[s]|artifactor[y]|nexu[s])\b",
    ),
}


def module_size(path: str, text: str) -> Iterator[str]:
    """A module that does not fit its limit is two modules."""
    limit = LINES_MAX[PurePosixPath(path).parts[0]]
    lines = len(text.splitlines())
    if lines > limit:
        yield f"{path}: {lines} lines, at most {limit}"


def function_size(path: str, text: str) -> Iterator[str]:
    """A body longer than a screen hides a second function; help texts do not count."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            body = node.body[1:] if ast.get_docstring(node) else node.body
            lines = (body[-1].end_lineno or 0) - body[0].lineno + 1 if body else 0
            if lines > FUNCTION_LINES_MAX:
                yield (
                    f"{path}:{node.lineno}: {node.name} has {lines} lines, "
                    f"at most {FUNCTION_LINES_MAX}"
                )


def module_name(path: str, text: str) -> Iterator[str]:
    """A module is named for what it is about."""
    for part in (*PurePosixPath(path).parts[:-1], PurePosixPath(path).stem):
        if part in FORBIDDEN_STEMS:
            yield f"{path}: {part} says nothing; name it for what it holds"


def foreign_imports(path: str, text: str) -> Iterator[str]:
    """Services talk through stubs: none imports another, shared ones import none."""
    parts = PurePosixPath(path).parts
    if parts[0] != "services" or len(parts) < 3:
        return
    own = parts[1]
    allowed = {own} | SHARED
    if own == "segments":
        allowed = {"segments", "chassis"}
    if own == "chassis":
        allowed = {"chassis"}
    for line, name in imported(path, text):
        module = name.split(".")
        if module[0] == "tests":
            yield f"{path}:{line}: imports {name}; what ships knows no test"
        if module[0] == "services" and len(module) > 1 and module[1] not in allowed:
            yield f"{path}:{line}: imports {name}; call it through its stub"


def proto_imports(path: str, text: str) -> Iterator[str]:
    """Below the edge values are dataclasses: proto messages stay where the wire is."""
    parts = PurePosixPath(path).parts
    if parts[0] != "services" or is_edge(path):
        return
    for line, name in imported(path, text):
        if "_pb2" in name or name.split(".")[0] == "townkeeper":
            yield f"{path}:{line}: imports {name}; only edge modules see messages"


def is_edge(path: str) -> bool:
    """Whether the module's name says that it stands at the wire."""
    pure = PurePosixPath(path)
    if pure.parts[1] in EDGE_PACKAGES or pure.stem in EDGE_STEMS:
        return True
    return not EDGE_WORDS.isdisjoint(pure.stem.split("_"))


def forbidden_text(path: str, text: str) -> Iterator[str]:
    """What only makes sense on the machine where it was written stays there."""
    for number, line in enumerate(text.splitlines(), start=1):
        for what, pattern in FORBIDDEN_TEXTS.items():
            if pattern.search(line):
                yield f"{path}:{number}: names {what}"


def imported(path: str, text: str) -> Iterator[tuple[int, str]]:
    """Every module that the text imports, anywhere in it, by its full name."""
    package = list(PurePosixPath(path).parts[:-1])
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            for alias in node.names:
                yield node.lineno, f"{base}.{alias.name}"
