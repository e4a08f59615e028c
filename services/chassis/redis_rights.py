"""What a service's user must be allowed in Redis, asked at the start.

A right that is missing would else show at the first call that needs it, in the middle
of a script, which Redis does not roll back.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from importlib import resources
from typing import Any, Final

from redis.asyncio.cluster import RedisCluster

from services.chassis.redis_client import Store, asked, forbidden, store_errors

# The numbers of those that its caller may not send. Redis before 7.0 cannot tell; a
# command that it does not have is passed over. None may be cut short: Valkey 9.1 ends
# itself over an EVALSHA without a number of keys.
_ASK: Final = """
local missing = {}
for number, words in ipairs(cjson.decode(ARGV[1])) do
  local known, allowed = pcall(redis.acl_check_cmd, unpack(words))
  if known and not allowed then missing[#missing + 1] = number end
end
return missing
"""
_CALLED: Final = re.compile(r"redis\.p?call\(\s*'([A-Z]+)'")
_DIGEST: Final = "0" * 40


def commands_of(package: str) -> frozenset[str]:
    """What the scripts in a package call; it is named as `services.registry.lua` is."""
    scripts = [
        each.read_text("utf-8")
        for each in resources.files(package).iterdir()
        if each.name.endswith(".lua")
    ]
    return frozenset(_CALLED.findall("\n".join(scripts)))


async def check_rights(
    store: Store,
    commands: Iterable[str],
    key: str,
    channels: Iterable[tuple[str, str]] = (),
    *,
    replicas: int = 0,
    vouched: bool = False,
) -> None:
    """Raises STORE_FORBIDDEN, naming the user and all that it may not do.

    The commands are those that scripts and the service itself call on keys, of which
    one stands for all; the channels come with the command that is for them.
    """
    on_channels = dict(channels)
    needed = {each: [each, key, key] for each in {*commands} - on_channels.keys()}
    needed |= {f"{each} {name}": [each, name] for each, name in on_channels.items()}
    needed |= {"EVALSHA": ["EVALSHA", _DIGEST, "1", key], "PING": ["PING"]}
    if replicas:
        needed["WAIT"] = ["WAIT", str(replicas), "0"]
    if not vouched:
        needed["CONFIG GET"] = ["CONFIG", "GET", "appendonly"]
    names, words = list(needed), list(needed.values())
    with store_errors():
        answers = await asked(store, "EVAL", _ASK, "0", json.dumps(words))
    missing = sorted({names[number - 1] for answer in answers for number in answer})
    if missing:
        raise forbidden(
            f"the user {_user(store)} may not {', '.join(missing)}, with keys such as "
            f"{key}"
        )


def _user(store: Store) -> str:
    if isinstance(store, RedisCluster):
        options: dict[str, Any] = store.connection_kwargs
    else:
        options = store.connection_pool.connection_kwargs
    return options.get("username") or "default"
