"""The records of towns, in Redis."""

from __future__ import annotations

from collections.abc import Sequence

from services.chassis.names import AgentName
from services.registry.agents import (
    TOWN_AGENTS_MAX,
    Agent,
    AgentPage,
    State,
)
from services.registry.entries import Entry
from services.registry.redis_specs import StoredSpecs, spec_text
from services.registry.redis_town import RedisTown
from services.registry.redis_values import texts
from services.registry.reports import KINDS
from services.registry.specs import AgentSpec, Role
from services.registry.store import RECORDS_BYTES_MAX


class RedisAgents:
    """AgentStore over Redis."""

    def __init__(self, town: RedisTown, specs: StoredSpecs) -> None:
        self._redis = town
        self._specs = specs

    async def register_agent(
        self,
        name: AgentName,
        spec: AgentSpec,
        *,
        configure_only: bool = False,
        etag: str = "",
        request_id: str = "",
    ) -> Agent:
        text = spec_text(spec)
        request = f"{name} {configure_only} {etag} {text}"
        answer = await self._redis.change(
            "register_agent",
            name.town,
            self._specs.of_spec(name, spec),
            agent=name.agent,
            digest=self._specs.digest(text),
            role=spec.role.value,
            database=spec.has_database,
            configure_only=configure_only,
            etag=etag,
            request_id=request_id,
            request_digest=self._specs.digest(request),
            requests_kept=round(self._redis.terms.requests_kept_s * 1000),
            agents_max=TOWN_AGENTS_MAX,
        )
        return self._specs.agent(name.town, answer.values[0])

    async def get_agent(self, name: AgentName) -> Agent:
        answer = await self._redis.ask("get_agent", name.town, agent=name.agent)
        return self._specs.agent(name.town, answer.values[0])

    async def list_agents(
        self,
        town: str,
        *,
        after: str = "",
        limit: int = 50,
        state: State | None = None,
        role: Role | None = None,
    ) -> AgentPage:
        answer = await self._redis.ask(
            "list_agents",
            town,
            after=after,
            limit=limit,
            state=state or "",
            role=role or "",
            bytes_max=RECORDS_BYTES_MAX,
        )
        after_raw, found = answer.values
        agents = tuple(self._specs.listed(town, raw) for raw in found)
        return AgentPage(agents, after_raw.decode())

    async def replace_spec(self, name: AgentName, spec: AgentSpec, etag: str) -> Agent:
        text = spec_text(spec)
        answer = await self._redis.change(
            "replace_spec",
            name.town,
            self._specs.of_spec(name, spec),
            agent=name.agent,
            digest=self._specs.digest(text),
            role=spec.role.value,
            database=spec.has_database,
            etag=etag,
        )
        return self._specs.agent(name.town, answer.values[0])

    async def deregister_agent(self, name: AgentName, etag: str = "") -> None:
        await self._redis.change(
            "deregister_agent",
            name.town,
            agent=name.agent,
            etag=etag,
            gone_kept=self._redis.terms.gone_kept,
            reports=list(KINDS),
        )

    async def replace_agents(self, town: str, entries: Sequence[Entry]) -> list[str]:
        answer = await self._redis.change(
            "replace_agents",
            town,
            *(self._specs.of_entry(town, entry) for entry in entries),
            entries=[self._entry_args(entry) for entry in entries],
            agents_max=TOWN_AGENTS_MAX,
        )
        return texts(answer.values[0])

    def _entry_args(self, entry: Entry) -> dict[str, object]:
        spec = entry.spec
        # A spec that says no way to start is like no other, not even itself later.
        return {
            "agent": entry.agent,
            "digest": self._specs.digest(spec_text(spec)) if spec else "",
            "role": spec.role.value if spec else "",
            "database": spec.has_database if spec else True,
            "claimable": spec is not None,
            "problem": entry.problem[:1024],
        }
