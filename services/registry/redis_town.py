"""One town's keys in Redis, and the scripts that alone touch them.

All keys of a town share its hash tag, and every script is given all of them, so any
script runs on a cluster. What is not a town's lies in `tk:registry:store` (a hash:
environment, format, when we last served) and `tk:registry:towns` (a set).
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from importlib import resources
from typing import Any, Final

import structlog

from services.chassis.clock import Clock, SystemClock
from services.chassis.errors import Reason, ServiceError
from services.chassis.redis_pool import Durability, Script, Store, store_errors
from services.chassis.telemetry import Event
from services.registry.changes import GONE_KEPT
from services.registry.event_log import LOG_BOUNDS, LogBounds
from services.registry.inbox import SETTLED_KEPT_S
from services.registry.leases import TTL_S, Gap
from services.registry.redis_refusals import refusal

STORE_KEY: Final = "tk:registry:store"
FORMAT: Final = "1"
# In the order of the prelude.
TOWN_KEYS: Final = (
    "agents",
    "specs",
    "order",
    "leases",
    "epochs",
    "instances",
    "drain",
    "requests",
    "request_times",
    "messages",
    "texts",
    "queue",
    "pending",
    "settled",
    "waiting",
    "counters",
    "free",
    "deadlines",
    "changes",
    "gone",
    "watch",
    "reports",
    "events",
    "nudges",
    "handed",
)
# A caller waits no longer for a store that does not answer.
ANSWER_LIMIT_S: Final = 2.0
# With replicas, Redis itself may wait that long before it answers.
REPLICAS_LIMIT_S: Final = 2.0
REQUESTS_KEPT_S: Final = 24 * 3600.0

# Files of the folder that are no script on a town.
_APART: Final = frozenset(
    {"prelude", "serve", "revocations", "revoke", "read_revocations"}
)
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Terms:
    """How long things last, in seconds; how many deregistrations are remembered."""

    ttl_s: float = TTL_S
    settled_kept_s: float = SETTLED_KEPT_S
    requests_kept_s: float = REQUESTS_KEPT_S
    gone_kept: int = GONE_KEPT
    event_log: LogBounds = LOG_BOUNDS

    @property
    def tick_s(self) -> float:
        """How often we mark that we serve."""
        return self.ttl_s / 5

    @property
    def gap_s(self) -> float:
        """A longer silence is a gap; short of it no lease can have run out, since
        half a TTL is left when it ends."""
        return self.ttl_s / 2


@dataclass(frozen=True, slots=True)
class Answer:
    """What a script returned: the store's time, then its values."""

    now: datetime
    values: Sequence[Any]


class RedisTown:
    """Runs scripts on a town, durably where they write."""

    def __init__(
        self,
        store: Store,
        durability: Durability,
        *,
        terms: Terms | None = None,
        replicas: int = 0,
        clock: Clock | None = None,
    ) -> None:
        self.store = store
        self.terms = terms or Terms()
        self.gap: Gap | None = None
        self._durability = durability
        self._replicas = replicas
        self._clock = clock or SystemClock()
        self._scripts = _read_scripts()
        self._serve = Script(source("serve"))
        self._served_at: float | None = None
        self._serving = asyncio.Lock()
        self._towns: set[str] = set()

    async def ask(self, script: str, town: str, **args: Any) -> Answer:
        """Runs a script that writes nothing, or nothing that must be durable."""
        return await self._run(script, town, args, (), replicas=0)

    async def change(
        self, script: str, town: str, *texts: str | bytes, **args: Any
    ) -> Answer:
        """Runs a script; when this returns, what it wrote is durable."""
        await self._durability.check()
        answer = await self._run(script, town, args, texts, self._replicas)
        # Asked again, for the case that Redis was another one meanwhile.
        await self._durability.check()
        return answer

    async def ask_apart(
        self, script: Script, keys: Sequence[str], args: Sequence[str | int]
    ) -> Any:
        """The same for a script whose keys are of no town."""
        async with _limit(ANSWER_LIMIT_S):
            return await script.run(self.store, keys, args)

    async def change_apart(
        self, script: Script, keys: Sequence[str], args: Sequence[str | int]
    ) -> Any:
        """The same for such a script that writes."""
        await self._durability.check()
        limit_s = ANSWER_LIMIT_S + (REPLICAS_LIMIT_S if self._replicas else 0)
        async with _limit(limit_s):
            answer = await script.run(self.store, keys, args, replicas=self._replicas)
        await self._durability.check()
        return answer

    async def check(self) -> None:
        """Raises unless Redis answers and keeps what it acknowledges."""
        await self._durability.check()
        async with _limit(ANSWER_LIMIT_S):
            with store_errors():
                await self.store.ping()

    async def keep_serving(self) -> None:
        """Marks that we serve, for as long as it runs; a store that is away is
        waited for."""
        away = False
        while True:
            try:
                await self.serve()
                away = False
            except ServiceError as error:
                if not away:
                    _log.warning(Event.STORE_AWAY, error=error.message)
                away = True
            except Exception:
                # The root of a task: it ends with the process, not before.
                _log.exception(Event.STORE_AWAY)
            await asyncio.sleep(self.terms.tick_s)

    async def serve(self) -> None:
        """Marks that we serve; after a gap, leases last longer (see leases.Gap)."""
        async with self._serving:
            limits = (_ms(self.terms.gap_s), _ms(self.terms.ttl_s))
            async with _limit(ANSWER_LIMIT_S):
                times = await self._serve.run(self.store, [STORE_KEY], limits)
            _, start, until = map(time_of, times)
            self.gap = Gap(start, until) if times[2] else None
            self._served_at = self._clock.monotonic()

    async def _run(
        self,
        script: str,
        town: str,
        args: Mapping[str, Any],
        texts: Sequence[str | bytes],
        replicas: int,
    ) -> Answer:
        await self._serve_if_due()
        gap = (0, 0)
        if self.gap is not None:
            gap = (_epoch_ms(self.gap.start), _epoch_ms(self.gap.until))
        head: list[str | int] = [_ms(self.terms.ttl_s), *gap, json.dumps(args)]
        limit_s = ANSWER_LIMIT_S + (REPLICAS_LIMIT_S if replicas else 0)
        async with _limit(limit_s):
            status, *values = await self._scripts[script].run(
                self.store, town_keys(town), [*head, *texts], replicas=replicas
            )
        if status != b"ok":
            raise refusal(status.decode(), town, {**args, **json.loads(values[0])})
        return Answer(time_of(values[0]), values[1:])

    async def _serve_if_due(self) -> None:
        # Nothing may be judged by a clock that ran on while we were away.
        served_at = self._served_at
        if served_at is None or self._clock.monotonic() - served_at > self.terms.gap_s:
            await self.serve()


@lru_cache(maxsize=1024)
def town_keys(town: str) -> tuple[bytes, ...]:
    return tuple(f"tk:registry:{{{town}}}:{name}".encode() for name in TOWN_KEYS)


def channel(town: str, what: str = "hints") -> str:
    """Where hints about a town's messages are published, or that it has `changes`, who
    was `handed` leases, or that some are `offered` to all."""
    return f"tk:registry:{{{town}}}:{what}"


async def open_store(store: Store, environment: str) -> None:
    """Marks the store as ours. Raises STORE_FOREIGN if it is another's."""
    async with _limit(ANSWER_LIMIT_S):
        with store_errors():
            for field, wanted in (("environment", environment), ("format", FORMAT)):
                await store.execute_command("HSETNX", STORE_KEY, field, wanted)
                found = await store.execute_command("HGET", STORE_KEY, field)
                if found.decode() != wanted:
                    raise _foreign(field, found.decode(), wanted)


def _foreign(field: str, found: str, wanted: str) -> ServiceError:
    return ServiceError(
        Reason.STORE_FOREIGN,
        f"cannot use this Redis, its {field} is {found} and ours {wanted}: set "
        "TOWNKEEPER_REDIS_URL or TOWNKEEPER_ENVIRONMENT right",
        field=field,
        found=found,
        wanted=wanted,
    )


def _read_scripts() -> dict[str, Script]:
    prelude = source("prelude")
    folder = resources.files("services.registry").joinpath("lua")
    names = {each.name.removesuffix(".lua") for each in folder.iterdir()}
    return {name: Script(prelude + source(name)) for name in names - _APART}


def source(name: str) -> str:
    """A script's text."""
    path = resources.files("services.registry").joinpath("lua", f"{name}.lua")
    return path.read_text("utf-8")


@asynccontextmanager
async def _limit(seconds: float) -> AsyncIterator[None]:
    """A time limit whose end is the store's failure."""
    try:
        async with asyncio.timeout(seconds):
            yield
    except TimeoutError as error:
        raise ServiceError(
            Reason.STORE_UNAVAILABLE,
            f"cannot reach Redis (no answer within {seconds:g} s): try again soon",
        ) from error


def _ms(seconds: float) -> int:
    return round(seconds * 1000)


def _epoch_ms(moment: datetime) -> int:
    return (moment - _EPOCH) // timedelta(milliseconds=1)


def time_of(milliseconds: int) -> datetime:
    return _EPOCH + timedelta(milliseconds=milliseconds)
