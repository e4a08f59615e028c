"""The registry with one defect in its scripts, the one that `TK_DEFECT` names: to see
that `crowd_campaign` finds each. A program for tests."""

from __future__ import annotations

import os
import sys
from typing import Final

import pytest

from services.registry import __main__ as service
from tests.support.watch_faults import Plant, script

_LIST: Final = "local found, size, after"
_HEAD: Final = "local head ="

DEFECTS: Final[dict[str, Plant]] = {
    "fat records": script(
        "prelude",
        "meta.updated = now",
        "meta.updated, meta.x = now, string.rep('x', 1500)",
    ),
    "no end of a page": script(
        "list_agents", _LIST, f"a.limit, a.bytes_max = 1e9, 1e9 {_LIST}"
    ),
    "a list that looks for keys": script(
        "list_agents", _LIST, f"redis.call('KEYS', KEYS[1]) {_LIST}"
    ),
    "a watch that reads all records": script(
        "read_changes", _HEAD, f"redis.call('HGETALL', AGENTS) {_HEAD}"
    ),
    "a watch that reads all of the log": script(
        "read_changes", "'WITHSCORES', 'LIMIT', 0, a.limit)", "'WITHSCORES')"
    ),
}

if __name__ == "__main__":
    DEFECTS[os.environ["TK_DEFECT"]](pytest.MonkeyPatch())
    sys.exit(service.main())
