"""Why the registry refuses: each refusal worded once, for every store."""

from __future__ import annotations

from services.chassis.errors import Reason, ServiceError
from services.chassis.names import AgentName, InstanceName, MessageName, NudgeName
from services.registry.leases import INSTANCES_MAX


def agent_not_found(name: AgentName) -> ServiceError:
    return ServiceError(
        Reason.AGENT_NOT_FOUND,
        f"cannot find {name}: register it first",
        name=name,
    )


def etag_mismatch(name: AgentName, etag: str) -> ServiceError:
    return ServiceError(
        Reason.ETAG_MISMATCH,
        f"cannot change {name}, it changed meanwhile: read it again",
        name=name,
        etag=etag,
    )


def request_reused(request_id: str) -> ServiceError:
    return ServiceError(
        Reason.FIELD_INVALID,
        "cannot use this request_id, it came with another request: make a new one",
        field="request_id",
        request_id=request_id,
    )


def too_many_agents(town: str, limit: int) -> ServiceError:
    return ServiceError(
        Reason.TOO_MANY_AGENTS,
        f"cannot keep more than {limit} agents of one town: deregister ended ones",
        town=town,
        limit=limit,
    )


def lease_held(name: AgentName, holder: str, epoch: int) -> ServiceError:
    instance = InstanceName(name.town, holder)
    return ServiceError(
        Reason.LEASE_HELD,
        f"cannot have {name}, {instance} runs it: stop it there first",
        name=name,
        holder=instance,
        epoch=epoch,
    )


def slot_fenced(name: InstanceName, boot_id: str) -> ServiceError:
    return ServiceError(
        Reason.LEASE_FENCED,
        f"cannot act as {name}, another boot has the slot: end this process",
        holder=name,
        holder_boot_id=boot_id,
    )


def lease_fenced(
    name: AgentName, holder: str, boot_id: str, epoch: int
) -> ServiceError:
    """`holder` is a slot; empty when nobody holds the lease now."""
    who = str(InstanceName(name.town, holder)) if holder else ""
    return ServiceError(
        Reason.LEASE_FENCED,
        f"cannot act on {name} with a lease that is over: end its run",
        name=name,
        holder=who,
        holder_boot_id=boot_id,
        epoch=epoch,
    )


def instance_not_found(name: InstanceName) -> ServiceError:
    return ServiceError(
        Reason.INSTANCE_NOT_FOUND,
        f"cannot find a live {name}: register it first",
        name=name,
    )


def no_instance(town: str) -> ServiceError:
    return ServiceError(
        Reason.NO_INSTANCE,
        f"cannot name an instance, none of towns/{town} takes agents now: start one",
        town=town,
    )


def too_many_instances(town: str) -> ServiceError:
    return ServiceError(
        Reason.STORAGE_FULL,
        f"cannot register more than {INSTANCES_MAX} instances of one town: end some",
        town=town,
    )


def too_many_revocations(town: str, limit: int) -> ServiceError:
    return ServiceError(
        Reason.STORAGE_FULL,
        f"cannot remember more than {limit} revoked tokens of one town: revoke all of "
        "its tokens instead",
        town=town,
        limit=limit,
    )


def draining(name: InstanceName, nonce: str) -> ServiceError:
    return ServiceError(
        Reason.DRAINING,
        f"cannot give agents to {name}, it drains: claim from another instance",
        name=name,
        nonce=nonce,
    )


def no_start_request(name: AgentName, why: str) -> ServiceError:
    return ServiceError(
        Reason.NO_START_REQUEST,
        f"cannot start {name}: register it with a complete spec; {why}",
        name=name,
    )


def message_reused(name: MessageName) -> ServiceError:
    return ServiceError(
        Reason.MESSAGE_REUSED,
        f"cannot accept {name}, it was accepted with another content: use a new id",
        name=name,
    )


def message_not_found(name: MessageName) -> ServiceError:
    return ServiceError(
        Reason.MESSAGE_NOT_FOUND,
        f"cannot find {name}: list the inbox again",
        name=name,
    )


def inbox_full(name: AgentName, limit: int) -> ServiceError:
    return ServiceError(
        Reason.INBOX_FULL,
        f"cannot accept more than {limit} of these waiting for {name}: try later",
        name=name,
        limit=limit,
    )


def nudge_reused(name: NudgeName) -> ServiceError:
    return ServiceError(
        Reason.MESSAGE_REUSED,
        f"cannot accept {name}, it was accepted with another content: use a new id",
        name=name,
    )


def nudge_not_found(name: NudgeName) -> ServiceError:
    return ServiceError(
        Reason.MESSAGE_NOT_FOUND,
        f"cannot find {name}, it never was, or expired: list the nudges again",
        name=name,
    )


def settled_otherwise(name: MessageName, outcome: str) -> ServiceError:
    return ServiceError(
        Reason.FIELD_INVALID,
        f"cannot settle {name} again, it was {outcome}: repeat that outcome",
        field="outcome",
        name=name,
        outcome=outcome,
    )


def generation_required(name: MessageName) -> ServiceError:
    return ServiceError(
        Reason.FIELD_REQUIRED,
        f"cannot settle {name} without proof: set the generation saved after its turn",
        field="generation",
        name=name,
    )


def watcher_too_slow(town: str) -> ServiceError:
    return ServiceError(
        Reason.WATCHER_TOO_SLOW,
        "cannot keep more for a watcher that does not read: watch again, read faster",
        town=town,
    )


def resume_token_expired(town: str) -> ServiceError:
    return ServiceError(
        Reason.RESUME_TOKEN_EXPIRED,
        f"cannot go on in towns/{town} from this token, it is too old or of another "
        "town: watch again without a token",
        town=town,
    )
