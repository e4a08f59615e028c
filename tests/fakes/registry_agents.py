"""The records of towns, in memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from services.chassis.names import AgentName
from services.registry import refusals
from services.registry.agents import TOWN_AGENTS_MAX, Agent, AgentPage, State
from services.registry.entries import Entry
from services.registry.specs import AgentSpec, Role
from services.registry.store import RECORDS_BYTES_MAX
from tests.fakes.registry_town import UNLISTED, MemoryTowns, Record, with_spec


class MemoryAgents(MemoryTowns):
    """AgentStore in memory."""

    async def register_agent(
        self,
        name: AgentName,
        spec: AgentSpec,
        *,
        configure_only: bool = False,
        etag: str = "",
        request_id: str = "",
    ) -> Agent:
        town = self._town(name.town)
        request = (name, spec, configure_only, etag)
        first = town.requests.get(request_id)
        if first and self._now() - first[2] < self._requests_kept:
            if first[0] != request:
                raise refusals.request_reused(request_id)
            return first[1]
        known = town.records.get(name.agent)
        if etag and etag != (known.agent.etag if known else ""):
            raise refusals.etag_mismatch(name, etag)
        if known is None and len(town.records) >= TOWN_AGENTS_MAX:
            raise refusals.too_many_agents(name.town, TOWN_AGENTS_MAX)
        record = known or Record(self._new_agent(name))
        was = known and (known.agent, known.listed)
        agent = with_spec(record, spec)
        if not configure_only:
            agent = replace(agent, state=State.ACTIVE, end_reason="")
            record.listed = -1
        elif known is None or agent.state is not State.ACTIVE:
            agent = replace(agent, state=State.CONFIGURED, end_reason="")
        town.records[name.agent] = record
        record.agent = agent
        if was != (agent, record.listed):
            self._touch(town, record)
        answer = self._shown(town, record)
        if request_id:
            town.requests[request_id] = (request, answer, self._now())
        return answer

    async def get_agent(self, name: AgentName) -> Agent:
        return self._shown(self._town(name.town), self._record(name))

    async def list_agents(
        self,
        town: str,
        *,
        after: str = "",
        limit: int = 50,
        state: State | None = None,
        role: Role | None = None,
    ) -> AgentPage:
        found: list[Agent] = []
        last, size_bytes = "", 0
        for member, record in self._ordered(self._town(town)):
            agent = record.agent
            if member <= after or (state and agent.state is not state):
                continue
            if role and (agent.spec is None or agent.spec.role is not role):
                continue
            # An entry is sent beside the spec that was read out of it.
            size_bytes += 2 * len(agent.entry_json.encode()) + 1024
            if len(found) == limit or (found and size_bytes > RECORDS_BYTES_MAX):
                return AgentPage(tuple(found), last)
            found.append(self._shown(self._town(town), record))
            last = member
        return AgentPage(tuple(found), "")

    async def replace_spec(self, name: AgentName, spec: AgentSpec, etag: str) -> Agent:
        town, record = self._town(name.town), self._record(name)
        if etag != record.agent.etag:
            raise refusals.etag_mismatch(name, record.agent.etag)
        agent = with_spec(record, spec)
        if agent != record.agent:
            record.agent = agent
            self._touch(town, record)
        return self._shown(town, record)

    async def deregister_agent(self, name: AgentName, etag: str = "") -> None:
        town, record = self._town(name.town), self._record(name)
        if etag and etag != record.agent.etag:
            raise refusals.etag_mismatch(name, record.agent.etag)
        if held := self._held(town, name.agent):
            raise refusals.lease_held(name, held.instance, held.epoch)
        for part in (
            town.records,
            town.leases,
            town.inboxes,
            town.sequences,
            town.reports,
            town.events,
            town.nudges,
            town.free,
            town.handed,
        ):
            part.pop(name.agent, None)
        self._note(town, name, gone=True)

    async def replace_agents(self, town: str, entries: Sequence[Entry]) -> list[str]:
        found = self._town(town)
        listed = {entry.agent for entry in entries}
        if len(found.records.keys() | listed) > TOWN_AGENTS_MAX:
            raise refusals.too_many_agents(town, TOWN_AGENTS_MAX)
        kept = []
        for agent, record in found.records.items():
            if agent in listed:
                continue
            changed, record.place = record.place != UNLISTED, UNLISTED
            if record.agent.state is State.ACTIVE:
                if self._held(found, agent):
                    kept.append(agent)
                else:
                    changed = True
                    found.free.pop(agent, None)
                    record.agent = replace(
                        record.agent, state=State.ENDED, end_reason="stopped"
                    )
                    if lease := found.leases.get(agent):
                        found.leases[agent] = replace(lease, instance="", boot_id="")
            if changed:
                self._touch(found, record)
        for index, entry in enumerate(entries, start=1):
            self._list(AgentName(town, entry.agent), entry, f"{index:08d}")
        return sorted(kept)

    def _list(self, name: AgentName, entry: Entry, place: str) -> None:
        town = self._town(name.town)
        known = town.records.get(name.agent)
        record = known or Record(self._new_agent(name))
        if known is None or known.agent.state is not State.ACTIVE:
            record.listed = town.registered
            town.free.pop(name.agent, None)
        was_claimable, record.claimable = record.claimable, entry.spec is not None
        error = record.agent.last_error
        if entry.spec is None or not was_claimable:
            error = entry.problem
        record.place = place
        agent = replace(
            record.agent,
            spec=entry.spec,
            entry_json=entry.text,
            state=State.ACTIVE,
            end_reason="",
            last_error=error,
        )
        changed = known is None or agent != record.agent
        record.agent = agent
        town.records[name.agent] = record
        if changed:
            self._touch(town, record)
