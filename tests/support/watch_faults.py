"""Defects planted into watches, to see that random histories find them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Final

import pytest

from services.registry import agent_feed, redis_town
from services.registry.agent_feed import Feed
from services.registry.hints import Nudges
from tests.support import registry_watch
from tests.support.registry_watch import EAGER

Plant = Callable[[pytest.MonkeyPatch], None]


def script(name: str, old: str, new: str) -> Plant:
    """Another text in one of the scripts, which must be there."""
    source = redis_town.source

    def plant(patch: pytest.MonkeyPatch) -> None:
        text = source(name)
        assert old in text, f"{name}.lua has changed: {old}"
        changed = text.replace(old, new)
        patch.setattr(
            redis_town, "source", lambda one: changed if one == name else source(one)
        )

    return plant


def feed(planted: type[Feed]) -> Plant:
    """Another class of feeds."""
    return lambda patch: patch.setattr(agent_feed, "Feed", planted)


class Forgetful(Feed):
    """Whoever joins late believes that nothing was dropped."""

    def _drop(self, revision: int) -> None:
        floor = self._floor
        super()._drop(revision)
        self._floor = floor


class Hasty(Forgetful):
    """Drops what somebody has not taken, without a word."""

    def _slowest(self) -> int:
        return self._position.revision


def lose_hints(patch: pytest.MonkeyPatch) -> None:
    """They reach nobody."""
    patch.setattr(Nudges, "tell", lambda *_: None)
    patch.setattr(Nudges, "tell_all", lambda *_: None)


def lose_hints_and_do_not_look(patch: pytest.MonkeyPatch) -> None:
    lose_hints(patch)
    patch.setattr(registry_watch, "EAGER", replace(EAGER, look_every_s=3600.0))


FAULTS: Final[dict[str, Plant]] = {
    "a heartbeat logs nothing": script(
        "heartbeat", "save(run.agent, meta)", "write(AGENTS, run.agent, meta)"
    ),
    "a claim logs nothing": script(
        "prelude", "-1\n  save(agent, meta)", "-1\n  write(AGENTS, agent, meta)"
    ),
    "a list logs nothing": script(
        "replace_agents", "text)\n    save(agent, meta)", "text)\n"
        "meta.revision, meta.updated = 1, now write(AGENTS, agent, meta)",
    ),
    "a message logs nothing": script("enqueue_message", "note(a.agent)\n", ""),
    "a settled message logs nothing": script(
        "acknowledge_message", "else\n  note(a.agent)\n", ""
    ),
    "a deregistration logs nothing": script(
        "deregister_agent", "redis.call('ZADD', GONE, next_revision(), a.agent)\n", ""
    ),
    "an expiry is not noticed": script("read_changes", "if turned then", "if nil then"),
    "an expiry concerns all": script("read_changes", "if was ~= is then", "if 1 then"),
    "a resume skips one": script(
        "read_changes", "format('(%d', revision)", "format('(%d', revision + 1)"
    ),
    "a resume repeats one": script(
        "read_changes", "format('(%d', revision)", "format('%d', revision)"
    ),
    "what is forgotten is not missed": script(
        "read_changes", "or gone_after < compacted", ""
    ),
    "the list begins anew with each page": script(
        "read_changes", "local since = a.log == '' and head or a.since",
        "local since = head",
    ),
    "a full page is the last one": script(
        "read_changes", "head, 0, found", "head, 1, found"
    ),
    "hints are lost and nobody looks": lose_hints_and_do_not_look,
    "a feed drops what is not taken": feed(Hasty),
}  # fmt: skip
