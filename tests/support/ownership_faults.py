"""Defects planted into leases and fences, to see that the judge of them finds each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import pytest

from services.chassis.redis_script import Script
from tests.support.watch_faults import Plant, script


def fence(name: str, *changes: tuple[str, str]) -> Plant:
    """Other texts in one of the snapshot service's scripts, which must be there."""
    read: Callable[[str, str], Script] = Script.read

    def plant(patch: pytest.MonkeyPatch) -> None:
        def planted(package: str, one: str) -> Script:
            found = read(package, one)
            if one != f"{name}.lua":
                return found
            text = found.source
            for old, new in changes:
                assert old in text, f"{one} has changed: {old}"
                text = text.replace(old, new)
            return Script(text)

        patch.setattr(Script, "read", planted)

    return plant


FAULTS: Final[dict[str, Plant]] = {
    "a claim raises no epoch": script(
        "prelude", "redis.call('HINCRBY', EPOCHS, agent, 1)",
        "math.max(1, redis.call('HGET', EPOCHS, agent) or 1)",
    ),
    "a claim by name looks for no holder": script(
        "claim_agents", "if holder(leases[i]) then", "if nil then"
    ),
    "a renewal looks for no holder": script(
        "claim_agents",
        "if not mine(leases[i]) then",
        "if not mine(leases[i]) and not a.renew then",
    ),
    "a claim of all looks for no holder": script(
        "claim_agents", "elseif holder(lease) or meta", "elseif meta"
    ),
    "an instance is dead too soon": script(
        "prelude", "return instance.deadline > now",
        "return instance.deadline > now + TTL / 2",
    ),
    "a lease counts for any boot of its slot": script(
        "prelude", "if instance and instance.boot == lease.boot and alive(instance)",
        "if false",
    ),
    "a deregistration forgets the epoch": script(
        "deregister_agent", "redis.call('ZREM', FREE, a.agent)",
        "redis.call('ZREM', FREE, a.agent) redis.call('HDEL', EPOCHS, a.agent)",
    ),
    "a release looks at no epoch": script(
        "release_agents", "and lease.epoch == each.epoch", ""
    ),
    "an acknowledgement looks at no lease": script(
        "acknowledge_message",
        "if lease.instance ~= a.slot or lease.boot ~= a.boot or lease.epoch ~= a.epoch",
        "if false",
    ),
    "an advance goes back": fence("advance", ("if tonumber(epoch) < seen or", "if")),
    "a commit looks at no owner": fence(
        "commit",
        ("~= seen then", "== -1 then"),
        ("if instance ~= '' and (instance ~= state[2] or", "if false and ("),
    ),
    "a commit looks at no head": fence(
        "commit",
        ("if match ~= '' and tonumber(match) ~= tonumber(state[5] or '0')", "if false"),
        ("if tonumber(generation) ~= tonumber(state[4] or '0') + 1", "if false"),
        ("if tonumber(revision) ~= tonumber(state[6] or '0')", "if false"),
    ),
}  # fmt: skip
