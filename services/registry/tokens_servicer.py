"""The calls about tokens, issued and taken back: proto in, rules, proto out."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from datetime import UTC, timedelta
from functools import partial
from typing import Any

from services.chassis.access import ANY_TOWN, EVERY_TOWN, Kind, current_caller
from services.chassis.clock import Clock
from services.chassis.errors import Reason, ServiceError
from services.chassis.keys import KeyRing
from services.chassis.names import AgentName, RunName, TownName
from services.registry import refusals, wire
from services.registry.issuer import LIFE_DEFAULT_S, LIFE_MAX_S, Issuer, check_life
from services.registry.leases import Lease
from services.registry.revocation_feed import SYNCED, RevocationFeed, Step
from services.registry.revocations import (
    IDS_MAX,
    Revocation,
    kept_for,
    kept_for_renewed,
    run_key,
    token_ids,
)
from services.registry.store import AgentStore, RevocationStore
from townkeeper.registry.v1 import registry_pb2 as pb


class TokensServicer:
    """Tokens."""

    _agents: AgentStore
    _issuer: Issuer
    _revocations: RevocationStore
    _feed: RevocationFeed
    _clock: Clock

    async def IssueAgentToken(
        self, request: pb.IssueAgentTokenRequest, context: Any
    ) -> pb.IssueAgentTokenResponse:
        name = AgentName.parse(request.name)
        epoch = wire.number("epoch", request.epoch)
        slot = wire.slot_id(request.instance, name.town)
        boot_id = wire.required_id("boot_id", request.boot_id)
        run = wire.required_id("run", request.run)
        life_s = LIFE_DEFAULT_S
        if request.HasField("ttl"):
            life_s = check_life(request.ttl.ToTimedelta().total_seconds())
        agent = await self._agents.get_agent(name)
        held = agent.lease or Lease(0)
        if (held.instance, held.boot_id, held.epoch) != (slot, boot_id, epoch):
            raise refusals.lease_fenced(name, held.instance, held.boot_id, held.epoch)
        if agent.spec is None:
            raise refusals.no_start_request(name, agent.last_error)
        await self._check_anew()
        mint = partial(
            KeyRing.mint,
            **_lineage(),
            kind=Kind.AGENT,
            town=name.town,
            rig=agent.spec.rig_id,
            agent=name.agent,
            run=run,
            ttl_s=life_s,
        )
        token, expires = await self._issuer.issue(mint)
        # Before anybody has the token: a run that is not the agent's last has none.
        kept = kept_for(expires, self._clock.now())
        await self._revocations.begin_run(name, epoch, run, kept)
        await self._feed.refresh()
        response = pb.IssueAgentTokenResponse(token=token)
        response.expire_time.FromDatetime(expires)
        return response

    async def IssueContainerToken(
        self, request: pb.IssueContainerTokenRequest, context: Any
    ) -> pb.IssueContainerTokenResponse:
        town = TownName.parse(request.parent).town
        await self._check_anew()
        mint = partial(
            KeyRing.mint,
            **_lineage(),
            kind=Kind.CONTAINER,
            town=town,
            ttl_s=LIFE_DEFAULT_S,
        )
        token, expires = await self._issuer.issue(mint)
        response = pb.IssueContainerTokenResponse(token=token)
        response.expire_time.FromDatetime(expires)
        return response

    async def _check_anew(self) -> None:
        """Refuses a caller that was revoked just now, through whichever replica: what
        it got would be good for hours. While nobody can tell, nobody gets any."""
        await self._feed.refresh()
        self._feed.check(current_caller.get())

    async def RevokeTokens(
        self, request: pb.RevokeTokensRequest, context: Any
    ) -> pb.RevokeTokensResponse:
        town = _town(request.parent)
        _at_most("token_ids", request.token_ids)
        _at_most("runs", request.runs)
        _check_container(request)
        expires = None
        if request.HasField("expire_time"):
            expires = request.expire_time.ToDatetime(UTC)
        if current_caller.get().kind is Kind.CONTAINER:
            # Its runs' tokens live no longer, and each entry takes room until then.
            last = self._clock.now() + timedelta(seconds=LIFE_MAX_S)
            expires = min(expires or last, last)
        runs_alone = request.runs and not request.token_ids
        how_long = kept_for if runs_alone else kept_for_renewed
        revocation = Revocation(
            token_ids=token_ids(request.token_ids),
            runs=tuple(dict.fromkeys(_run(run, town) for run in request.runs)),
            kept_for=how_long(expires, self._clock.now()),
        )
        generation = await self._revocations.revoke(town, revocation)
        # Durable by now; this process need not wait for its next question to act on it.
        await self._feed.refresh()
        return pb.RevokeTokensResponse(token_generation=generation)

    async def WatchRevocations(
        self, request: pb.WatchRevocationsRequest, context: Any
    ) -> AsyncIterator[pb.WatchRevocationsResponse]:
        town = _town(request.parent)
        async for step in self._feed.watch(None if town == ANY_TOWN else town):
            yield _step(step)


def _lineage() -> dict[str, Any]:
    """By what a token is revoked with the one that it was made from: the id, and the
    generation, since a fresh one would escape a revocation of all that came before."""
    caller = current_caller.get()
    return {
        "family": caller.family or caller.token_id,
        "generation": caller.generation,
    }


def _town(parent: str) -> str:
    return ANY_TOWN if parent == EVERY_TOWN else TownName.parse(parent).town


def _check_container(request: pb.RevokeTokensRequest) -> None:
    """A container ends the runs that it had, and takes nothing else back."""
    if current_caller.get().kind is not Kind.CONTAINER:
        return
    if request.token_ids or not request.runs:
        raise ServiceError(
            Reason.ROLE_INSUFFICIENT,
            "cannot revoke other tokens than those of runs with a container's: ask an "
            "operator",
            kind=Kind.CONTAINER,
            allowed=Kind.OPERATOR,
        )


def _at_most(field: str, given: Sequence[str]) -> None:
    if len(given) > IDS_MAX:
        raise ServiceError(
            Reason.FIELD_INVALID,
            f"cannot take {len(given)} {field}: send at most {IDS_MAX}",
            field=field,
            limit=IDS_MAX,
        )


def _run(given: str, town: str) -> str:
    name = RunName.parse(given)
    if name.town != town:
        raise ServiceError(
            Reason.NAME_MALFORMED,
            f"cannot mix towns, {given} is not in towns/{town}: ask each by itself",
            value=given,
        )
    return run_key(name)


def _step(step: Step) -> pb.WatchRevocationsResponse:
    if step is SYNCED:
        return pb.WatchRevocationsResponse(synced=True)
    parent = EVERY_TOWN if step.town == ANY_TOWN else f"towns/{step.town}"
    runs = (key.split("/") for key in sorted(step.revoked.runs))
    return pb.WatchRevocationsResponse(
        town=parent,
        token_ids=sorted(step.revoked.token_ids),
        runs=[f"{parent}/agents/{agent}/runs/{run}" for agent, run in runs],
        token_generation=step.revoked.generation,
    )
